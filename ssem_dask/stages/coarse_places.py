"""Places of all sections in stage coarse, from the pairs of both searches."""

from dataclasses import dataclass

import numpy as np

from ssem_dask.composition.separation.affine_log import has_parameters
from ssem_dask.composition.separation.affine_separation import enough_pairs, separate_affines
from ssem_dask.composition.separation.outlying_sections import outlying_maps
from ssem_dask.composition.separation.slabs import crossing_pairs
from ssem_dask.field.affine import IDENTITY, compose_affine
from ssem_dask.registration.coarse_alignment.initial import apply_corrections, relative_pairs
from ssem_dask.registration.coarse_alignment.pieces import REACH, label_pieces, place_pieces
from ssem_dask.registration.coarse_alignment.point_pairs import contradicting
from ssem_dask.registration.coarse_alignment.section_affines import SectionAffines, solve_sections
from ssem_dask.stages.array_rows.coarse_arrays import COARSE_PAIRS, COARSE_RATIO, COARSE_SIMILARITY
from ssem_dask.stages.coarse_parts import replace_broken_pairs
from ssem_dask.stages.coarse_search import WIDE_ARRAYS, given_sections, no_wide, read_wide, start_maps
from ssem_dask.stages.fixed_sections import inverted_sections
from ssem_dask.stages.job import Job
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.types import BoolArray, Float64Array


@dataclass(frozen=True, slots=True)
class Pieces:
    """The stack as one: gross maps, and pairs relative to them."""

    gross: Float64Array
    """Upright → source `(Z, 2, 3)`."""
    inverted: BoolArray
    """Sections of inverted contrast `(Z)`."""
    relative: Float64Array
    """Pairs `(R, Z, 2, 3)` of both searches, relative to the gross maps."""
    similarity: Float64Array
    """Correlations of aligned thumbnails `(R, Z)`."""
    solved: SectionAffines
    """Solution of the relative pairs."""


def pair_rows(job: Job) -> tuple[RunArray, ...]:
    """Return the arrays of pairs that `solve_places` reads."""
    return (COARSE_PAIRS, COARSE_RATIO, COARSE_SIMILARITY, *(WIDE_ARRAYS if job.coarse.search else ()))


def solve_places(job: Job, *, with_parts: bool, among: range | None = None) -> tuple[Pieces, Float64Array, list[int]]:
    """Return the pieces of the stack, the affine of each section, and the sections at which all are displaced.

    Args:
        job: the run.
        with_parts: whether the parts of broken sections are known, so that the largest one places its section.
        among: sections that are solved for, without the pairs that lead out of them; None: all.
    """
    among = range(job.shape[0]) if among is None else among
    pieces, fixes = _join_pieces(job, among, with_parts=with_parts), job.fitted_fixes
    sections, jumps, accepted = pieces.solved.sections, list[int](), pieces.solved.accepted.astype(np.float64)
    if job.coarse.sections == "separate" and enough_pairs(accepted):
        known = *fixes.undone_jumps, *fixes.kept_jumps, *job.slabs
        # Registration needs sections within its search range. Stage compose decides whether they were displaced, and
        # puts jumps back that the tissue has.
        separated = separate_affines(
            pieces.relative,
            accepted,
            shape_yx=job.shape_yx,
            thickness=job.thickness,
            certainty=1.0,
            known_jumps=sorted({z - among.start for z in known if z in among[1:]}),
        )
        found = [jump.z + among.start for jump in separated.jumps]
        sections, jumps = separated.sections, [z for z in found if z not in (*fixes.kept_jumps, *job.slabs)]
    return pieces, apply_corrections(pieces.gross, sections), jumps


def _join_pieces(job: Job, among: range, *, with_parts: bool) -> Pieces:
    """Find the gross maps of some sections, and join the pairs of both searches, and those of broken sections."""
    affines, ratios, similarity = (
        _padded(array.read(job, z=among), np.nan) for array in (COARSE_PAIRS, COARSE_RATIO, COARSE_SIMILARITY)
    )
    first, rows = among.start, slice(among.start, among.stop)
    points = {
        (fixed - first, moving - first): np.array(given)
        for (fixed, moving), given in job.fitted_fixes.pairs.items()
        if fixed in among and moving in among
    }
    ratios[contradicting(affines, ratios, points, least=job.coarse.min_ratio, shape_yx=job.shape_yx)] = 0.0
    wide, wide_similarity = read_wide(job, among) if job.coarse.search else no_wide(among)
    given = given_sections(job)[rows]
    placed = place_pieces(
        wide,
        label_pieces(ratios, least=job.coarse.min_ratio),
        start=start_maps(job)[rows],
        given=given,
        least=job.coarse.min_ratio,
        shape_yx=job.shape_yx,
    )
    believed = placed.believed
    affines[believed], ratios[believed] = wide.affines[believed], wide.ratios[believed]
    similarity[believed] = wide_similarity[believed]
    if with_parts:
        replace_broken_pairs(job, among, affines, ratios, gross=placed.gross)

    def solved(gross: Float64Array) -> Pieces:
        relative = relative_pairs(gross, affines)
        return Pieces(
            gross=gross,
            inverted=placed.inverted ^ inverted_sections(job.fitted_fixes, count=job.shape[0])[rows],
            relative=relative,
            similarity=similarity[: job.coarse.neighbours],
            # A pair that contradicts the gross maps, by a reflection or half a turn, is none.
            solved=solve_sections(
                relative, np.where(has_parameters(relative), ratios, 0.0), shape_yx=job.shape_yx, config=job.coarse
            ),
        )

    pieces = solved(placed.gross)
    trusted = (np.nan_to_num(ratios) >= job.coarse.min_ratio) & has_parameters(pieces.relative)
    trusted[np.arange(len(trusted))[:, None] >= np.arange(trusted.shape[1])] = False  # there is no section before
    # Across a border of slabs all sections are displaced, so none of them is out of place alone.
    across = crossing_pairs([z - first for z in job.slabs], steps=len(trusted), count=len(among))
    outlying = outlying_maps(
        pieces.relative, pieces.solved.accepted & ~across, trusted=trusted & ~across, shape_yx=job.shape_yx
    )
    outlying[given] = IDENTITY
    if (outlying == IDENTITY).all():
        return pieces
    return solved(np.array([compose_affine(outer=g, inner=o) for g, o in zip(placed.gross, outlying, strict=True)]))


def _padded(values: Float64Array, fill: float) -> Float64Array:
    """Return `(R, …)` of `(K, …)`."""
    missing = max(0, REACH - len(values))
    return np.concatenate([values, np.full((missing, *values.shape[1:]), fill)])
