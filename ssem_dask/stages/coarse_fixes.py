"""Places of the sections that fixes have moved since the fit: all other sections stay where they are.

A moved section is compared with its neighbours, whose places are known, near the place that the fixes say, or else that
the neighbours have. What most of these pairs agree on is its place, and points of the user count more than any pair.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ssem_dask.field.affine import Affine, compose_affine, invert_affine
from ssem_dask.fixes.section_fixes import placed_map
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.geometry.region import Footprint
from ssem_dask.registration.coarse_alignment.pair import estimate_pair
from ssem_dask.registration.coarse_alignment.pieces import simplified
from ssem_dask.registration.coarse_alignment.point_pairs import fit_points, pair_of_points, rests_on_points
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.registration.section_parts.find_parts import Neighbour, find_parts
from ssem_dask.stages.array_rows.array_axes import parts_mip
from ssem_dask.stages.array_rows.coarse_arrays import (
    COARSE,
    COARSE_GROSS,
    COARSE_INVERTED,
    COARSE_STATE,
    PART_LABELS,
    PART_MAPS,
    SectionState,
)
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.coarse_parts import part_regions, parts_in_source, read_part_arrays, rigid_place
from ssem_dask.stages.drawn_parts import find_drawn_parts
from ssem_dask.stages.fix_clusters import FixCluster, fix_clusters
from ssem_dask.stages.fixed_points import unconfirmed_points
from ssem_dask.stages.fixed_rows import PLACES
from ssem_dask.stages.fixed_sections import fitted_rows
from ssem_dask.stages.job import Job
from ssem_dask.stages.section_labels import listed_sections
from ssem_dask.stages.source_sections import open_source, read_aligned, read_coarse_section, thumbnail_mip
from ssem_dask.stages.stage import FIX_TASKS, JobTask, Stage
from ssem_dask.task import Outcome, Result
from ssem_dask.types import AnyArray, Float64Array

_ITERATIONS = 10
_SCALE = 0.01
"""Distance, as a share of the section's side, at which a pair that disagrees with the others has lost half its say."""
_POINTS_WEIGHT = 100.0
"""Weight of a pair with points; that of another one is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseFixesTask(JobTask):
    """Places of the sections that one cluster of fixes has moved."""

    cluster: FixCluster

    @torch.inference_mode()
    def run(self) -> Result:
        """Find the places, one section after the other, those beside unmoved sections first."""
        job, cluster = self.job, self.cluster
        stack = _Stack(job, cluster)
        lost = [z for z in _outside_first(cluster.moved) if not stack.place(z)]
        written = 0
        for z in cluster.moved:
            values = {
                COARSE: stack.maps[z],
                COARSE_GROSS: stack.gross(z),
                COARSE_INVERTED: np.uint8(stack.inverted[z]),
                COARSE_STATE: np.uint8(stack.state(z, is_lost=z in lost)),
            }
            if z in cluster.redrawn and job.coarse.parts:
                values[PART_MAPS], values[PART_LABELS] = stack.parts(z)
            for array, value in values.items():
                written += FIXED[array].write(job, np.asarray(value), z=z)
        lost = [z for z in lost if not cluster.fixes.of(z).excluded]
        remarks = list(stack.remarks)
        if lost:
            named = listed_sections(job, sorted(lost))
            remarks.append(f"resembles none of its neighbours where the fixes place it: {named}")
        return Result(
            outcome=Outcome.LOW_QUALITY if remarks else Outcome.OK,
            message="; ".join(remarks),
            bytes_read=job.source_bytes(len(stack.sections) * job.section_pixels, mip=stack.mip),
            bytes_written=written,
        )

    def footprint(self) -> Footprint:
        """Read the moved sections and those around, with their places; write the moved ones' places."""
        job, moved = self.job, self.cluster.moved
        near = moved[0] - job.coarse.neighbours, moved[-1] + job.coarse.neighbours + 1
        drawn = self.cluster.redrawn
        return Footprint(
            reads=(
                *job.source_regions(*near, fixes=self.cluster.fixes),
                *(array.region(job, *near) for array in PLACES),
                *(
                    region
                    for z in fitted_rows(job, drawn, self.cluster.fixes)
                    for region in part_regions(job, z, z + 1)
                ),
            ),
            writes=(
                *(FIXED[array].region(job, z, z + 1) for array in PLACES for z in moved),
                *(FIXED[array].region(job, z, z + 1) for array in read_part_arrays(job) for z in drawn),
            ),
        )


def coarse_fix_tasks(stage: Stage, job: Job) -> Iterator[CoarseFixesTask]:
    """Yield a task for each cluster that moves sections."""
    for cluster in fix_clusters(job):
        if cluster.moved:
            yield CoarseFixesTask(
                **stage.task_fields(job, f"{FIX_TASKS}-z{cluster.moved[0]:06d}", clusters=[cluster]), cluster=cluster
            )


class _Stack:
    """The sections around a cluster, and what is known of their places."""

    def __init__(self, job: Job, cluster: FixCluster) -> None:
        self.job, self.cluster, self.mip = job, cluster, thumbnail_mip(job)
        self.volume = open_source(job, fixes=cluster.fixes)
        self.sections: dict[int, CoarseSection] = {}
        self.remarks: list[str] = []
        self._sides: dict[int, tuple[Float64Array, AnyArray]] = {}
        steps = job.coarse.neighbours
        self.near = range(max(0, cluster.moved[0] - steps), min(job.shape[0], cluster.moved[-1] + steps + 1))
        read = {array: array.read(job, z=self.near) for array in PLACES}
        self.maps: dict[int, Affine] = dict(zip(self.near, read[COARSE], strict=True))
        self._gross = dict(zip(self.near, read[COARSE_GROSS], strict=True))
        self._states = dict(zip(self.near, read[COARSE_STATE].tolist(), strict=True))
        self.inverted = {z: bool(v) for z, v in zip(self.near, read[COARSE_INVERTED].tolist(), strict=True)}
        self._known = {
            z
            for z in self.near
            if z not in cluster.moved and not cluster.fixes.of(z).excluded and self._states[z] != SectionState.BRIDGED
        }
        for z in cluster.moved:
            now, before = cluster.fixes.of(z), cluster.fitted.of(z)
            if now.inverted != before.inverted:
                self.inverted[z] = now.inverted

    def place(self, z: int) -> bool:
        """Find the place of a moved section; return False if no pair ties it to its neighbours."""
        job, fix = self.job, self.cluster.fixes.of(z)
        if z in self.cluster.redrawn and not fix.excluded:
            if self._place_parts(z):
                return True
            if self._keeps_parts(z):
                return bool(self._states[z] != SectionState.BRIDGED)  # lines that separate nothing move nothing
        start, is_given = self._start(z)
        found: list[tuple[Affine, float]] = []
        for other in self._neighbours(z) if not fix.excluded else ():
            search = partial(
                estimate_pair, fixed=self._section(z), moving=self._section(other), pixel=float(2**self.mip)
            )
            between = compose_affine(outer=self.maps[other], inner=invert_affine(start))
            pair = search(start=between, narrow=is_given)
            points = np.array(self.cluster.fixes.points_between(z, other))
            if len(points):
                pair = pair_of_points(
                    pair,
                    points,
                    search=partial(search, narrow=True),
                    least=job.coarse.min_ratio,
                    shape_yx=job.shape_yx,
                )
                if rests_on_points(pair):
                    self.remarks.append(unconfirmed_points(z, other, len(points)))
            if pair.ratio >= job.coarse.min_ratio:
                place = compose_affine(outer=invert_affine(pair.affine), inner=self.maps[other])
                found.append((place, _POINTS_WEIGHT if len(points) else 1.0))
        self.maps[z] = _agreed(found, start=start, shape_yx=job.shape_yx)
        if found:
            self._known.add(z)
        return bool(found)

    def gross(self, z: int) -> Affine:
        """Return what happened to a section as a whole, seen from its neighbours."""
        fix = self.cluster.fixes.of(z)
        if z in self._sides:
            # Where a part was moved to says nothing of how sections are distorted.
            return compose_affine(outer=self.maps[z], inner=invert_affine(self._upright(z)))
        if z in self.cluster.redrawn and self._keeps_parts(z):
            return np.asarray(self._gross[z])
        placed = placed_map(fix, shape_yx=self.job.shape_yx) if fix.turned else None
        if placed is not None:
            return placed
        return simplified(compose_affine(outer=self.maps[z], inner=invert_affine(self._upright(z))), self.job.shape_yx)

    def parts(self, z: int) -> tuple[Float64Array, AnyArray]:
        """Return maps `(part, 2, 3)` and labels `(y, x)` of the parts of a section, as they are stored."""
        if z in self._sides:
            return self._sides[z]
        (row,) = fitted_rows(self.job, (z,), self.cluster.fixes)
        maps, labels = PART_MAPS.read(self.job, z=row), PART_LABELS.read(self.job, z=row)
        # Parts that an earlier line has made, or that are elsewhere now, are gone.
        return (maps, labels) if self._keeps_parts(z) else (np.full_like(maps, np.nan), np.zeros_like(labels))

    def state(self, z: int, *, is_lost: bool) -> SectionState:
        """Return the state of a moved section."""
        if self.cluster.fixes.of(z).excluded:
            return SectionState.EXCLUDED
        return SectionState.BRIDGED if is_lost else SectionState.TIED

    def _keeps_parts(self, z: int) -> bool:
        """Return whether a section stays as it is in the fit if its lines separate nothing."""
        now, before = self.cluster.fixes, self.cluster.fitted
        if before.of(z).splits or now.points_of(z) != before.points_of(z):
            return False
        return replace(now.of(z), splits=()) == replace(before.of(z), splits=())

    def _place_parts(self, z: int) -> bool:
        """Place the parts of a section on both sides of its lines; return False if it is whole."""
        fix, job = self.cluster.fixes.of(z), self.job
        if not job.coarse.parts:
            return False
        start, mip = self._start(z)[0], parts_mip(job)
        box = Box((0, 0, 0), (1, *shape_at_mip(job.shape_yx, mip=mip)), mip)
        known = sorted((n for n in self._known if n != z), key=lambda n: abs(n - z))
        others = [next(iter(side), None) for side in ([n for n in known if n < z], [n for n in known if n > z])]
        near = [n for n in others if n is not None]
        rigid = rigid_place(start, [self.maps[n] for n in near], shape_yx=job.shape_yx)
        image, valid = read_aligned(self.volume, z=z, box=box, affine=rigid)
        beside = {
            n: (Neighbour(*read_aligned(self.volume, z=n, box=box, affine=self.maps[n])), self.maps[n]) for n in near
        }
        if fix.splits:
            points = self.cluster.fixes.points_of(z)
            found = find_drawn_parts(image, beside, valid=valid, lines=fix.splits, points=points, affine=rigid, box=box)
        else:
            found = find_parts(image, [each for each, _ in beside.values()], valid=valid)
        if found is None:
            return False
        self.maps[z], maps, labels = parts_in_source(found, rigid, box=box)
        self._sides[z] = maps, labels
        self._known.add(z)
        return True

    def _start(self, z: int) -> tuple[Affine, bool]:
        """Return where the search for a section begins, and whether the user gave just this place."""
        fix = self.cluster.fixes.of(z)
        if fix.affine is not None:
            return np.array(fix.affine), True
        placed = placed_map(fix, shape_yx=self.job.shape_yx)
        if placed is not None:
            return compose_affine(outer=placed, inner=self._upright(z)), False
        # Points in sections with lines are about one side each.
        given = {} if fix.splits and self.job.coarse.parts else self.cluster.fixes.points_of(z)
        for other, points in sorted(given.items(), key=lambda item: -len(item[1])):
            if other in self.maps and (other in self._known or other not in self.cluster.moved):
                between = fit_points(np.array(points))
                return compose_affine(outer=invert_affine(between), inner=self.maps[other]), False
        was_upright = not self.cluster.fitted.of(z).is_placed
        if was_upright and self._states[z] == SectionState.TIED and fix.other == self.cluster.fitted.of(z).other:
            return self.maps[z], False
        return self._upright(z), False

    def _upright(self, z: int) -> Affine:
        """Return the place that the nearest known sections have, without what happened to them as a whole."""
        known = [n for n in sorted(self._known) if n != z and not self.cluster.fixes.of(n).is_placed]
        sides = [
            min(side, key=lambda n: abs(n - z))
            for side in ([n for n in known if n < z], [n for n in known if n > z])
            if side
        ]
        if not sides:
            sides = [min(self.near, key=lambda n: (abs(n - z), n == z))]
        maps = [compose_affine(outer=invert_affine(self._gross[n]), inner=self.maps[n]) for n in sides]
        weights = [1.0 / max(1, abs(n - z)) for n in sides]
        return np.asarray(np.average(maps, axis=0, weights=weights))

    def _neighbours(self, z: int) -> list[int]:
        return [n for n in self.near if n != z and abs(n - z) <= self.job.coarse.neighbours and n in self._known]

    def _section(self, z: int) -> CoarseSection:
        if z not in self.sections:
            self.sections[z] = read_coarse_section(
                self.job, self.volume, z=z, mip=self.mip, is_inverted=self.inverted[z]
            )
        return self.sections[z]


def _agreed(found: list[tuple[Affine, float]], *, start: Affine, shape_yx: tuple[int, int]) -> Affine:
    """Return the map that most of some maps, each with a weight, agree on (IRLS); the start if there are none."""
    if not found:
        return start
    maps, weights = np.array([place for place, _ in found]), np.array([weight for _, weight in found])
    spread = np.array([shape_yx[0] ** 2 / 12, shape_yx[1] ** 2 / 12, 1.0])
    centre = np.asarray(shape_yx) / 2
    middle = maps.copy()
    middle[:, :, 2] += maps[:, :, :2] @ centre  # seen from the centre, where shift and linear part are independent
    best = np.average(middle, axis=0, weights=weights)
    scale = _SCALE * float(np.mean(shape_yx))
    for _ in range(_ITERATIONS):
        distance = np.sqrt(((middle - best) ** 2 @ spread).sum(axis=1))
        best = np.average(middle, axis=0, weights=weights / np.maximum(distance, 0.1 * scale))
    return np.column_stack([best[:, :2], best[:, 2] - best[:, :2] @ centre])


def _outside_first(sections: tuple[int, ...]) -> list[int]:
    """Return sections in the order in which they have placed neighbours."""
    middle = (sections[0] + sections[-1]) / 2
    return sorted(sections, key=lambda z: -abs(z - middle))
