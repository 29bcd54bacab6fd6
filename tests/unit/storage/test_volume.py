import dataclasses
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ome_zarr_models.v05
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.errors import OutputError, PlanError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.formats.source import ReadOptions
from ssem_dask.storage.formats.zarr_array import ZarrSource
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.storage.volume_checks import IMPORT_KEY, check_image_dtype, check_sections

INFO = VolumeInfo(shape=(5, 37, 70), dtype=np.dtype(np.uint8), pixel_size=4.0, section_thickness=40.0)
LAYOUT: dict[str, Any] = {"chunk": (1, 8, 8), "shard": (2, 16, 32), "mips": 3}


def filled(url: str, *, seed: int) -> tuple[Volume, dict[int, np.ndarray]]:
    volume = create_volume(url, info=INFO, **LAYOUT)
    generator = np.random.default_rng(seed)
    values = {mip: generator.integers(0, 255, volume.shape_at(mip), dtype=np.uint8) for mip in volume.mips}
    for mip in volume.mips:
        for box in chunk_boxes(volume.shape_at(mip), chunk=volume.write_unit(mip), mip=mip):
            volume.write(box, values[mip][box.slices])
    return volume, values


def test_what_is_made_is_what_is_opened(place: str):
    made, values = filled(place, seed=1)
    opened = Volume.open(place)
    assert opened.info == made.info == INFO
    assert opened.mips == (0, 1, 2)
    assert [opened.shape_at(mip) for mip in range(4)] == [(5, 37, 70), (5, 19, 35), (5, 10, 18), (5, 5, 9)]
    assert [opened.stored_mip(mip) for mip in range(5)] == [0, 1, 2, 2, 2]
    assert opened.chunk(0) == (1, 8, 8)
    assert [opened.write_unit(mip) for mip in range(3)] == [(2, 16, 32), (2, 16, 32), (2, 16, 24)]
    for mip in opened.mips:
        np.testing.assert_array_equal(opened.read(Box((0, 0, 0), opened.shape_at(mip), mip)), values[mip])


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, int, int]) -> Box:
    ends = [sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2))) for n in shape]
    (z0, z1), (y0, y1), (x0, x1) = ends
    return Box((z0, y0, x0), (z1, y1, x1))


@pytest.fixture(scope="module")
def written() -> Iterator[tuple[Volume, np.ndarray]]:
    url = f"memory://{uuid.uuid4().hex}"
    _, values = filled(url, seed=3)
    yield Volume.open(url), values[0]
    location.delete(url, recursive=True)


@settings(deadline=None)
@given(box=boxes(INFO.shape))
def test_any_box_reads_what_whole_shards_wrote(written: tuple[Volume, np.ndarray], box: Box):
    volume, values = written
    np.testing.assert_array_equal(volume.read(box), values[box.slices])


@settings(deadline=None, max_examples=40)
@given(box=boxes(INFO.shape))
def test_a_box_is_written_whole_or_refused(box: Box):
    url = f"memory://{uuid.uuid4().hex}"
    volume = create_volume(url, info=INFO, chunk=(1, 8, 8), shard=(2, 16, 32), mips=1)
    values = np.full(box.shape, 9, np.uint8)
    whole = box.size > 0 and all(
        a % unit == 0 and (b % unit == 0 or b == n)
        for a, b, unit, n in zip(box.start, box.stop, (2, 16, 32), INFO.shape, strict=True)
    )
    try:
        if whole:
            volume.write(box, values)
            expected = np.zeros(INFO.shape, np.uint8)
            expected[box.slices] = 9
            np.testing.assert_array_equal(volume.read(Box((0, 0, 0), INFO.shape)), expected)
        else:
            with pytest.raises(PlanError, match="whole shards"):
                volume.write(box, values)
    finally:
        location.delete(url, recursive=True)


def test_what_was_never_written_is_zero(place: str):
    volume = create_volume(place, info=INFO, **LAYOUT)
    assert not volume.read(Box((0, 0, 0), (5, 10, 18), 2)).any()


def test_boxes_and_values_that_do_not_fit_are_refused(place: str):
    volume = create_volume(place, info=INFO, **LAYOUT)
    with pytest.raises(PlanError, match="leaves the volume"):
        volume.read(Box((0, 0, 0), (5, 38, 70)))
    with pytest.raises(PlanError, match="mip 3 is not stored"):
        volume.read(Box((0, 0, 0), (1, 1, 1), 3))
    with pytest.raises(PlanError, match="uint16"):
        volume.write(Box((0, 0, 0), (2, 16, 32)), np.zeros((2, 16, 32), np.uint16))
    with pytest.raises(PlanError, match="got values"):
        volume.write(Box((0, 0, 0), (2, 16, 32)), np.zeros((2, 16, 31), np.uint8))


def test_making_it_again_keeps_it_and_another_layout_is_refused(place: str):
    _, values = filled(place, seed=2)
    again = create_volume(place, info=INFO, **LAYOUT)
    np.testing.assert_array_equal(again.read(Box((0, 0, 0), INFO.shape)), values[0])
    with pytest.raises(OutputError, match="shape"):
        create_volume(place, info=dataclasses.replace(INFO, shape=(6, 37, 70)), **LAYOUT)


def test_metadata_is_valid_ome_zarr_and_mips_lie_on_each_other(place: str):
    create_volume(place, info=INFO, **LAYOUT)
    group = zarr.open_group(location.open_store(place, read_only=True), mode="r")
    image = ome_zarr_models.v05.Image.from_zarr(group)
    datasets = image.ome_attributes.multiscales[0].datasets
    assert [axis.unit for axis in image.ome_attributes.multiscales[0].axes] == ["nanometer"] * 3
    for mip, dataset in enumerate(datasets):
        transformations = {entry.type: getattr(entry, entry.type) for entry in dataset.coordinateTransformations}
        scale = transformations["scale"]
        offset = transformations.get("translation", [0.0] * 3)
        assert scale == [40.0, 4.0 * 2**mip, 4.0 * 2**mip]
        # NGFF: index 0 is the centre of pixel 0. Its lower corner must be the same at every mip.
        assert offset[1] - scale[1] / 2 == pytest.approx(-4.0 / 2)
        assert offset[0] == 0


def test_reads_ome_zarr_0_4_in_micrometres(place: str):
    root = zarr.open_group(location.open_store(place, read_only=False), mode="w", zarr_format=2)
    shapes = [(4, 20, 30), (4, 10, 15), (4, 3, 4)]
    for mip, shape in enumerate(shapes):
        root.create_array(f"s{mip}", shape=shape, chunks=(1, 8, 8), dtype="uint16")[:] = mip + 1
    axes: list[Any] = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    datasets: list[Any] = [
        {
            "path": f"s{mip}",
            "coordinateTransformations": [{"type": "scale", "scale": [0.05, 0.002 * 2**mip, 0.002 * 2**mip]}],
        }
        for mip in range(3)
    ]
    common: list[Any] = [{"type": "scale", "scale": [1, 2, 2]}]
    root.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": datasets, "coordinateTransformations": common}
    ]
    volume = Volume.open(place)
    assert volume.info.pixel_size == pytest.approx(4.0)
    assert volume.info.section_thickness == pytest.approx(50.0)
    assert volume.mips == (0, 1)  # the third level is not half of the second
    assert volume.read(Box((0, 0, 0), (1, 1, 1), 1)).item() == 2
    assert Volume.open(place, pixel_size=8).info.pixel_size == 8


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_reads_a_plain_array_whose_sizes_are_given(place: str, zarr_format: Literal[2, 3]):
    values = np.random.default_rng(0).integers(0, 2**16, (3, 20, 30), dtype=np.uint16)
    array = zarr.create_array(
        location.open_store(place, read_only=False),
        shape=values.shape,
        chunks=(1, 8, 8),
        dtype=values.dtype,
        zarr_format=zarr_format,
    )
    array[:] = values
    volume = Volume.open(place, pixel_size=4, section_thickness=40)
    box = Box((1, 3, 5), (3, 20, 29))
    np.testing.assert_array_equal(volume.read(box), values[box.slices])
    with pytest.raises(SourceError, match="its pixel size is unknown"):
        Volume.open(place, section_thickness=40)
    with pytest.raises(SourceError, match="its section thickness is unknown"):
        Volume.open(place, pixel_size=4)
    with pytest.raises(SourceError, match="must be positive"):
        Volume.open(place, pixel_size=-4, section_thickness=40)


def test_other_groups_are_refused_with_what_to_do(place: str):
    arrays.create_group(place, attributes={})
    with pytest.raises(SourceError, match="without OME-Zarr image metadata"):
        Volume.open(place)
    arrays.create_group(place, attributes={"ssem_dask": {}})
    with pytest.raises(SourceError, match=r"its image is .*/aligned"):
        Volume.open(place)
    with pytest.raises(SourceError, match="no Zarr array"):
        Volume.open(location.join(place, "nothing"))


def test_an_unfinished_import_is_refused(place: str):
    create_volume(place, info=INFO, **LAYOUT, attributes={IMPORT_KEY: {"state": "importing"}})
    with pytest.raises(SourceError, match="import was not finished"):
        Volume.open(place)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda image: image["axes"].reverse(), "axes are x, y, z"),
        (lambda image: image.pop("datasets"), "metadata cannot be read"),
        (lambda image: image["datasets"][0]["coordinateTransformations"][0]["scale"].pop(), "metadata cannot be read"),
        (lambda image: image["datasets"][0]["coordinateTransformations"][0]["scale"].__setitem__(1, 9.0), "square"),
        (lambda image: image["axes"][0].pop("unit"), "its section thickness is unknown"),
    ],
)
def test_metadata_that_is_not_ours(place: str, change, sentence: str):
    create_volume(place, info=INFO, **LAYOUT)
    attributes = ngff.image_attributes(ngff.ImageMetadata(name="a", pixel_size=4, section_thickness=40, mips=3))
    change(attributes["ome"]["multiscales"][0])
    arrays.create_group(place, attributes=attributes)
    with pytest.raises(SourceError, match=sentence):
        Volume.open(place)


def test_a_big_endian_array_reads_in_native_order(place: str):
    array = zarr.create_array(
        location.open_store(place, read_only=False), shape=(2, 4, 4), chunks=(1, 4, 4), dtype=">u2", zarr_format=2
    )
    array[:] = 258
    volume = Volume.open(place, pixel_size=4, section_thickness=40)
    values = volume.read(Box((0, 0, 0), (2, 4, 4)))
    assert volume.info.dtype == values.dtype == np.dtype(np.uint16)
    assert values.dtype.isnative
    assert values.max() == 258


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32", "bool"])
def test_only_grey_values_can_be_aligned(dtype: str):
    with pytest.raises(SourceError, match=f"v: images are {dtype}"):
        check_image_dtype("v", np.dtype(dtype))


def test_two_sections_can_be_aligned_and_one_cannot():
    check_image_dtype("v", np.dtype(np.uint16))
    check_sections("v", (2, 1, 1))
    for shape in ((1, 4, 4), (0, 4, 4), (2, 0, 4)):
        with pytest.raises(SourceError):
            check_sections("v", shape)


@pytest.mark.parametrize("record", [None, 5, "complete", [], [{"state": "complete"}]])
def test_a_record_of_another_kind_is_one_sentence(place: str, record: Any):
    filled(place, seed=1)
    arrays.create_group(place, attributes={IMPORT_KEY: record})
    for open_volume in (Volume.open, lambda url: ZarrSource(url, ReadOptions())):
        with pytest.raises(SourceError, match=f"its attribute {IMPORT_KEY} cannot be read"):
            open_volume(place)


@pytest.mark.parametrize("name", [None, 5, ["z"], {}])
def test_names_of_axes_that_are_no_names_are_one_sentence(place: str, name: Any):
    filled(place, seed=1)
    ome: Any = arrays.group_attributes(place)
    ome["ome"]["multiscales"][0]["axes"][0]["name"] = name
    arrays.create_group(place, attributes=ome)
    for open_volume in (Volume.open, lambda url: ZarrSource(url, ReadOptions())):
        with pytest.raises(SourceError, match="its OME-Zarr metadata cannot be read"):
            open_volume(place)


@pytest.mark.parametrize("shape", [(10**12, 64, 64), (5, 10**9, 64), (5, 64, 10**9)])
def test_more_than_any_tissue_is_one_sentence(tmp_path: Path, shape: tuple[int, int, int]):
    zarr.create_array(str(tmp_path / "a"), shape=shape, chunks=(1, 64, 64), dtype="u1")
    with pytest.raises(SourceError, match="its metadata declare"):
        Volume.open(str(tmp_path / "a"), pixel_size=4, section_thickness=40)
