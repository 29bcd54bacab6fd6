"""Places of appended sections in stage coarse: each follows from the sections before it, and never changes again.

The place of a section is what all that register it and warp it are relative to. So it must not depend on what comes
later, or every batch would register the sections of the batch before again. A section is placed by its pairs and those
of the sections before it, as if it were the last of a short stack. Stage compose, which sees the sections after it,
corrects that.
"""

from dataclasses import dataclass

import numpy as np

from ssem_dask.field.affine import IDENTITY, compose_affine, invert_affine
from ssem_dask.geometry.region import Footprint
from ssem_dask.registration.coarse_alignment.order import check_order
from ssem_dask.stages.array_rows.coarse_arrays import (
    COARSE,
    COARSE_GROSS,
    COARSE_INVERTED,
    COARSE_PLACED,
    COARSE_STATE,
    SectionState,
)
from ssem_dask.stages.coarse_parts import replaced_part_regions
from ssem_dask.stages.coarse_places import Pieces, pair_rows, solve_places
from ssem_dask.stages.fixed_sections import excluded_sections
from ssem_dask.stages.job import GROWN_BEHIND, Job
from ssem_dask.stages.section_labels import listed_sections
from ssem_dask.stages.stage import JobTask
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.task import Outcome, Result
from ssem_dask.types import Float64Array
from ssem_dask.units import plural

_SMALL_SHIFT = 0.02
"""Shift between the frames of the fit and of a short stack, as a share of the side, that is uncertainty alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownPlacesTask(JobTask):
    """Places of a block of appended sections."""

    start: int
    stop: int
    with_parts: bool
    """Whether the parts of broken sections are known; if not, their places are written in which these are searched."""

    def run(self) -> Result:
        """Place one section after the other."""
        job, block = self.job, range(self.start, self.stop)
        solved = [self._solve(z) for z in block]
        frame = self._frame()
        places = np.array([compose_affine(outer=sections[-1], inner=frame) for _, sections in solved])
        if not self.with_parts:
            return Result(bytes_written=COARSE_PLACED.write(job, places, z=block))
        gross = np.array([compose_affine(outer=pieces.gross[-1], inner=frame) for pieces, _ in solved])
        inverted = np.array([pieces.inverted[-1] for pieces, _ in solved])
        state = np.array([self._state(z, pieces) for z, (pieces, _) in zip(block, solved, strict=True)], dtype=np.uint8)
        written = COARSE.write(job, places, z=block) + COARSE_GROSS.write(job, gross, z=block)
        written += COARSE_INVERTED.write(job, inverted.astype(np.uint8), z=block)
        written += COARSE_STATE.write(job, state, z=block)
        bridged = [z for z, code in zip(block, state, strict=True) if code == SectionState.BRIDGED]
        return Result(
            outcome=Outcome.LOW_QUALITY if bridged else Outcome.OK,
            message=f"no matching neighbour before {plural(len(bridged), 'section')}: {listed_sections(job, bridged)}"
            if bridged
            else "",
            bytes_written=written,
        )

    def footprint(self) -> Footprint:
        """Read pairs of the sections and of those before, and the end of the fit; write the places."""
        job, first = self.job, max(0, self.start - GROWN_BEHIND)
        fit = _last_of_fit(job)
        reads = [array.region(job, z.start, z.stop) for z in (range(first, self.stop), fit) for array in pair_rows(job)]
        reads.append(self._fitted.region(job, fit.start, fit.stop))
        if self.with_parts:
            for z in (range(first, self.stop), fit):
                reads += replaced_part_regions(job, z.start, z.stop)
        arrays = (COARSE, COARSE_GROSS, COARSE_INVERTED, COARSE_STATE) if self.with_parts else (COARSE_PLACED,)
        return Footprint(reads=tuple(reads), writes=tuple(array.region(job, self.start, self.stop) for array in arrays))

    @property
    def _fitted(self) -> RunArray:
        """The places of the fit that correspond to those that are solved for."""
        return COARSE if self.with_parts else COARSE_PLACED

    def _solve(self, z: int) -> tuple[Pieces, Float64Array]:
        """Solve for a section and those before it."""
        among = range(max(0, z - GROWN_BEHIND), z + 1)
        pieces, sections, _ = solve_places(self.job, with_parts=self.with_parts, among=among)
        return pieces, sections

    def _frame(self) -> Float64Array:
        """Return the map from the aligned frame of the fit to that of a short stack at its end.

        They differ if sections were turned as a whole, or displaced by a jump, for so long that they are all that a
        short stack knows.
        """
        job, fit = self.job, _last_of_fit(self.job)
        _, sections, _ = solve_places(job, with_parts=self.with_parts, among=fit)
        fitted = self._fitted.read(job, z=fit)
        between = [compose_affine(outer=invert_affine(a), inner=b) for a, b in zip(sections, fitted, strict=True)]
        frame = np.median(between, axis=0)
        centre = np.asarray(job.shape_yx) / 2
        moved = float(np.abs(frame[:, :2] @ centre + frame[:, 2] - centre).max())
        turned = float(np.abs(frame[:, :2] - np.eye(2)).max())
        is_small = max(moved / float(np.mean(job.shape_yx)), turned) < _SMALL_SHIFT
        return IDENTITY if is_small else np.asarray(frame)

    def _state(self, z: int, pieces: Pieces) -> SectionState:
        if excluded_sections(self.job.fitted_fixes, count=z + 1)[z]:
            return SectionState.EXCLUDED
        last = pieces.similarity.shape[1] - 1
        if last in check_order(pieces.similarity).repeated:
            return SectionState.REPEATED
        return SectionState.BRIDGED if last in pieces.solved.bridged else SectionState.TIED


def _last_of_fit(job: Job) -> range:
    growth = job.grown
    assert growth is not None
    return range(max(0, growth.registered - GROWN_BEHIND), growth.registered)
