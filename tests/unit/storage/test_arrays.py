import contextlib
import json

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from ssem_dask.errors import OutputError, PlanError, SourceError
from ssem_dask.storage import arrays, location


def make(url: str, **changes):
    options = {
        "shape": (5, 33, 40),
        "dtype": "uint8",
        "axes": ("z", "y", "x"),
        "chunks": (1, 8, 8),
        "shards": (2, 16, 16),
        "fill_value": 0,
        "attributes": {"a": [1, 2]},
    }
    return arrays.create_array(url, **{**options, **changes})


def test_made_arrays_are_v3_sharded_and_checksummed(place: str):
    array = make(location.join(place, "run.zarr/a/b"))
    assert array.metadata.zarr_format == 3
    assert array.shards == (2, 16, 16)
    assert array.metadata.dimension_names == ("z", "y", "x")
    assert "crc32c" in str(array.metadata.to_dict()["codecs"])
    for group in ("run.zarr", "run.zarr/a"):
        assert arrays.group_attributes(location.join(place, group)) == {}
    assert not arrays.is_node(place)  # a *.zarr folder is the top of its hierarchy


def test_groups_are_made_up_to_the_nearest_group(place: str):
    arrays.create_group(place, attributes={"top": 1})
    make(location.join(place, "a/b/c"))
    assert arrays.group_attributes(place) == {"top": 1}
    assert [name for name, _ in zarr.open_group(location.open_store(place, read_only=True), mode="r").groups()] == ["a"]


def test_an_array_alone_makes_no_groups(tmp_path):
    make(str(tmp_path / "deep" / "array"))
    assert not arrays.is_node(str(tmp_path / "deep"))


def test_making_it_again_keeps_what_it_holds(place: str):
    make(place)[0:2, 0:16, 0:16] = 7
    assert np.asarray(make(place)[0, 0, 0]) == 7


@pytest.mark.parametrize(
    "changes", [{"shape": (6, 33, 40)}, {"dtype": "uint16"}, {"shards": None}, {"attributes": {"a": [1, 3]}}]
)
def test_another_array_in_the_way_is_refused(place: str, changes: dict):
    make(place)
    with pytest.raises(OutputError, match=f"with {next(iter(changes))}"):
        make(place, **changes)


def test_a_group_in_the_way_is_refused(place: str):
    arrays.create_group(place, attributes={})
    with pytest.raises(OutputError, match="group is there"):
        make(place)


def test_an_array_in_the_way_of_a_group_is_refused(place: str):
    make(place)
    with pytest.raises(OutputError, match="array is there"):
        arrays.create_group(place, attributes={})


def test_shards_of_half_chunks_are_refused(place: str):
    with pytest.raises(PlanError, match="whole chunks"):
        make(place, shards=(2, 12, 16))


def test_nothing_there(place: str):
    assert arrays.group_attributes(place) is None
    with pytest.raises(SourceError, match="no Zarr array"):
        arrays.open_array(place, mode="r")


@given(
    start=st.tuples(*[st.integers(0, 39)] * 3),
    extent=st.tuples(*[st.integers(1, 40)] * 3),
)
def test_whole_shards_means_no_shard_is_shared_with_the_rest(start, extent):
    array = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(5, 33, 40), chunks=(1, 8, 8), shards=(2, 16, 16), dtype="uint8"
    )
    index = tuple(slice(min(a, n - 1), min(a + e, n)) for a, e, n in zip(start, extent, array.shape, strict=True))
    inside = np.zeros(array.shape, bool)
    inside[index] = True
    shared = any(
        inside[z : z + 2, y : y + 16, x : x + 16].any() and not inside[z : z + 2, y : y + 16, x : x + 16].all()
        for z in range(0, 5, 2)
        for y in range(0, 33, 16)
        for x in range(0, 40, 16)
    )
    assert arrays.covers_write_units(array, index) == (not shared)


def test_a_flipped_bit_in_a_shard_is_noticed(tmp_path):
    url = str(tmp_path / "a")
    make(url)[0:2, 0:16, 0:16] = np.random.default_rng(0).integers(0, 255, (2, 16, 16), dtype=np.uint8)
    shard = tmp_path / "a" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        _ = arrays.open_array(url, mode="r")[0:1, 0:8, 0:8]


def test_damaged_metadata_is_one_sentence(place: str):
    make(place)
    location.write_bytes(location.join(place, "zarr.json"), b'{"zarr_format": 3, "node_')
    with pytest.raises(SourceError, match="metadata cannot be read"):
        arrays.open_array(place, mode="r")
    with pytest.raises(SourceError, match="metadata cannot be read"):
        arrays.group_attributes(place)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"5",
        b'"x"',
        b"1e999",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b'{"zarr_format": 9}',
    ],
)
def test_metadata_of_any_kind_are_one_sentence(place: str, content: bytes):
    """Whether an array or a group should be there, reading and writing end in a sentence that names the place."""
    make(place)
    location.write_bytes(location.join(place, "zarr.json"), content)
    with pytest.raises(SourceError, match=r"metadata cannot be read|no Zarr array"):
        arrays.open_array(place, mode="r")
    with pytest.raises(OutputError):
        make(place)
    with pytest.raises(OutputError):
        arrays.create_group(place, attributes={})
    with contextlib.suppress(SourceError):
        assert arrays.group_attributes(place) is None


def test_a_fill_value_that_the_type_cannot_hold_is_one_sentence(place: str):
    make(place)
    metadata = json.loads(location.read_bytes(location.join(place, "zarr.json")))
    location.write_bytes(location.join(place, "zarr.json"), json.dumps({**metadata, "fill_value": -1}).encode())
    with pytest.raises(SourceError, match="Zarr metadata cannot be read"):
        arrays.open_array(place, mode="r")
