"""What both ways of composing by `relax`, planes and tiles, have in common: arrays, windows, what is written."""

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.elastic import (
    HIGH_FREQUENCY_NODES,
    ElasticProblem,
    ElasticSolution,
    LowFrequencies,
    relax_elastic,
    solve_elastic,
)
from ssem_dask.composition.relax.relative import SplitPairs
from ssem_dask.composition.relax.section_fields import join_affine_and_elastic, join_natural_motion, section_extent
from ssem_dask.composition.relax.uncertainty import affine_variance
from ssem_dask.composition.separation.sequence import Variances
from ssem_dask.field.device import compute_device, computing_on
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.job import Job
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import FieldInfo, create_field, open_coarse
from ssem_dask.types import Float64Array, ShapeYX


def create_affines(job: Job) -> None:
    """Create what the affine level hands on."""
    k, z, depth = steps_of(job), job.shape[0], depth_of(job)
    create_array(
        job.url("fields", "pair_affines"),
        shape=(k, z, 2, 3),
        axes=("k", "z", "row", "column"),
        chunks=(k, depth, 2, 3),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"direction": "pull", "unit": "px@mip0", "map": "affine part of fields/pairs"},
    )
    map_of = {"direction": "pull", "unit": "px@mip0"}
    parts = ["shift, per component", "linear, rms over the section"]
    for name, columns, attributes in (
        ("turn", (2, 3), {**map_of, "map": "aligned → as fields/coarse aligns"}),
        ("turn_natural", (2, 3), {**map_of, "map": "natural motion, aligned z → aligned z-1"}),
        ("turn_variance", (2,), {"unit": "px²@mip0", "parts": parts}),
    ):
        create_array(
            job.url("fields", name),
            shape=(z, *columns),
            axes=("z", "row", "column") if len(columns) == 2 else ("z", "part"),
            chunks=(z, *columns),
            dtype="float64",
            shards=None,
            fill_value=np.nan,
            attributes=attributes,
        )


def create_sections(job: Job, *, chunk: ShapeYX, shard: ShapeYX) -> None:
    """Create `fields/section`, `uncertainty` and, where it is wanted, `natural`; chunk and shard in nodes (y, x)."""
    depth = depth_of(job)
    for name in ("section", "natural") if job.compose.relax.keep_natural else ("section",):
        create_field(
            job.url("fields", name),
            info=FieldInfo(spacing=job.spacing, shape_mip0=job.shape),
            leading=(),
            components=True,
            chunks=(1, 2, *chunk),
            shards=(depth, 2, *shard),
        )
    create_field(
        job.url("fields", "uncertainty"),
        info=FieldInfo(spacing=job.spacing, shape_mip0=job.shape),
        leading=(),
        components=False,
        chunks=(1, *chunk),
        shards=(depth, *shard),
        scalar_unit="px@mip0",
    )


def elastic_problem(
    job: Job,
    split: SplitPairs,
    weights: Tensor,
    *,
    affine_correction: Float64Array,
    grid: Grid,
    certainty: float,
    low_frequencies: LowFrequencies | None = None,
) -> ElasticProblem:
    """Return the elastic problem of a window, as the run is configured."""
    return ElasticProblem(
        split=split,
        weights=weights,
        affine_correction=affine_correction,
        grid=grid,
        certainty=certainty,
        config=job.compose.relax,
        high_frequency_px=HIGH_FREQUENCY_NODES * job.spacing,
        low_frequencies=low_frequencies,
    )


def solve_window(problem: ElasticProblem, variances: list[Variances] | None) -> ElasticSolution:
    """Solve with the variances of the run, or with the window's own if there are none; one task at a time per GPU."""
    with computing_on(problem.weights.device):
        return relax_elastic(problem) if variances is None else solve_elastic(problem, variances)


def write_sections(
    job: Job,
    sections: range,
    *,
    grid: Grid,
    inner: tuple[slice, slice],
    nodes: tuple[slice, slice],
    elastic: Tensor,
    natural: Tensor,
    variance: Tensor,
) -> int:
    """Join affine and elastic parts and write the fields of some sections; returns how many bytes.

    Args:
        job: the run.
        sections: z.
        grid: of the nodes that were solved for.
        inner: those of them that are written.
        nodes: where they lie in the section's nodes.
        elastic: e `(z, 2, y, x)`.
        natural: `(z, 2, y, x)`.
        variance: `(z, y, x)`, of the elastic part. All three on one device, which joins them.
    """
    z = slice(sections.start, sections.stop)

    turn, coarse = _of_sections(job, "turn", z), np.asarray(open_coarse(job.url("fields", "coarse"))[z])
    spread, device = _of_sections(job, "turn_variance", z), elastic.device
    affine = _of_sections(job, "turn_natural", z) if job.compose.relax.keep_natural else None
    with computing_on(device):
        turned = join_affine_and_elastic(elastic, affine=turn, grid=grid)
        variance = variance + affine_variance(spread, shape_yx=section_extent(grid_of(job)), grid=grid, device=device)
        found = {"section": join_affine_and_elastic(turned, affine=coarse, grid=grid), "uncertainty": variance.sqrt_()}
        if affine is not None:
            found["natural"] = join_natural_motion(natural, affine=affine, grid=grid)
            found["natural"][: max(0, 1 - sections.start)] = torch.nan  # nothing lies before the first section
        parts = {name: values[..., *inner].cpu().numpy() for name, values in found.items()}
    for name, part in parts.items():
        at = (z, slice(None), *nodes) if part.ndim == 4 else (z, *nodes)
        open_array(job.url("fields", name), mode="r+")[at] = part
    return sum(part.nbytes for part in parts.values())


def _of_sections(job: Job, name: str, z: slice) -> Float64Array:
    return np.asarray(open_array(job.url("fields", name), mode="r")[z])


def read_pairs(
    job: Job, start: int, stop: int, *, nodes: tuple[slice, slice] = (slice(None), slice(None))
) -> tuple[Tensor, Tensor]:
    """Pair fields `(K, z, 2, y, x)` and confidences of some sections and nodes, on the GPU where there is one."""
    k, device = steps_of(job), compute_device()
    fields = open_array(job.url("fields", "pairs"), mode="r")[:k, start:stop, :, *nodes]
    confidence = open_array(job.url("fields", "confidence"), mode="r")[:k, start:stop, *nodes]
    return torch.from_numpy(np.asarray(fields)).to(device), torch.from_numpy(np.asarray(confidence)).to(device)


def steps_of(job: Job) -> int:
    """How far in z pairs are used."""
    return min(job.compose.relax.neighbours, job.register.neighbours)


def depth_of(job: Job) -> int:
    """Sections that one task answers for."""
    return min(job.compose.relax.window, job.shape[0])


def windows_of(job: Job) -> int:
    """Number of windows along z."""
    return ceil_div(job.shape[0], depth_of(job))


def core_of(job: Job, window: int) -> tuple[int, int]:
    """First section of a window, and the one after its last."""
    depth = depth_of(job)
    return window * depth, min((window + 1) * depth, job.shape[0])


def reach_of(job: Job, window: int) -> tuple[int, int]:
    """The window's sections with the overlap at either end."""
    start, stop = core_of(job, window)
    overlap = job.compose.relax.overlap
    return max(0, start - overlap), min(job.shape[0], stop + overlap)


def grid_of(job: Job) -> Grid:
    """The nodes of a section."""
    return Grid.of_section((job.shape[1], job.shape[2]), spacing=job.spacing)
