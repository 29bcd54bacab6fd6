"""The fused pipeline is used by our code alone: the host process keeps its own selection."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import zarr
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline

from ssem_dask.geometry.box import Box
from ssem_dask.storage import arrays, codec_pipeline
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.volume import VolumeInfo, create_volume

DEFAULT = "zarr.core.codec_pipeline.BatchedCodecPipeline"


class FusedCodecPipeline(BatchedCodecPipeline):
    """Replacement for the pipeline of zarr >= 3.3."""


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The path of the fused pipeline: zarr's own, or a stand-in for older versions."""
    monkeypatch.delenv("ZARR_CODEC_PIPELINE__PATH", raising=False)
    if not hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):
        path = f"{FusedCodecPipeline.__module__}.{FusedCodecPipeline.__qualname__}"
        register_pipeline(FusedCodecPipeline)
        monkeypatch.setattr(zarr.core.codec_pipeline, "FusedCodecPipeline", FusedCodecPipeline, raising=False)
        monkeypatch.setattr(codec_pipeline, "_FUSED", path)
    assert selected() == DEFAULT
    yield codec_pipeline._FUSED
    assert selected() == DEFAULT


def selected() -> str:
    return str(zarr.config.get("codec_pipeline.path"))


def test_importing_the_package_leaves_zarrs_configuration_alone() -> None:
    script = (
        "import copy, zarr\n"
        "before = copy.deepcopy(zarr.config.config)\n"
        "import ssem_dask.storage.arrays, ssem_dask.storage.volume, ssem_dask.storage.run_group\n"
        "from ssem_dask.storage.codec_pipeline import fused_codecs\n"
        "with fused_codecs(): pass\n"
        "assert zarr.config.config == before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_selection_holds_inside_alone(fused: str) -> None:
    with fused_codecs():
        assert selected() == fused
        with fused_codecs():
            assert selected() == fused
        assert selected() == fused
    assert selected() == DEFAULT


def test_a_selection_of_the_user_wins(fused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with zarr.config.set({"codec_pipeline.path": "mine"}), fused_codecs():
        assert selected() == "mine"
    monkeypatch.setenv("ZARR_CODEC_PIPELINE__PATH", DEFAULT)
    with fused_codecs():
        assert selected() == DEFAULT


def test_uses_that_overlap_in_threads_leave_nothing_behind(fused: str) -> None:
    threads = 8
    together = Barrier(threads)

    def use(_: int) -> None:
        for _ in range(200):
            with fused_codecs():
                assert selected() == fused
        together.wait(10)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(use, range(threads)))
    assert selected() == DEFAULT


def test_our_arrays_are_made_and_opened_with_it(fused: str, tmp_path: Path) -> None:
    info = VolumeInfo(shape=(2, 64, 64), dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    volume = create_volume(str(tmp_path / "a.zarr"), info=info, chunk=(1, 16, 16), shard=(1, 32, 32), mips=1)
    pixels = np.random.default_rng(0).integers(0, 255, info.shape, "uint8")
    volume.write(Box((0, 0, 0), info.shape), pixels)
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), info.shape)), pixels)
    array = arrays.open_array(str(tmp_path / "a.zarr" / "0"), mode="r")
    assert type(array._async_array.codec_pipeline).__name__ == "FusedCodecPipeline"
    np.testing.assert_array_equal(array[:], pixels)
