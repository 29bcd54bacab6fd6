"""N5 and neuroglancer-precomputed are imported as they are, axes turned round; without the package, a sentence."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.errors import MissingExtraError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from ssem_dask.volumes.importing import import_volume

needs_tensorstore = pytest.mark.skipif(importlib.util.find_spec("tensorstore") is None, reason="needs tensorstore")
SHAPE = (5, 70, 90)


def write_n5(folder: Path, values: AnyArray, attributes: dict[str, Any]) -> None:
    import tensorstore

    store = tensorstore.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": str(folder)}, "metadata": attributes},
        create=True,
        dtype=values.dtype.name,
        shape=values.shape[::-1],
    ).result()
    store[...] = values.T


def write_precomputed(folder: Path, values: AnyArray, *, offset: tuple[int, int, int]) -> None:
    import tensorstore

    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": str(folder)},
            "multiscale_metadata": {"type": "image", "data_type": values.dtype.name, "num_channels": 1},
            "scale_metadata": {
                "size": list(values.shape[::-1]),
                "voxel_offset": list(offset),
                "resolution": [4, 4, 35],
                "encoding": "raw",
                "chunk_size": [32, 32, 2],
            },
        },
        create=True,
    ).result()
    store[...] = values.T[..., None]


@pytest.fixture
def values() -> AnyArray:
    return np.random.default_rng(1).integers(1, 2**16, SHAPE, dtype=np.uint16)


@needs_tensorstore
@pytest.mark.parametrize("scales", [False, True])
def test_n5(tmp_path: Path, values: AnyArray, scales: bool) -> None:
    attributes = {"blockSize": [32, 32, 2], "compression": {"type": "gzip"}}
    folder = tmp_path / "volume.n5" / "em"
    write_n5(folder / "s0" if scales else folder, values, attributes)
    path = (folder / "s0" if scales else folder) / "attributes.json"
    resolution = {"pixelResolution": {"dimensions": [4.0, 4.0, 0.04], "unit": "nm"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **resolution}))
    info = import_volume(str(folder), str(tmp_path / "out.zarr"), section_thickness=40.0)
    assert (info.shape, info.dtype, info.pixel_size) == (SHAPE, np.dtype("uint16"), 4.0)
    np.testing.assert_array_equal(Volume.open(str(tmp_path / "out.zarr")).read(Box((0, 0, 0), SHAPE)), values)


@needs_tensorstore
def test_precomputed_that_begins_anywhere(tmp_path: Path, values: AnyArray) -> None:
    write_precomputed(tmp_path / "pre", values, offset=(100, 200, 7))
    for url in (str(tmp_path / "pre"), f"precomputed://{tmp_path / 'pre'}"):
        source = open_any_format(url)
        sizes = source.info.sizes
        assert (source.info.shape, sizes.pixel_size, sizes.section_thickness) == (
            SHAPE,
            4.0,
            35.0,
        )
        band = source.read(z_start=1, z_stop=3, y_start=10, y_stop=20)
        np.testing.assert_array_equal(band, values[1:3, 10:20])


@needs_tensorstore
def test_a_damaged_block_is_named(tmp_path: Path, values: AnyArray) -> None:
    write_n5(tmp_path / "em", values, {"blockSize": [32, 32, 2], "compression": {"type": "gzip"}})
    (tmp_path / "em" / "0" / "0" / "0").write_bytes(b"no block")
    with pytest.raises(SourceError, match=r"em sections 0 to 1: cannot be decoded"):
        open_any_format(str(tmp_path / "em")).read(z_start=0, z_stop=2, y_start=0, y_stop=10)


@pytest.mark.parametrize(
    ("name", "content"), [("attributes.json", {"dimensions": [9, 9, 9]}), ("info", {"scales": [{}]})]
)
def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(MissingExtraError, match=r"needs tensorstore, not installed; .*'ssem_dask\[tensorstore\]'"):
        open_any_format(str(tmp_path))
