"""`export --ngff`: other tools read our values, at every level, as OME-Zarr 0.4 and 0.6."""

import json
from pathlib import Path

import numpy as np
import ome_zarr_models.v04
import pytest
import zarr

from ssem_dask.storage import arrays, location
from ssem_dask.storage.exports import target
from ssem_dask.storage.volume import Volume
from ssem_dask.volumes.exporting import export_volume
from ssem_dask.volumes.importing import import_volume
from tests.support.exports import MIPS, make_volume, values_of

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units so small that a small volume has many."""
    monkeypatch.setattr(target, "UNIT_BYTES", 1 << 15)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
def test_ome_zarr_0_4(tmp_path: Path, dtype: str) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr"), dtype=dtype), str(tmp_path / "out.zarr")
    assert export_volume(source, out, form="ngff-0.4", cluster="serial").state == "complete"
    group = zarr.open_group(out, mode="r")
    assert group.metadata.zarr_format == 2
    kind = ome_zarr_models.v04.ImageLabel if dtype == "uint64" else ome_zarr_models.v04.Image
    kind.from_zarr(group)
    ours = Volume.open(out)
    assert (ours.info, ours.mips) == (Volume.open(source).info, (0, 1, 2))
    for mip in range(MIPS):
        level = zarr.open_array(out, path=str(mip), mode="r", zarr_format=2)
        np.testing.assert_array_equal(level[:], values_of(source, mip))
        np.testing.assert_array_equal(values_of(out, mip), values_of(source, mip))
        assert level.chunks == (2, 32, 32)
        header = json.loads((tmp_path / "out.zarr" / str(mip) / ".zarray").read_text())
        assert header["dimension_separator"] == "/"
        assert (header["compressor"]["id"], header["compressor"]["cname"]) == ("blosc", "zstd")
    if dtype != "uint64":
        info = import_volume(out, str(tmp_path / "back.zarr"))
        assert info == ours.info
        np.testing.assert_array_equal(values_of(str(tmp_path / "back.zarr"), 0), values_of(source, 0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
def test_ome_zarr_0_6(tmp_path: Path, dtype: str) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr"), dtype=dtype), str(tmp_path / "out.zarr")
    assert export_volume(source, out, form="ngff-0.6", cluster="serial").state == "complete"
    theirs = arrays.group_attributes(source)
    attributes = json.loads((tmp_path / "out.zarr" / "zarr.json").read_text())["attributes"]
    assert attributes["ome"]["version"] == "0.6"
    assert ("image-label" in attributes["ome"]) == (dtype == "uint64")
    (image,) = attributes["ome"]["multiscales"]
    (system,) = image["coordinateSystems"]
    assert [(axis["name"], axis["unit"]) for axis in system["axes"]] == [(a, "nanometer") for a in "zyx"]
    # Levels are upon each other as in 0.5.
    assert theirs is not None
    for ours, wanted in zip(image["datasets"], theirs["ome"]["multiscales"][0]["datasets"], strict=True):
        (transform,) = ours["coordinateTransformations"]
        parts = transform.get("transformations", [{"type": "scale", "scale": transform.get("scale")}])
        assert parts == wanted["coordinateTransformations"]
    exported = Volume.open(out)
    assert (exported.info, exported.mips) == (Volume.open(source).info, (0, 1, 2))
    for mip in range(MIPS):
        np.testing.assert_array_equal(values_of(out, mip), values_of(source, mip))
    level = zarr.open_array(out, path="0", mode="r")
    assert level.shards is not None
    assert level.chunks == (2, 32, 32)
    if dtype != "uint64":
        assert import_volume(out, str(tmp_path / "back.zarr")) == exported.info


def test_levels_lie_upon_each_other_in_0_4(tmp_path: Path) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), str(tmp_path / "out.zarr")
    export_volume(source, out, form="ngff-0.4", cluster="serial")
    theirs = arrays.group_attributes(source)
    attributes = json.loads((tmp_path / "out.zarr" / ".zattrs").read_text())
    assert theirs is not None
    assert attributes["multiscales"][0]["datasets"] == theirs["ome"]["multiscales"][0]["datasets"]
    assert attributes["multiscales"][0]["version"] == "0.4"


def test_ome_zarr_0_4_at_any_url(tmp_path: Path) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), "memory://exported.zarr"
    try:
        export_volume(source, out, form="ngff-0.4", cluster="serial")
        np.testing.assert_array_equal(values_of(out, 1), values_of(source, 1))
    finally:
        location.delete(out, recursive=True)
