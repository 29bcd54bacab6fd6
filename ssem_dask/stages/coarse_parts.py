"""Parts of sections in stage coarse: regions that a fold, a crack or a seam moved against each other.

Each section is compared with its neighbours after the thumbnails have placed all of them. What registration, masks and
the final fields need of a broken section is read here too.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import Affine, apply_affine, compose_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.piecewise_affine import PiecewiseAffine
from ssem_dask.fixes.section_fixes import VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div, shape_at_mip
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.registration.section_parts.find_parts import Neighbour, SectionParts, find_parts
from ssem_dask.registration.section_parts.part_maps import MAX_PARTS
from ssem_dask.stages.array_rows.array_axes import parts_mip
from ssem_dask.stages.array_rows.coarse_arrays import COARSE_PLACED, PART_LABELS, PART_MAPS, PART_PLACED
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.drawn_parts import find_drawn_parts
from ssem_dask.stages.fix_clusters import clusters_at
from ssem_dask.stages.fixed_sections import excluded_sections, fitted_rows
from ssem_dask.stages.job import SECTIONS_PER_THUMBNAIL_TASK, Job
from ssem_dask.stages.section_labels import listed_sections
from ssem_dask.stages.source_sections import open_source, read_aligned_sections
from ssem_dask.stages.stage import Estimate, JobTask
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.task import Result
from ssem_dask.types import AnyArray, Float64Array, ShapeYX
from ssem_dask.units import plural

PARTS_REACH = 1
"""Sections before and after a section that it is compared with."""
PART_ARRAYS = PART_PLACED, PART_MAPS, PART_LABELS


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarsePartsTask(JobTask):
    """Search for the parts of some sections."""

    start: int
    stop: int
    seen: range
    """Sections that they are compared with."""

    def run(self) -> Result:
        """Compare each section with the ones before and after it."""
        job, mip = self.job, parts_mip(self.job)
        first, last = self.seen.start, self.seen.stop
        affines = COARSE_PLACED.read(job, z=range(first, last))
        height, width = shape_at_mip(job.shape_yx, mip=mip)
        box = Box((0, 0, 0), (1, height, width), mip)
        volume = open_source(job)
        count = self.stop - self.start
        placed, maps = np.full((count, 2, 3), np.nan), np.full((count, MAX_PARTS, 2, 3), np.nan)
        labels = np.zeros((count, height, width), dtype=np.uint8)
        # All sections in one call each, since a chunk of the source holds several.
        read = partial(read_aligned_sections, volume, box=box)
        with torch.inference_mode():
            sections = read(sections=self.seen, affines=affines)
            aligned = {z: Neighbour(*section) for z, section in zip(self.seen, sections, strict=True)}
            others = [[o for o in (z - 1, z + 1) if o in aligned] for z in range(self.start, self.stop)]
            rigid = [
                rigid_place(affines[z - first], [affines[other - first] for other in around], shape_yx=job.shape_yx)
                for z, around in zip(range(self.start, self.stop), others, strict=True)
            ]
            sections = read(sections=range(self.start, self.stop), affines=np.array(rigid))
            for i, (image, valid) in enumerate(sections):
                parts, lines = None, job.fitted_fixes.of(self.start + i).splits
                if lines:
                    parts = find_drawn_parts(
                        image,
                        {other: (aligned[other], affines[other - first]) for other in others[i]},
                        valid=valid,
                        lines=lines,
                        points=job.fitted_fixes.points_of(self.start + i),
                        affine=rigid[i],
                        box=box,
                    )
                if parts is None:
                    parts = find_parts(image, [aligned[other] for other in others[i]], valid=valid)
                if parts is not None:
                    placed[i], maps[i], labels[i] = parts_in_source(parts, rigid[i], box=box)
        z_range = range(self.start, self.stop)
        written = PART_PLACED.write(job, placed, z=z_range) + PART_MAPS.write(job, maps, z=z_range)
        written += PART_LABELS.write(job, labels, z=z_range)
        bytes_read = job.source_bytes((last - first + count) * job.section_pixels, mip=mip)
        return Result(bytes_read=bytes_read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the sections and their neighbours; write their parts."""
        job = self.job
        return Footprint(
            reads=(
                *job.source_regions(self.seen.start, self.seen.stop),
                COARSE_PLACED.region(job, self.seen.start, self.seen.stop),
            ),
            writes=tuple(array.region(job, self.start, self.stop) for array in PART_ARRAYS),
        )


def read_part_arrays(job: Job) -> tuple[RunArray, ...]:
    """Return the arrays that `read_parts` reads."""
    return (PART_MAPS, PART_LABELS) if job.coarse.parts else ()


def part_regions(job: Job, start: int, stop: int, *, fixes: VolumeFixes | None = None) -> tuple[Region, ...]:
    """Return the regions that `read_parts` reads for the sections `start <= z < stop` with the same fixes."""
    sections = range(max(0, start), min(stop, job.shape[0]))
    beyond = sorted({row for row in fitted_rows(job, sections, fixes) if row not in sections})
    spans = [(start, stop), *((row, row + 1) for row in beyond)]
    arrays = read_part_arrays(job)
    return (
        *(array.region(job, *span) for array in arrays for span in spans),
        *(FIXED[array].region(job, z, z + 1) for array in arrays for z in sorted(redrawn(job, sections, fixes))),
    )


def read_parts(job: Job, sections: range, *, fixes: VolumeFixes | None = None) -> dict[int, PiecewiseAffine]:
    """Return the broken ones among some sections, by z.

    Args:
        job: the run.
        sections: z.
        fixes: fixes that say which sections have changed places, with their parts, and in which of them lines were
            drawn since the fit; None: those of the fit.
    """
    if not job.coarse.parts:
        return {}
    out, drawn = {}, redrawn(job, sections, fixes)
    for z, row in zip(sections, fitted_rows(job, sections, fixes), strict=True):
        maps, labels = (FIXED[array] if z in drawn else array for array in (PART_MAPS, PART_LABELS))
        at = z if z in drawn else row
        known = maps.read(job, z=at)
        affines = known[: np.count_nonzero(np.isfinite(known[:, 0, 0]))]
        if len(affines):
            out[z] = PiecewiseAffine(affines, labels.read(job, z=at), 1 << parts_mip(job))
    return out


def redrawn(job: Job, sections: range, fixes: VolumeFixes | None) -> frozenset[int]:
    """Return those of some sections whose parts fixes have changed since the fit; fixes as of `read_parts`."""
    if not job.coarse.parts or fixes is None or fixes == job.fitted_fixes:
        return frozenset()
    return frozenset(z for cluster in clusters_at(job, sections) for z in cluster.redrawn if z in sections)


def part_steps(job: Job) -> Float64Array:
    """Return how far the second part of each broken section was moved against the largest, px; NaN if it is whole."""
    if not job.coarse.parts:
        return np.full(job.shape[0], np.nan)
    middle = np.append(np.array(job.shape_yx) / 2, 1.0)
    every = range(job.shape[0])
    second = PART_MAPS.read(job)[fitted_rows(job, every, job.fixes), 1]
    for z in redrawn(job, every, job.fixes):
        second[z] = FIXED[PART_MAPS].read(job, z=z)[1]
    moved = second @ middle - middle[:2]
    return np.asarray(np.linalg.norm(moved, axis=1))


def coarse_to_source(affine: Float64Array, parts: PiecewiseAffine | None, positions: Tensor) -> Tensor:
    """Map positions (2, …) of the coarse-aligned section to the source; NaN where a fold swallowed the tissue."""
    whole = apply_affine(affine, positions)
    return whole if parts is None else parts.to_source(whole)


def broken_remarks(job: Job) -> list[str]:
    """Return a line on the sections that consist of several parts."""
    broken = [] if not job.coarse.parts else list(np.flatnonzero(np.isfinite(PART_PLACED.read(job)[:, 0, 0])))
    if not broken:
        return []
    shown = listed_sections(job, [int(z) for z in broken])
    return [
        "parts moved against each other by a fold, a crack or a seam, each of which was placed by itself, in "
        f"{plural(len(broken), 'section')}: {shown}"
    ]


def replaced_part_regions(job: Job, start: int, stop: int) -> tuple[Region, ...]:
    """Return the regions that `replace_broken_pairs` reads for the sections `start <= z < stop`."""
    return tuple(array.region(job, start, stop) for array in ((COARSE_PLACED, PART_PLACED) if job.coarse.parts else ()))


def replace_broken_pairs(
    job: Job, sections: range, affines: Float64Array, ratios: Float64Array, *, gross: Float64Array
) -> None:
    """Replace the pairs `(K, Z, …)` of broken sections by those of their largest parts, and their gross maps `(Z, …)`.

    Thumbnails of a broken section agree with its neighbours nowhere, or with a mean of its parts. Where a part was
    moved to says nothing of how other sections are distorted, so all of it is gross.
    """
    if not job.coarse.parts:
        return
    parts, placed = PART_PLACED.read(job, z=sections), COARSE_PLACED.read(job, z=sections)
    excluded = excluded_sections(job.fitted_fixes, count=job.shape[0])[sections.start : sections.stop]
    broken = np.isfinite(parts[:, 0, 0]) & ~excluded
    gross[broken] = parts[broken]
    placed[broken] = parts[broken]
    for z in range(len(placed)):
        for k in range(1, min(z, job.coarse.neighbours) + 1):
            if (broken[z] or broken[z - k]) and not (excluded[z] or excluded[z - k]):
                affines[k - 1, z] = compose_affine(outer=placed[z - k], inner=invert_affine(placed[z]))
                ratios[k - 1, z] = 2.0 * job.coarse.min_ratio


def parts_estimate(job: Job) -> Estimate:
    """Return what the search for parts adds to the cost of the stage."""
    if not job.coarse.parts:
        return Estimate(tasks=0, pixels=0, bytes_read=0, bytes_written=0, files=0, memory=0)
    z, mip, depth = job.shape[0], parts_mip(job), SECTIONS_PER_THUMBNAIL_TASK
    pixels, tasks = math.prod(shape_at_mip(job.shape_yx, mip=mip)), ceil_div(z, depth)
    return Estimate(
        tasks=tasks + 1,
        pixels=0,
        bytes_read=job.source_bytes((2 * z + 2 * PARTS_REACH * tasks) * job.section_pixels, mip=mip),
        bytes_written=z * (pixels + 2 * 48 + MAX_PARTS * 48),
        files=1 + len(PART_ARRAYS) * tasks,
        # Images and masks of the sections of a task and of their neighbours: as they were read, aligned, normalised.
        # Likenesses and blocks of one of them.
        memory=pixels * (13 * (depth + 2 * PARTS_REACH) + 30 * 4) + (70 << 20),
    )


def rigid_place(affine: Affine, others: list[Affine], *, shape_yx: ShapeYX) -> Affine:
    """Return an affine with the stretch and shear of the neighbours, equal in the middle of the section.

    The thumbnails take a gap between two parts for stretch, which would hide it.
    """
    rotation, own = _polar(affine)
    stretch = np.mean([_polar(other)[1] for other in others], axis=0) if others else own
    linear, middle = rotation @ stretch, np.array(shape_yx) / 2
    return np.column_stack([linear, affine[:, 2] + (affine[:, :2] - linear) @ middle])


def _polar(affine: Affine) -> tuple[Float64Array, Float64Array]:
    """Split the linear part of an affine into a rotation, mirrored or not, and a stretch before it."""
    left, sizes, right = np.linalg.svd(affine[:, :2])
    return left @ right, right.T @ np.diag(sizes) @ right


def parts_in_source(parts: SectionParts, affine: Affine, *, box: Box) -> tuple[Affine, Float64Array, AnyArray]:
    """Return the affine of the largest part, and maps and labels of all parts, in the source."""
    scale = float(2**box.mip)
    pixels = np.array([[scale, 0, 0], [0, scale, 0]])
    moved = [
        compose_affine(outer=pixels, inner=compose_affine(outer=part.numpy(), inner=invert_affine(pixels)))
        for part in parts.maps
    ]
    # Aligned → source of each part.
    placed = [compose_affine(outer=affine, inner=invert_affine(part)) for part in moved]
    maps = np.full((MAX_PARTS, 2, 3), np.nan)
    for i, part in enumerate(placed):
        maps[i] = compose_affine(outer=part, inner=invert_affine(placed[0]))
    grid = Grid.of_box(box)
    aligned = apply_affine(invert_affine(affine), grid.positions().double()) / scale
    height, width = parts.labels.shape
    y, x = (aligned[axis].floor().long().clamp(0, n - 1) for axis, n in enumerate((height, width)))
    return placed[0], maps, parts.labels[y, x].to(torch.uint8).numpy()
