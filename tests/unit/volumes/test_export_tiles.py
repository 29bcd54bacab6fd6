"""`export --vast` and what WEBKNOSSOS and neuroglancer open: each file that the descriptions name is there."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import zarr

from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage.exports.precomputed import PrecomputedTarget
from ssem_dask.storage.exports.zarr_v3 import ZarrV3Target
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.volumes.exporting import export_volume
from ssem_dask.volumes.neuroglancer_link import neuroglancer_link
from tests.support.cli import ssem_dask
from tests.support.exports import MIPS, SHAPE, make_volume, values_of

imagecodecs: Any = pytest.importorskip("imagecodecs")
pytestmark = pytest.mark.slow

CHANNELS = ("BSD", "SE2")


def make_channels(url: str) -> str:
    info = VolumeInfo(
        shape=(2, 60, 70), dtype=np.dtype("uint8"), pixel_size=4.0, section_thickness=40.0, channels=CHANNELS
    )
    volume = create_volume(url, info=info, chunk=(1, 32, 32), shard=(2, 64, 64), mips=1)
    values = np.random.default_rng(4).integers(1, 255, (2, *info.shape), dtype=np.uint8)
    for channel, pixels in zip(volume.each_channel, values, strict=True):
        channel.write(Box((0, 0, 0), info.shape), pixels)
    return url


def read_tiles(folder: Path, name: str, *, mip: int) -> Any:
    """The whole level, put together as VAST does: from the templates, the sequence of parameters and the ranges."""
    description = json.loads((folder / name).read_text())
    is_first = mip == 0
    template = description["SourceFileNameTemplate" if is_first else "MipMapFileNameTemplate"]
    sequence = description["SourceParamSequence" if is_first else "MipMapParamSequence"]
    height, width = description["SourceTileSizeY"], description["SourceTileSizeX"]
    shape = [-(-description[f"TargetDataSize{axis}"] // 2**mip) for axis in "YX"]
    assert mip == 0 or description["SourceMinM"] <= mip <= description["SourceMaxM"]
    sections = []
    for z in range(description["SourceMinS"], description["SourceMaxS"] + 1):
        rows = []
        for row in range(1, -(-shape[0] // height) + 1):
            assert row <= description["SourceMaxR"]
            columns = range(1, -(-shape[1] // width) + 1)
            names = {"s": z, "r": row, "m": mip}
            files = [template % tuple({**names, "c": column}[key] for key in sequence) for column in columns]
            tiles = [imagecodecs.png_decode((folder / file).read_bytes()) for file in files]
            assert {tile.shape for tile in tiles} == {(height, width)}
            rows.append(np.concatenate(tiles, axis=1))
        sections.append(np.concatenate(rows, axis=0)[: shape[0], : shape[1]])
    assert len(sections) == description["TargetDataSizeZ"]
    return np.stack(sections)


def test_tiles_for_vast(tmp_path: Path) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), tmp_path / "out"
    words = ["export", source, str(out), "--vast", "--chunk", "1", "64", "48", "--cluster", "serial"]
    assert ssem_dask(*words).returncode == 0
    for mip in range(MIPS):
        np.testing.assert_array_equal(read_tiles(out, "out.vsvi", mip=mip), values_of(source, mip))
    description = json.loads((out / "out.vsvi").read_text())
    assert [description[f"TargetVoxelSize{axis}nm"] for axis in "XYZ"] == [4.6, 4.6, 50.0]
    assert [description[f"TargetDataSize{axis}"] for axis in "XYZ"] == list(SHAPE[::-1])


def test_tiles_of_channels(tmp_path: Path) -> None:
    source, out = make_channels(str(tmp_path / "c.zarr")), tmp_path / "out"
    assert export_volume(source, str(out), form="vast", cluster="serial").state == "complete"
    for i, channel in enumerate(Volume.open(source).each_channel):
        tiles = read_tiles(out, f"out-{i}.vsvi", mip=0)
        np.testing.assert_array_equal(tiles, channel.read(Box((0, 0, 0), channel.info.shape)))


def test_what_vast_does_not_show(tmp_path: Path) -> None:
    wide = make_volume(str(tmp_path / "w.zarr"), dtype="uint16")
    with pytest.raises(SourceError, match="uint16 pixels"):
        export_volume(wide, str(tmp_path / "out"), form="vast", cluster="serial")
    source = make_volume(str(tmp_path / "v.zarr"))
    with pytest.raises(SourceError, match="has labels"):
        export_volume(source, str(tmp_path / "out"), form="vast", labels=True, cluster="serial")
    with pytest.raises(ConfigError, match="give 1 Y X"):
        export_volume(source, str(tmp_path / "out"), form="vast", chunk=(2, 64, 64), cluster="serial")


@pytest.mark.parametrize(("form", "data_format"), [("ngff-0.4", "zarr"), ("ngff-0.6", "zarr3")])
def test_the_folder_is_a_dataset_of_webknossos(tmp_path: Path, form: Any, data_format: str) -> None:
    for source, layers in (
        (make_channels(str(tmp_path / "c.zarr")), CHANNELS),
        (make_volume(str(tmp_path / "v.zarr")), ("color",)),
        (make_volume(str(tmp_path / "l.zarr"), dtype="uint64"), ("segmentation",)),
    ):
        out = Path(f"{source}.out")
        export_volume(source, str(out), form=form, cluster="serial")
        volume = Volume.open(source)
        described = json.loads((out / "datasource-properties.json").read_text())
        assert described["scale"] == {
            "factor": [volume.info.pixel_size, volume.info.pixel_size, volume.info.section_thickness],
            "unit": "nanometer",
        }
        assert tuple(layer["name"] for layer in described["dataLayers"]) == layers
        for layer, channel in zip(described["dataLayers"], volume.each_channel, strict=True):
            box = layer["boundingBox"]
            assert [box["depth"], box["height"], box["width"]] == list(volume.info.shape)
            assert layer["dataFormat"] == data_format
            assert layer["elementClass"] == volume.info.dtype.name
            assert [mag["mag"] for mag in layer["mags"]] == [[2**mip, 2**mip, 1] for mip in volume.mips]
            for mip, mag in enumerate(layer["mags"]):
                array = zarr.open_array(str(out / mag["path"]), mode="r")
                order = mag["axisOrder"]
                stored: Any = array[mag["channelIndex"]] if "c" in order else array[:]
                assert [order[axis] - ("c" in order) for axis in "zyx"] == [0, 1, 2]
                np.testing.assert_array_equal(stored, channel.read(Box((0, 0, 0), channel.shape_at(mip), mip)))


def test_there_is_no_dataset_of_values_that_webknossos_does_not_show(tmp_path: Path) -> None:
    for dtype, is_shown in (("float32", True), ("float64", False)):
        source, out = str(tmp_path / f"{dtype}.zarr"), tmp_path / f"{dtype}.out"
        info = VolumeInfo(shape=(2, 40, 40), dtype=np.dtype(dtype), pixel_size=4.0, section_thickness=40.0)
        create_volume(source, info=info, chunk=(1, 32, 32), shard=(2, 64, 64), mips=1)
        export_volume(source, str(out), form="ngff-0.6", cluster="serial")
        assert (out / "zarr.json").exists()
        assert (out / "datasource-properties.json").exists() == is_shown


def test_a_link_opens_what_browsers_can_reach() -> None:
    info = VolumeInfo(shape=(10, 200, 300), dtype=np.dtype("uint8"), pixel_size=4.0, section_thickness=40.0)
    common: dict[str, Any] = {"info": info, "mips": 2, "chunk": (1, 64, 64), "depth": 1, "labels": False}
    link = neuroglancer_link(ZarrV3Target(url="s3://bucket/a volume.zarr", sharded=True, **common))
    assert link is not None
    address, _, text = link.partition("/#!")
    assert address == "https://neuroglancer-demo.appspot.com"
    assert " " not in text
    state = json.loads(unquote(text))
    assert state["layers"][0]["source"] == "s3://bucket/a volume.zarr/|zarr3:"
    assert state["position"] == [150, 100, 5]
    assert state["dimensions"]["x"] == [4e-9, "m"]
    assert state["dimensions"]["z"] == [4e-8, "m"]
    labels = neuroglancer_link(PrecomputedTarget(url="gs://b/l", sharded=True, **{**common, "labels": True}))
    assert labels is not None
    assert json.loads(unquote(labels.partition("/#!")[2]))["layers"][0]["type"] == "segmentation"
    assert neuroglancer_link(ZarrV3Target(url="/data/v.zarr", sharded=True, **common)) is None
