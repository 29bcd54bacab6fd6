"""Slabs: no distortion is carried across a border, and undeformed slabs stay undeformed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from benchmarks.spoilt.stacks import Stack, deform_stack, load_stack
from ssem_dask.config.schema import make_config
from ssem_dask.driver.append import plan_append
from ssem_dask.driver.pipeline import plan, run
from ssem_dask.driver.run_status import Summary, run_status
from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.quality import read_record
from ssem_dask.types import AnyArray, Float64Array
from tests.support.fixed_runs import SHALLOW, write_stack
from tests.support.real_data import DATA_DIR

DEPTH, SIDE = 16, 96
SHIFT, DEGREES, STRETCH = (9.0, -7.0), 2.0, (1.02, 0.99)
"""Displacement of the second slab as a whole."""


def displacement(shape: tuple[int, int]) -> tuple[Float64Array, Float64Array]:
    """Matrix and offset: the observed slab shows at x what is at `matrix @ x + offset`."""
    turned, centre = np.deg2rad(DEGREES), np.array(shape) / 2
    matrix = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]) * np.array(STRETCH)
    return matrix, centre + np.array(SHIFT) - matrix @ centre


def displaced(images: AnyArray) -> AnyArray:
    matrix, offset = displacement((images.shape[1], images.shape[2]))
    half = np.full(2, 0.5)
    moved = [affine_transform(i.astype(float), matrix, offset=matrix @ half + offset - half) for i in images]
    return np.asarray(np.clip(np.round(moved), 0, 255).astype(np.uint8))


def align(folder: Path, images: AnyArray, **settings: Any) -> tuple[str, Summary]:
    torch.set_num_threads(1)
    source = write_stack(folder / "source.zarr", images, pixel_size=5.0, section_thickness=40.0)
    quick = {**SHALLOW, "coarse": {"search": False}}
    config = make_config({"source": source, "output": str(folder / "run.zarr"), **quick, **settings})
    summary = run(plan(config), executor=SerialExecutor(), observer=SilentObserver())
    assert summary.state == "complete"
    return config.output, summary


def fields(output: str) -> tuple[Float64Array, Float64Array]:
    """Fields `(z, 2, y, x)` and the positions of their nodes `(2, y, x)`."""
    array = open_array(f"{output}/fields/section", mode="r")
    found, spacing = np.asarray(array[:], dtype=np.float64), array.attrs["spacing"]
    assert isinstance(spacing, int)
    return found, np.asarray((np.indices(found.shape[2:]) + 0.5) * spacing, dtype=np.float64)


def moved(found: Float64Array) -> float:
    return float(np.sqrt(np.mean(np.square(found))))


def shown(found: Float64Array, nodes: Float64Array, shape: tuple[int, int]) -> Float64Array:
    """Displacement `(z, 2)` of the tissue that displaced sections show, once they are aligned."""
    matrix, offset = displacement(shape)
    places = np.einsum("ij,zjyx->ziyx", matrix, nodes + found) + offset[:, None, None]
    return np.asarray((places - nodes).mean(axis=(2, 3)))


def turned(found: Float64Array, nodes: Float64Array, shape: tuple[int, int]) -> Float64Array:
    """Angle `(z,)` by which displaced sections are turned, once they are aligned, degrees."""
    matrix, _ = displacement(shape)
    places = np.einsum("ij,zjyx->ziyx", matrix, nodes + found).reshape(len(found), 2, -1)
    centred = (nodes - nodes.mean(axis=(1, 2), keepdims=True)).reshape(2, -1)
    left = places @ np.linalg.pinv(centred)
    return np.asarray(np.rad2deg(np.arctan2(left[:, 1, 0] - left[:, 0, 1], left[:, 0, 0] + left[:, 1, 1])))


def test_each_slab_is_by_itself_and_comes_back_as_a_whole(tmp_path: Path) -> None:
    config = PhantomConfig(seed=3, shape=(12 + 2 * DEPTH, SIDE, SIDE))  # with faces that have something in common
    sections = generate(config, Box((12, 0, 0), config.shape)).image
    stack = Stack(sections, sections[0], pixel_size=5.0, section_thickness=40.0)
    images = stack.images.copy()
    images[DEPTH:] = displaced(deform_stack(stack, seed=3).images[DEPTH:])
    output, summary = align(tmp_path / "both", images, slabs={"borders": [DEPTH]})
    found, _ = fields(output)
    alone, _ = fields(align(tmp_path / "alone", images[:DEPTH])[0])
    # Undeformed, beside a slab that is not.
    assert moved(found[:DEPTH]) <= moved(alone) + 0.1
    assert moved(found[:DEPTH]) < 0.2 * moved(found[DEPTH:])
    record = read_record(output, "relax.json")
    assert record is not None
    first, second = record["slabs"]
    assert (first["start"], second["start"], first["displacement"]) == (0, DEPTH, None)
    assert first["certainty"] < 0.1 < 0.9 < second["certainty"]
    assert second["displacement"] is not None
    for each in (summary, run_status(output)):
        assert any("2 slabs, each by itself" in remark.message for remark in each.remarks)
    # The statistics of a slab are its own, so nothing can be kept when sections are appended.
    longer = write_stack(tmp_path / "longer.zarr", np.concatenate([images, images[-1:]]))
    assert plan_append(output, longer).refit


@pytest.mark.slow
@pytest.mark.skipif(not (DATA_DIR / "flyem_fibsem").exists(), reason="no FIB-SEM volume; set SSEM_DATA_DIR")
def test_slabs_of_20_sections_of_a_fib_sem_volume(tmp_path: Path) -> None:
    images = load_stack("fibsem1", sections=40, size=160, data=DATA_DIR).images.copy()
    images[20:] = displaced(images[20:])
    output, _ = align(tmp_path, images, slabs={"borders": [20]})
    found, nodes = fields(output)
    # Natural motion is several px per section here, and nothing predicts it all.
    assert np.linalg.norm(shown(found[20:], nodes, (160, 160)).mean(axis=0)) < 0.5 * np.linalg.norm(SHIFT)
    assert abs(turned(found[20:], nodes, (160, 160)).mean()) < 0.5 * DEGREES
    alone, _ = fields(align(tmp_path / "alone", images[:20])[0])
    assert moved(found[:20]) <= moved(alone) + 0.1
