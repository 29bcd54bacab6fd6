"""Registration of one window: read its sections, register its pairs, say what went wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.device import compute_device, computing_on
from ssem_dask.field.grid import Grid, node_count
from ssem_dask.field.piecewise_affine import PiecewiseAffine
from ssem_dask.fixes.section_fixes import VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.windows import Window
from ssem_dask.registration.checked_window import PairFault, register_checked
from ssem_dask.registration.damage import TEAR, TISSUE
from ssem_dask.registration.opaque import find_opaque_regions
from ssem_dask.registration.registration_method import PairFields, PairRequest, WindowImages
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_INVERTED, COARSE_STATE, SectionState
from ssem_dask.stages.array_rows.pair_arrays import DAMAGE
from ssem_dask.stages.calibrate import calibrated
from ssem_dask.stages.coarse_parts import read_parts
from ssem_dask.stages.fix_clusters import FixCluster
from ssem_dask.stages.fixed_points import contradicted_points, window_points
from ssem_dask.stages.fixed_rows import read_places
from ssem_dask.stages.fixed_sections import fitted_rows, fix_codes, has_codes
from ssem_dask.stages.job import Job
from ssem_dask.stages.mask import read_codes
from ssem_dask.stages.source_sections import open_source, read_aligned_sections
from ssem_dask.types import Float64Array, ShapeYX
from ssem_dask.units import plural

_NAMED_PAIRS = 5
"""Pairs that a remark names."""


@dataclass(frozen=True, slots=True)
class RegisteredWindow:
    """The pair fields of a window and the pairs that failed their checks."""

    pairs: PairFields | None
    """Pair fields of the core; None if the window shows no tissue."""
    faults: list[PairFault]
    """Pairs that failed their checks; z is that of the volume."""
    bytes_read: int
    remarks: list[str] = field(default_factory=list)
    """Sentences about points of the user that the images contradict."""


def describe_faults(faults: list[PairFault]) -> list[str]:
    """Return what is to be said of the pairs that failed their check twice."""
    lost = [fault for fault in faults if not fault.recovered]
    if not lost:
        return []
    named = ", ".join(f"{fault.z} to {fault.z - fault.k} ({fault.reason})" for fault in lost[:_NAMED_PAIRS])
    more = f" and {len(lost) - _NAMED_PAIRS} more" if len(lost) > _NAMED_PAIRS else ""
    return [f"{plural(len(lost), 'pair')} of sections could not be registered, even with a wider search: {named}{more}"]


def register_images(
    job: Job,
    window: Window,
    *,
    fixes: VolumeFixes,
    clusters: Sequence[FixCluster] = (),
    only: frozenset[tuple[int, int]] | None = None,
) -> RegisteredWindow:
    """Read and register a window.

    Args:
        job: the run.
        window: its sections.
        fixes: fixes that hold.
        clusters: changes of the fixes since the fit that hold.
        only: pairs (k, z) that are wanted; None: all of the core.
    """
    mip = job.register.mip
    volume = open_source(job, fixes=fixes)
    coarse = read_places(job, COARSE, window.read.sections, clusters=clusters)
    parts = read_parts(job, window.read.sections, fixes=fixes)
    box, device = window.read.at_mip(mip), compute_device()
    images = torch.empty(box.shape, device=device)
    valid = torch.empty(box.shape, dtype=torch.bool, device=device)
    sections = read_aligned_sections(
        volume,
        sections=window.read.sections,
        box=box,
        affines=coarse,
        inverted=read_places(job, COARSE_INVERTED, window.read.sections, clusters=clusters),
        parts=parts,
        device=device,
    )
    for i, section in enumerate(sections):
        images[i], valid[i] = section
    codes = _codes(job, window, coarse, parts, fixes).to(device)
    valid &= codes == TISSUE
    valid &= ~find_opaque_regions(images, valid=valid)
    bytes_read = job.source_bytes(images.numel() * 4**mip, mip=mip)
    if not valid.any():
        return RegisteredWindow(None, [], bytes_read)
    grid = Grid.of_box(box)
    config = calibrated(job)
    points = window_points(fixes, window, grid=grid, coarse=coarse, parts=parts)
    with computing_on(device):
        checked = register_checked(
            WindowImages(
                images=images,
                valid=valid,
                grid=grid.relative_to(grid.origin),
                tears=codes == TEAR,
                points=points,
                untied=_untied(job, window, clusters),
            ),
            PairRequest(
                nodes=core_nodes(window, job.spacing).relative_to(grid.origin),
                core=range(window.core.start[0] - window.read.start[0], window.core.stop[0] - window.read.start[0]),
                neighbours=job.register.neighbours,
                only=_wanted_pairs(job, window, only, clusters=clusters),
            ),
            config=config,
            device=device,
        )
    faults = [replace(fault, z=fault.z + window.read.start[0]) for fault in checked.faults]
    remarks = contradicted_points(points, checked.pairs, window, nodes=core_nodes(window, job.spacing), grid=grid)
    return RegisteredWindow(checked.pairs, faults, bytes_read, remarks)


def nodes_of(core: Box, job: Job, *, corner: ShapeYX) -> tuple[slice, slice]:
    """Return rows and columns of a core's nodes, counted from a corner (y, x), mip-0 px."""
    starts = ((start - zero) // job.spacing for start, zero in zip(core.start_yx, corner, strict=True))
    counts = (node_count(extent, spacing=job.spacing) for extent in core.shape_yx)
    rows, columns = (slice(start, start + count) for start, count in zip(starts, counts, strict=True))
    return rows, columns


def _wanted_pairs(
    job: Job, window: Window, only: frozenset[tuple[int, int]] | None, *, clusters: Sequence[FixCluster]
) -> frozenset[tuple[int, int]]:
    """Return the pairs (fixed, moving) to register, indices in the window.

    A section that repeats an earlier image is left out. It is distorted as that one is, which would make the distortion
    of both seem to be a slow motion of the tissue, and so bend the sections around them.
    """
    repeated = read_places(job, COARSE_STATE, window.read.sections, clusters=clusters) == SectionState.REPEATED
    first = window.read.start[0]
    every = (
        (z - first, z - k - first)
        for z in window.core.sections
        for k in range(1, min(z - first, job.register.neighbours) + 1)
        if only is None or (k, z) in only
    )
    return frozenset((fixed, moving) for fixed, moving in every if not (repeated[fixed] or repeated[moving]))


def _untied(job: Job, window: Window, clusters: Sequence[FixCluster]) -> frozenset[int]:
    """Return the window's sections that stage coarse tied to no other."""
    states = read_places(job, COARSE_STATE, window.read.sections, clusters=clusters)
    return frozenset(np.flatnonzero(states == SectionState.BRIDGED).tolist())


def _codes(
    job: Job, window: Window, coarse: Float64Array, parts: Mapping[int, PiecewiseAffine], fixes: VolumeFixes
) -> Tensor:
    """Return the masks (z, y, x) of the window's sections, coarse-aligned like their images."""
    mip = job.register.mip
    box = window.read.at_mip(mip)
    codes = torch.full(box.shape, TISSUE, dtype=torch.uint8)
    masks = DAMAGE.open(job) if job.mask.active else None
    rows = fitted_rows(job, window.read.sections, fixes)
    for i, (z, affine) in enumerate(zip(window.read.sections, coarse, strict=True)):
        if masks is not None:
            codes[i] = read_codes(masks, z=rows[i], mip=job.mask.mip, box=box, affine=affine, parts=parts.get(z))
        fix = fixes.of(z)
        if has_codes(fix):
            codes[i] = torch.maximum(codes[i], fix_codes(job, fix, box=box, affine=affine))
    return codes


def core_nodes(window: Window, spacing: int) -> Grid:
    """Return the nodes of a window's core, mip-0 px."""
    y, x = window.core.shape_yx
    return Grid(
        (node_count(y, spacing=spacing), node_count(x, spacing=spacing)),
        spacing,
        (float(window.core.start[1]), float(window.core.start[2])),
    )
