import numpy as np
import pytest

from ssem_dask.errors import ConventionError, SourceError
from ssem_dask.storage import arrays, location
from ssem_dask.storage.fields import FieldInfo, create_coarse, create_field, open_coarse, open_field

INFO = FieldInfo(spacing=8, shape_mip0=(5, 37, 70))


def test_section_field_has_the_attributes_of_the_contract(place: str):
    array = create_field(place, info=INFO, leading=(), components=True, chunks=(1, 2, 4, 4), shards=(5, 2, 8, 8))
    assert array.shape == (5, 2, 5, 9)
    assert array.dtype == np.float32
    assert dict(array.attrs) == {
        "axes": ["z", "c", "y", "x"],
        "components": ["y", "x"],
        "direction": "pull",
        "unit": "px@mip0",
        "spacing": 8,
        "shape_mip0": [5, 37, 70],
    }
    assert np.isnan(array[:]).all()  # unknown, never identity
    opened, info = open_field(place)
    assert info == INFO
    assert opened.shape == array.shape


def test_pairs_and_confidence(place: str):
    pairs, confidence = location.join(place, "r.zarr/fields/pairs"), location.join(place, "r.zarr/fields/confidence")
    create_field(pairs, info=INFO, leading=(3,), components=True, chunks=(1, 1, 2, 4, 4), shards=None)
    create_field(confidence, info=INFO, leading=(3,), components=False, chunks=(1, 1, 4, 4), shards=None)
    assert open_field(pairs)[0].shape == (3, 5, 2, 5, 9)
    assert open_field(confidence)[0].shape == (3, 5, 5, 9)
    array, _ = open_field(pairs, mode="r+")
    array[1, 2] = 0.5
    assert np.asarray(open_field(pairs)[0][1, 2]).mean() == 0.5


def test_coarse(place: str):
    array = create_coarse(place, shape_mip0=(5, 37, 70))
    assert array.shape == (5, 2, 3)
    assert array.dtype == np.float64
    assert np.isnan(open_coarse(place)[:]).all()
    with pytest.raises(ConventionError, match="axes"):
        open_field(place)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("direction", "push"),
        ("components", ["x", "y"]),
        ("unit", "nm"),
        ("axes", ["z", "y", "x", "c"]),
        ("spacing", 16),
    ],
)
def test_other_conventions_are_refused(place: str, name: str, value):
    create_field(place, info=INFO, leading=(), components=True, chunks=(1, 2, 4, 4), shards=None)
    arrays.open_array(place, mode="r+").attrs[name] = value
    with pytest.raises(ConventionError, match="axes" if name == "axes" else str(value).replace("[", r"\[")):
        open_field(place)


@pytest.mark.parametrize("name", ["axes", "components", "direction", "unit", "spacing", "shape_mip0"])
def test_missing_attributes_are_refused(place: str, name: str):
    create_field(place, info=INFO, leading=(), components=True, chunks=(1, 2, 4, 4), shards=None)
    del arrays.open_array(place, mode="r+").attrs[name]
    with pytest.raises(ConventionError, match=f"'{name}' is missing"):
        open_field(place)


def test_nothing_there(place: str):
    with pytest.raises(SourceError, match="no Zarr array"):
        open_field(place)
    with pytest.raises(SourceError, match="no Zarr array"):
        open_coarse(place)
