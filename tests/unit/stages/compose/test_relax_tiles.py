"""Sections too wide to be solved for at once: the same fields as when they are, without seams."""

from pathlib import Path

import numpy as np
import pytest

from ssem_dask.composition.relax.spectra import from_spectrum
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.field.affine import IDENTITY
from ssem_dask.stages.array_rows.coarse_arrays import COARSE_GROSS
from ssem_dask.stages.compose.compose_stage import ComposeStage
from ssem_dask.stages.compose.layout import restriction_factor
from ssem_dask.stages.job import Job
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.fields import FieldInfo, create_coarse, create_field
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.types import Float32Array, Float64Array, ShapeZYX

pytestmark = pytest.mark.slow

SECTIONS, NODES, SPACING = 18, (72, 80), 16


def waves(rng: np.random.Generator, count: int, *, size: float, power: float, r: float = 0.0) -> Float64Array:
    """Fields `(count, 2, y, x)` of wavelengths over 6 nodes, rms `size`; AR(1) along z."""
    i, j = np.indices(NODES)
    frequency = np.hypot(i / NODES[0], j / NODES[1])
    amplitude = np.exp(-((frequency / 0.3) ** 4)) / np.maximum(frequency, 0.02) ** power
    amplitude[(i + j) <= 1] = 0.0
    white = rng.normal(size=(count, 2, *NODES))
    for z in range(1, count):
        white[z] = r * white[z - 1] + (1 - r**2) ** 0.5 * white[z]
    return np.asarray(from_spectrum(white * amplitude) * size / np.sqrt((amplitude**2).mean()))


@pytest.fixture(scope="module")
def observed() -> tuple[Float32Array, Float64Array]:
    """Pair fields `(k, z, 2, y, x)`, with a hole in one section, and the distortion in them."""
    rng = np.random.default_rng(0)
    d, m = waves(rng, SECTIONS, size=3.0, power=1.0), waves(rng, SECTIONS, size=1.0, power=1.5, r=0.9)
    pairs = np.full((3, SECTIONS, 2, *NODES), np.nan, dtype=np.float32)
    for k in (1, 2, 3):
        for z in range(k, SECTIONS):
            noise = waves(rng, 1, size=0.15 * k, power=0.3)[0]
            pairs[k - 1, z] = d[z - k] - d[z] + m[z - k + 1 : z + 1].sum(axis=0) + noise
    pairs[:, 9, :, 20:34, 30:50] = np.nan
    return pairs, d


def _info(shape: ShapeZYX) -> VolumeInfo:
    return VolumeInfo(shape=shape, dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)


def composed(folder: Path, pairs: Float32Array, **relax: int | bool) -> Job:
    """Compose pair fields as a run with these settings does."""
    shape = SECTIONS, NODES[0] * SPACING, NODES[1] * SPACING
    source, output = str(folder / "source.zarr"), str(folder / "out.zarr")
    create_volume(source, info=_info(shape), chunk=(1, 512, 512), shard=(1, 2048, 2048), mips=1)
    tree = {"source": source, "output": output, "register": {"spacing": SPACING}, "compose": {"relax": relax}}
    job = plan(make_config({**tree, "coarse": {"parts": False}}, where="test")).job
    create_run(output, attributes={})
    create_coarse(job.url("fields", "coarse"), shape_mip0=shape)[:] = np.tile(IDENTITY, (SECTIONS, 1, 1))
    COARSE_GROSS.create(job)
    COARSE_GROSS.write(job, np.tile(IDENTITY, (SECTIONS, 1, 1)))
    info = FieldInfo(spacing=SPACING, shape_mip0=shape)
    for name, values in (("pairs", pairs), ("confidence", np.isfinite(pairs).all(axis=2).astype(np.float32))):
        create_field(
            job.url("fields", name),
            info=info,
            leading=(3,),
            components=name == "pairs",
            chunks=(1, *values.shape[1:]),
            shards=None,
        )[:] = values
    ComposeStage().prepare(job)
    written: set[str] = set()
    for generation in ComposeStage().generations(job):
        for task in generation:
            task.run()
            assert task.key not in written
            written.add(task.key)
    assert len(written) == ComposeStage().estimate(job).tasks
    return job


def read(job: Job, name: str) -> Float64Array:
    return np.asarray(open_array(job.url("fields", name), mode="r")[:], dtype=np.float64)


def test_tiles_give_what_whole_planes_give(observed: tuple[Float32Array, Float64Array], tmp_path: Path) -> None:
    pairs, distortion = observed
    quick = {"rounds": 2, "iterations": 4, "keep_natural": True}
    whole = composed(tmp_path / "whole", pairs, window=16, **quick)
    tiled = composed(tmp_path / "tiled", pairs, window=16, max_nodes=40, tile_nodes=24, **quick)
    assert (restriction_factor(whole), restriction_factor(tiled)) == (1, 2)
    here, there = read(whole, "section"), read(tiled, "section")
    assert np.isfinite(there).all()
    difference = there - here
    assert np.median(np.linalg.norm(difference, axis=1)) < 0.05
    jumps = np.abs(np.diff(difference, axis=-1)).mean(axis=(0, 1, 2))
    assert jumps[[23, 47]].max() < 1.5 * jumps.mean()  # no seam where tiles meet
    left = [np.square(np.diff(fields - distortion, axis=0)).mean() for fields in (here, there)]
    assert left[1] < 1.05 * left[0]
    assert left[0] < 0.1 * np.square(np.diff(distortion, axis=0)).mean()
    for name in ("uncertainty", "natural"):
        here, there = read(whole, name)[1:], read(tiled, name)[1:]
        assert np.sqrt(np.square(there - here).mean()) < 0.15 * np.sqrt(np.square(here).mean()), name


def test_thinning_takes_affine_maps_out_exactly(tmp_path: Path) -> None:
    """Also where blocks are known in part, at holes and at the far border."""
    pixels = np.moveaxis(np.indices((NODES[0], NODES[1])), 0, -1) * SPACING + SPACING / 2
    turn = np.array([[0.01, -0.02, 7.0], [0.03, 0.005, -4.0]])
    moved = np.moveaxis(pixels @ turn[:, :2].T + turn[:, 2], -1, 0)
    pairs = np.full((3, SECTIONS, 2, *NODES), np.nan, dtype=np.float32)
    for k in (1, 2, 3):
        pairs[k - 1, k:] = moved
    pairs[:, 9, :, 21:34, 31:50] = np.nan
    job = composed(tmp_path, pairs, window=16, max_nodes=30, tile_nodes=24, rounds=1, iterations=1)
    assert restriction_factor(job) == 3  # of 80 nodes the last block holds two
    affines = read(job, "pair_affines")[0, 1:]
    np.testing.assert_allclose(affines, np.broadcast_to(turn + IDENTITY, affines.shape), atol=1e-3)
    assert np.nanmax(np.abs(read(job, "restricted_pairs"))) < 0.01


def test_memory_does_not_grow_with_the_section(tmp_path: Path) -> None:
    def memory(side: int) -> int:
        source = str(tmp_path / f"{side}.zarr")
        create_volume(source, info=_info((200, side, side)), chunk=(1, 512, 512), shard=(1, 2048, 2048), mips=1)
        tree = {"source": source, "output": str(tmp_path / "out.zarr"), "register": {"spacing": SPACING}}
        return plan(make_config(tree, where="test")).estimates["compose"].memory

    assert memory(100_000) < 1.5 * memory(6_000)
