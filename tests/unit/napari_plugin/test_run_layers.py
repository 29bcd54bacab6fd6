"""Layers of a run for napari: they read the stored pixels, in nm; places that need a look are points."""

from pathlib import Path

import numpy as np
import pytest

from ssem_dask.errors import SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.napari_plugin.napari_reader import get_reader
from ssem_dask.napari_plugin.run_layers import read_run_view, warped_layers
from ssem_dask.storage.volume import Volume
from tests.support.fabricated_run import Fabricated
from tests.support.field_runs import PIXEL_NM, SHAPE, THICKNESS_NM, make_field_run
from tests.support.spoilt_run import fabricate_spoilt_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    return fabricate_spoilt_run(tmp_path_factory.mktemp("run"))


def test_a_run_is_layers_in_nm(made: Fabricated) -> None:
    view = read_run_view(made.url)
    layers = {options["name"]: (data, options, kind) for data, options, kind in view.layers}
    names = list(layers)
    assert names[:2] == ["source", "aligned"]
    assert names[-2:] == ["worst places", "sections that need a look"]
    assert [name.startswith("confidence to section z-") for name in names[2:-2]] == [True] * (len(names) - 4)
    assert len(names) > 4
    levels, options, kind = layers["aligned"]
    assert (kind, options["multiscale"], options["visible"]) == ("image", True, True)
    assert options["scale"] == (40.0, 2.5, 2.5)
    stored = Volume.open(f"{made.url}/aligned")
    assert [level.shape for level in levels] == [stored.shape_at(mip) for mip in stored.mips]
    z = made.bad[0]
    for mip in (0, 2):
        box = Box((z, 0, 0), (z + 1, 300, 200), mip)
        np.testing.assert_array_equal(levels[mip][z, :300, :200], stored.read(box)[0])
    assert "1 of 8 sections needs a look: 5 (S006.tif) fold" in view.verdict


def test_a_node_is_where_its_value_belongs(made: Fabricated) -> None:
    view = read_run_view(made.url)
    (nodes, options, _), *_ = [layer for layer in view.layers if layer[1]["name"].startswith("confidence")]
    spacing = options["scale"][1] / 2.5
    # Node i is at (i + 1/2) spacings from the corner of pixel 0, whose centre is at 0 nm.
    assert options["translate"][1:] == (((spacing / 2) - 0.5) * 2.5,) * 2
    assert nodes.shape[0] == 8
    assert nodes[0].dtype == np.float32


def test_places_are_points_with_names(made: Fabricated) -> None:
    view = read_run_view(made.url)
    assert [place.title for place in view.spoilt] == ["section 5 (S006.tif) fold"]
    worst = {place.z: place for place in view.worst}
    assert made.bad[0] in worst
    assert "Similarity" in worst[made.bad[0]].title
    points, options, kind = view.layers[-2]
    assert kind == "points"
    assert options["features"]["name"] == [place.title for place in view.worst]
    np.testing.assert_allclose(points * options["scale"], [view.world(place) for place in view.worst])
    assert view.world(view.spoilt[0]) == (200.0, (1024 - 0.5) * 2.5, (1024 - 0.5) * 2.5)


def test_another_volume_is_warped_as_it_is_looked_at(tmp_path: Path) -> None:
    import ssem_dask

    run = make_field_run(tmp_path, pixels=True)
    (levels, options, kind), *others = warped_layers(run, str(tmp_path / "source.zarr"), labels=False)
    assert (kind, others) == ("image", [])
    assert options["scale"] == (THICKNESS_NM, PIXEL_NM, PIXEL_NM)
    warped = ssem_dask.open_alignment(run).warp(tmp_path / "source.zarr")
    np.testing.assert_array_equal(levels[0][:3], warped[:3].compute(scheduler="synchronous"))
    assert [level.shape for level in levels] == [SHAPE, (6, 75, 59), (6, 38, 30)]
    ((ids, options, kind),) = warped_layers(run, str(tmp_path / "source.zarr"), labels=True)
    assert (kind, "contrast_limits" in options) == ("labels", False)
    np.testing.assert_array_equal(
        ids[0][3], ssem_dask.open_alignment(run).warp(tmp_path / "source.zarr", z=3, labels=True)
    )


def test_something_else_is_left_to_other_readers(tmp_path: Path, made: Fabricated) -> None:
    assert get_reader(str(tmp_path)) is None
    assert get_reader(f"{made.url}/aligned") is None
    assert get_reader([made.url]) is None
    reader = get_reader(made.url)
    assert reader is not None
    assert len(reader(made.url)) == len(read_run_view(made.url).layers)
    with pytest.raises(SourceError):
        read_run_view(str(tmp_path / "none.zarr"))
