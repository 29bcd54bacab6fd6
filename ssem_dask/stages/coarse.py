"""Stage coarse: whole-section affines between neighbours, from thumbnails, then one affine per section.

Each section is compared with the ones before it, then sections that match nothing are searched widely
(`coarse_search`). Sections are placed by these pairs, so that broken ones can be found (`coarse_parts`). The last task
solves for the affines of all sections.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ssem_dask.composition.separation.affine_separation import enough_pairs
from ssem_dask.fixes.section_fixes import VolumeFixes
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint
from ssem_dask.registration.coarse_alignment.initial import pair_between
from ssem_dask.registration.coarse_alignment.order import OrderCheck, check_order
from ssem_dask.registration.coarse_alignment.pair import estimate_pair
from ssem_dask.registration.coarse_alignment.pieces import describe_gross
from ssem_dask.registration.coarse_alignment.point_pairs import (
    fit_points,
    pair_of_points,
    rests_on_points,
    start_by_points,
)
from ssem_dask.stages.array_rows.coarse_arrays import (
    COARSE,
    COARSE_GROSS,
    COARSE_INVERTED,
    COARSE_PAIRS,
    COARSE_PLACED,
    COARSE_RATIO,
    COARSE_SIMILARITY,
    COARSE_STATE,
    PART_PLACED,
    SectionState,
)
from ssem_dask.stages.coarse_fixes import coarse_fix_tasks
from ssem_dask.stages.coarse_parts import (
    PART_ARRAYS,
    PARTS_REACH,
    CoarsePartsTask,
    broken_remarks,
    parts_estimate,
    read_part_arrays,
)
from ssem_dask.stages.coarse_places import Pieces, solve_places
from ssem_dask.stages.coarse_search import (
    WIDE_ARRAYS,
    CoarseSearchTask,
    given_sections,
    start_maps,
)
from ssem_dask.stages.configs import CoarseStageConfig
from ssem_dask.stages.fixed_points import unconfirmed_points
from ssem_dask.stages.fixed_rows import PLACES, create_fixed
from ssem_dask.stages.fixed_sections import excluded_sections
from ssem_dask.stages.grown_places import GrownPlacesTask
from ssem_dask.stages.job import GROWN_BEHIND, GROWN_DEPTH, SECTIONS_PER_THUMBNAIL_TASK, Growth, Job
from ssem_dask.stages.section_labels import listed_sections
from ssem_dask.stages.source_sections import open_source, read_coarse_section, read_thumbnails, thumbnail_mip
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask, Stage, with_fix_tasks
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.storage.foreign_fields.section_maps import read_initial_affines
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.task import Outcome, Result
from ssem_dask.types import ConfigBase
from ssem_dask.units import plural

_PAIR_ARRAYS = COARSE_PAIRS, COARSE_RATIO, COARSE_SIMILARITY
_SECTION_ARRAYS = COARSE, COARSE_GROSS, COARSE_INVERTED, COARSE_STATE


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarsePairsTask(JobTask):
    """Comparison of some sections with their neighbours before them."""

    start: int
    stop: int

    def run(self) -> Result:
        """Estimate the affine of each pair of thumbnails."""
        job = self.job
        volume, mip = open_source(job), thumbnail_mip(job)
        first = max(0, self.start - job.coarse.neighbours)
        given, maps, fixes = given_sections(job), start_maps(job), job.fitted_fixes
        led_maps = {moving: fit_points(np.array(points)) for (_, moving), points in fixes.pairs.items()}
        sections, remarks = {}, list[str]()
        affines = np.full((job.coarse.neighbours, self.stop - self.start, 2, 3), np.nan)
        ratios, similarity = np.full(affines.shape[:2], np.nan), np.full(affines.shape[:2], np.nan)
        with torch.inference_mode():
            numbers = range(first, self.stop)
            thumbnails = read_thumbnails(volume, sections=numbers, mip=mip)
            for z, thumbnail in zip(numbers, thumbnails, strict=True):
                sections[z] = read_coarse_section(
                    job, volume, z=z, mip=mip, is_inverted=fixes.of(z).inverted, thumbnail=thumbnail
                )
            for z in range(self.start, self.stop):
                for k in range(1, min(z, job.coarse.neighbours) + 1):
                    if fixes.of(z).excluded or fixes.of(z - k).excluded:
                        continue
                    known = bool(given[z]), bool(given[z - k])
                    search = partial(estimate_pair, fixed=sections[z], moving=sections[z - k], pixel=float(2**mip))
                    pair = search(start=pair_between(maps, z=z, k=k) if any(known) else None, narrow=all(known))
                    points = fixes.points_between(z, z - k)
                    led = start_by_points(led_maps, fixed=z, moving=z - k)
                    if not points and led is not None and pair.ratio < job.coarse.min_ratio:
                        pair = search(start=led, narrow=False)
                    if points:
                        pair = pair_of_points(
                            pair,
                            np.array(points),
                            search=lambda start: search(start=start, narrow=True),  # noqa: B023
                            least=job.coarse.min_ratio,
                            shape_yx=job.shape_yx,
                        )
                        if rests_on_points(pair):
                            remarks.append(unconfirmed_points(z, z - k, len(points)))
                    affines[k - 1, z - self.start] = pair.affine
                    ratios[k - 1, z - self.start] = pair.ratio
                    similarity[k - 1, z - self.start] = pair.similarity
        z_range = range(self.start, self.stop)
        written = COARSE_PAIRS.write(job, affines, z=z_range)
        written += COARSE_RATIO.write(job, ratios, z=z_range)
        COARSE_SIMILARITY.write(job, similarity, z=z_range)
        read = job.source_bytes(len(sections) * job.section_pixels, mip=mip)
        return Result(
            outcome=Outcome.LOW_QUALITY if remarks else Outcome.OK,
            message="; ".join(remarks),
            bytes_read=read,
            bytes_written=written + ratios.nbytes,
        )

    def footprint(self) -> Footprint:
        """Read sections and those before them; write their rows of the arrays of pairs."""
        return Footprint(
            reads=self.job.source_regions(self.start - self.job.coarse.neighbours, self.stop),
            writes=tuple(array.region(self.job, self.start, self.stop) for array in _PAIR_ARRAYS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseSectionsTask(JobTask):
    """One affine per section, from the pairs of all sections."""

    def run(self) -> Result:
        """Solve for the sections' affines and mark sections that are not tied, misplaced or repeated."""
        job = self.job
        pieces, sections, jumps = solve_places(job, with_parts=True)
        result = pieces.solved
        separate = job.coarse.sections == "separate" and enough_pairs(result.accepted.astype(np.float64))
        order = check_order(pieces.similarity)
        state = np.full(len(sections), SectionState.TIED, dtype=np.uint8)
        state[order.misplaced] = SectionState.MISPLACED
        state[order.repeated] = SectionState.REPEATED
        excluded = excluded_sections(job.fitted_fixes, count=len(sections))
        bridged = [z for z in result.bridged if not excluded[z]]
        state[bridged] = SectionState.BRIDGED
        state[excluded] = SectionState.EXCLUDED
        written = COARSE_STATE.write(job, state) + COARSE.write(job, sections)
        written += COARSE_GROSS.write(job, pieces.gross)
        COARSE_INVERTED.write(job, pieces.inverted.astype(np.uint8))
        remarks = _order_remarks(job, order) + _gross_remarks(pieces, job) + broken_remarks(job)
        if jumps:
            shown = listed_sections(job, jumps)
            remarks.append(f"all sections from here on seem displaced relative to those before: {shown}")
        if bridged:
            remarks.append(_bridged_remark(job, bridged, separate=separate))
        outcome = Outcome.LOW_QUALITY if remarks else Outcome.OK
        return Result(outcome=outcome, message="; ".join(remarks), bytes_written=written)

    def footprint(self) -> Footprint:
        """Read all pairs; write the affines of all sections."""
        return Footprint(
            reads=tuple(array.region(self.job) for array in (*_PAIR_ARRAYS, *_wide_arrays(self.job), *self._parts())),
            writes=tuple(array.region(self.job) for array in _SECTION_ARRAYS),
        )

    def _parts(self) -> tuple[RunArray, ...]:
        return (COARSE_PLACED, PART_PLACED) if self.job.coarse.parts else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarsePlacesTask(JobTask):
    """Places of all sections, in which their parts are searched."""

    def run(self) -> Result:
        """Solve for the sections' affines as if all sections were whole."""
        _, sections, _ = solve_places(self.job, with_parts=False)
        return Result(bytes_written=COARSE_PLACED.write(self.job, sections))

    def footprint(self) -> Footprint:
        """Read all pairs; write the places of all sections."""
        return Footprint(
            reads=tuple(array.region(self.job) for array in (*_PAIR_ARRAYS, *_wide_arrays(self.job))),
            writes=(COARSE_PLACED.region(self.job),),
        )


class CoarseStage(Stage):
    """Whole-section affines between neighbours, then one per section."""

    name = "coarse"
    upstream = ()
    config_type = CoarseStageConfig
    layout_keys = ("neighbours",)

    def resolve(self, config: ConfigBase, info: VolumeInfo) -> tuple[ConfigBase, list[str]]:
        """Check the initial affines and pin their content: a changed file is a changed configuration.

        Raises:
            SourceError: the file cannot be read.
            ConfigError: it does not hold one invertible map per section of the volume.
        """
        assert isinstance(config, CoarseStageConfig)
        if config.initial is None:
            return config, []
        file = read_initial_affines(config.initial, info=info, digest=config.initial_digest)
        return config.model_copy(update={"initial_digest": file.digest}), []

    def prepare(self, job: Job) -> None:
        """Create the arrays of pairs and of sections."""
        for array in (*_PAIR_ARRAYS, *_wide_arrays(job), *_part_arrays(job), *_SECTION_ARRAYS):
            array.create(job)
        create_fixed(job, *PLACES, *read_part_arrays(job))

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield the pairs of sections, the wide search, the search for parts, then the sections."""
        depth, placing = SECTIONS_PER_THUMBNAIL_TASK, job.fitted_fixes.placing()
        starts, fit = range(0, job.shape[0], depth), job.fit

        def spans() -> Iterator[tuple[int, int]]:
            return ((start, min(start + depth, job.shape[0])) for start in starts)

        yield (
            CoarsePairsTask(
                **self.task_fields(
                    job,
                    f"pairs-z{start:06d}",
                    pixels=(stop - start) * job.section_pixels,
                    fixes=placing.within(range(start - job.coarse.neighbours, start + depth)),
                    stop=start + depth,
                ),
                start=start,
                stop=stop,
            )
            for start, stop in spans()
        )
        if job.coarse.search:
            yield (
                CoarseSearchTask(
                    **self.task_fields(
                        fit if stop <= fit.shape[0] else job, f"search-z{start:06d}", fixes=placing, stop=start + depth
                    ),
                    start=start,
                    stop=stop,
                    seen=range(fit.shape[0]) if stop <= fit.shape[0] else range(max(0, start - GROWN_BEHIND), stop),
                )
                for start, stop in spans()
            )
        # Which sections are turned, left out or known to follow a jump decides where all others are.
        decisive = placing.joined(job.fitted_fixes.jumps())
        if job.coarse.parts:
            yield [CoarsePlacesTask(**self.task_fields(fit, "places-all", fixes=decisive))]
            if job.grown is not None:  # appended sections follow the places of the fit
                yield self._grown(job, job.grown, "grown-places", decisive, with_parts=False)
            yield (
                CoarsePartsTask(
                    **self.task_fields(job, f"parts-z{start:06d}", fixes=decisive, stop=start + depth),
                    start=start,
                    stop=stop,
                    # An appended section has its place for good: what comes after its block does not change it.
                    seen=range(
                        max(0, start - PARTS_REACH),
                        min(stop + PARTS_REACH, fit.shape[0]) if stop <= fit.shape[0] else stop,
                    ),
                )
                for start, stop in spans()
            )
        yield [CoarseSectionsTask(**self.task_fields(fit, "sections", fixes=decisive))]
        if job.grown is not None:
            yield self._grown(job, job.grown, "grown-sections", decisive, with_parts=True)
        yield coarse_fix_tasks(self, job)

    def _grown(self, job: Job, growth: Growth, name: str, fixes: VolumeFixes, *, with_parts: bool) -> Iterator[JobTask]:
        """Yield the tasks that place the appended sections."""
        for start in range(growth.registered, job.shape[0], GROWN_DEPTH):
            stop = start + GROWN_DEPTH
            yield GrownPlacesTask(
                **self.task_fields(job, f"{name}-z{start:06d}", fixes=fixes, stop=stop),
                start=start,
                stop=min(stop, job.shape[0]),
                with_parts=with_parts,
            )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost. Each task reads its sections and the neighbours before them, one band at a time."""
        z, y, x = job.shape
        tasks = ceil_div(z, SECTIONS_PER_THUMBNAIL_TASK)
        sections = z + (tasks - 1) * job.coarse.neighbours
        thumbnail, parts = job.coarse.thumbnail**2 * 4, parts_estimate(job)
        estimate = Estimate(
            tasks=tasks * (1 + job.coarse.search + job.coarse.parts) + job.coarse.parts + 1,
            pixels=job.size,
            bytes_read=job.source_bytes(sections * y * x, mip=thumbnail_mip(job)) + parts.bytes_read,
            bytes_written=z * ((job.coarse.neighbours * 8 + 6) * 8 + 1) + parts.bytes_written,
            files=(3 + len(_wide_arrays(job))) * tasks + len(_SECTION_ARRAYS) + parts.files,
            # A band of source pixels, pooled some rows at a time; the spectra of a thumbnail at all angles.
            memory=TASK_OVERHEAD_BYTES
            + min(y * x, 1 << 26) * (1 + job.info.dtype.itemsize)
            + max(thumbnail * 250, parts.memory),
        )
        return with_fix_tasks(estimate, coarse_fix_tasks(self, job))


def _wide_arrays(job: Job) -> tuple[RunArray, ...]:
    return WIDE_ARRAYS if job.coarse.search else ()


def _part_arrays(job: Job) -> tuple[RunArray, ...]:
    return (COARSE_PLACED, *PART_ARRAYS) if job.coarse.parts else ()


def _gross_remarks(pieces: Pieces, job: Job) -> list[str]:
    """Return what was found of sections that were turned, mirrored, inverted, scaled or shifted as a whole."""
    found: dict[str, list[int]] = {}
    given = given_sections(job)
    for z, (gross, inverted) in enumerate(zip(pieces.gross, pieces.inverted, strict=True)):
        words = [] if given[z] else describe_gross(gross, inverted=bool(inverted), shape_yx=job.shape_yx)
        if words:
            found.setdefault(" and ".join(words), []).append(z)
    return [
        f"{what}, which is allowed for, {plural(len(sections), 'section')}: {listed_sections(job, sections)}"
        for what, sections in found.items()
    ]


def _bridged_remark(job: Job, sections: list[int], *, separate: bool) -> str:
    placed = "independently" if separate else "like its neighbours"
    return (
        "no matching neighbour, or no connection to the other sections, for "
        f"{plural(len(sections), 'section')}, each of which was placed {placed}: "
        f"{listed_sections(job, sections)}"
    )


def _order_remarks(job: Job, order: OrderCheck) -> list[str]:
    """Return what the user should check; the order itself is not changed."""
    remarks = []
    if order.repeated:
        remarks.append(
            f"same image as an earlier section in {plural(len(order.repeated), 'section')}: "
            f"{listed_sections(job, order.repeated)}"
        )
    if order.misplaced:
        remarks.append(
            f"apparently out of order, but left in place, {plural(len(order.misplaced), 'section')}: "
            f"{listed_sections(job, order.misplaced)}"
        )
    return remarks
