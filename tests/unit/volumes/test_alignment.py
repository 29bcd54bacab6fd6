"""`open_alignment`: points go there and back, sections of other channels are warped as the run warped its own."""

from pathlib import Path

import numpy as np
import pytest

import ssem_dask
from ssem_dask.errors import SourceError
from ssem_dask.field.affine import apply_affine, rotation_about
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.box import Box
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.fields import FieldInfo, create_field
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume

SHAPE = (2, 128, 96)
AFFINE = rotation_about(degrees=8.0, centre=(64.0, 48.0), shift=(3.0, -5.0), scale=1.03)


@pytest.fixture
def alignment(tmp_path: Path) -> ssem_dask.Alignment:
    """Section 0 is turned by a known affine; of section 1 nothing is known."""
    url = str(tmp_path / "run.zarr")
    volume = {"pixel_size": 5.0, "section_thickness": 40.0}
    create_run(url, attributes={"state": "complete", "source": "nowhere", "config": {"volume": volume}})
    field = create_field(
        f"{url}/fields/section",
        info=FieldInfo(spacing=16, shape_mip0=SHAPE),
        leading=(),
        components=True,
        chunks=(1, 2, 8, 6),
        shards=None,
    )
    positions = Grid.of_section((128, 96), spacing=16).positions().double()
    field[0] = (apply_affine(AFFINE, positions) - positions).float().numpy()
    return ssem_dask.open_alignment(url)


def test_the_record_is_given_as_plain_values(alignment: ssem_dask.Alignment) -> None:
    assert alignment.attributes["state"] == alignment.state == "complete"
    assert alignment.attributes["source"] == alignment.record.source


def test_points_follow_the_field(alignment: ssem_dask.Alignment) -> None:
    points = np.array([[0.0, 40.0, 30.0], [0.0, 70.5, 51.25]])
    mapped = alignment.map_points(points, to="source")
    expected = points[:, 1:] @ AFFINE[:, :2].T + AFFINE[:, 2]
    np.testing.assert_allclose(mapped[:, 1:], expected, atol=1e-3)
    np.testing.assert_array_equal(mapped[:, 0], 0)


def test_points_come_back(alignment: ssem_dask.Alignment) -> None:
    random = np.random.default_rng(0)
    points = np.column_stack([np.zeros(50), random.uniform(30, 98, 50), random.uniform(25, 70, 50)])
    there = alignment.map_points(points, to="source")
    np.testing.assert_allclose(alignment.map_points(there, to="aligned"), points, atol=0.01)


def test_points_follow_the_field_up_to_the_border(alignment: ssem_dask.Alignment) -> None:
    points = np.array([[0.0, 0.5, 0.5], [0.0, 127.5, 95.5], [0.0, 1.0, 95.0], [0.0, 64.0, 0.0]])
    mapped = alignment.map_points(points, to="source")
    np.testing.assert_allclose(mapped[:, 1:], points[:, 1:] @ AFFINE[:, :2].T + AFFINE[:, 2], atol=1e-3)
    np.testing.assert_allclose(alignment.map_points(mapped, to="aligned"), points, atol=0.01)


def test_a_turned_section_is_turned_up_to_the_border(alignment: ssem_dask.Alignment, tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(1, 255, size=SHAPE, dtype=np.uint8)
    info = VolumeInfo(shape=SHAPE, dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    volume = create_volume(str(tmp_path / "v.zarr"), info=info, chunk=(1, 128, 96), shard=(1, 128, 96), mips=1)
    volume.write(Box((0, 0, 0), SHAPE), image)
    positions = Grid.of_section((128, 96), spacing=16).positions().numpy()
    open_array(f"{alignment.url}/fields/section", mode="r+")[0] = np.array([128.0, 96.0])[:, None, None] - 2 * positions
    np.testing.assert_array_equal(alignment.warp(volume, z=0, kind="nearest"), image[0, ::-1, ::-1])
    part = Box((0, 0, 0), (1, 16, 96))
    np.testing.assert_array_equal(alignment.warp(volume, z=0, box=part, kind="bilinear"), image[0, :-17:-1, ::-1])


def test_points_of_an_unknown_section_are_unknown(alignment: ssem_dask.Alignment) -> None:
    point = np.array([[1.0, 40.0, 30.0]])
    for to in ("source", "aligned"):
        assert np.isnan(alignment.map_points(point, to=to)[0, 1:]).all()


def test_a_direction_that_is_none(alignment: ssem_dask.Alignment) -> None:
    with pytest.raises(ValueError, match="'source' or 'aligned'"):
        alignment.map_points(np.zeros((1, 3)), to="sideways")


def test_another_channel_is_warped(alignment: ssem_dask.Alignment, tmp_path: Path) -> None:
    y, x = np.mgrid[:128, :96] + 0.5
    info = VolumeInfo(shape=SHAPE, dtype=np.dtype("uint16"), pixel_size=5.0, section_thickness=40.0)
    channel = create_volume(str(tmp_path / "c.zarr"), info=info, chunk=(1, 64, 64), shard=(2, 128, 128), mips=1)
    values = np.stack([np.round(100 * y + x), np.ones_like(y)]).astype("uint16")
    channel.write(Box((0, 0, 0), SHAPE), values)
    warped = alignment.warp(channel, z=0, kind="bilinear")
    source_y, source_x = AFFINE[:, :2] @ np.array([64.5, 48.5]) + AFFINE[:, 2]
    assert warped[64, 48] == pytest.approx(100 * source_y + source_x, abs=2)
    part = alignment.warp(channel, z=0, box=Box((0, 32, 16), (1, 96, 80)), kind="bilinear")
    np.testing.assert_allclose(part, warped[32:96, 16:80], atol=1)
    assert (alignment.warp(channel, z=1) == 0).all()


def test_a_volume_of_another_shape_is_refused(alignment: ssem_dask.Alignment, tmp_path: Path) -> None:
    info = VolumeInfo(shape=(2, 64, 64), dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    other = create_volume(str(tmp_path / "o.zarr"), info=info, chunk=(1, 64, 64), shard=(2, 64, 64), mips=1)
    with pytest.raises(SourceError, match="2 sections of 64 × 64 px"):
        alignment.warp(other, z=0)
    with pytest.raises(SourceError, match="no alignment"):
        ssem_dask.open_alignment(str(tmp_path / "none.zarr"))
    assert Volume.open(other.url).info == info
