"""Wide search of stage coarse: sections that match nothing in the usual range are compared with those around again.

Which pairs are searched follows from the ratios of all pairs, so every task reads all of them; most have nothing to do.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.field.affine import IDENTITY, invert_affine
from ssem_dask.geometry.region import Footprint
from ssem_dask.registration.coarse_alignment.pieces import REACH, WidePairs, pairs_to_search
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.registration.coarse_alignment.wide_search import SCALES, WideSection, search_pair
from ssem_dask.stages.array_rows.coarse_arrays import (
    COARSE_RATIO,
    WIDE_INVERTED,
    WIDE_PAIRS,
    WIDE_RATIO,
    WIDE_SIMILARITY,
)
from ssem_dask.stages.fixed_sections import placed_maps
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import open_source, read_coarse_section, thumbnail_mip
from ssem_dask.stages.stage import JobTask
from ssem_dask.storage.foreign_fields.section_maps import read_initial_affines
from ssem_dask.task import Result
from ssem_dask.types import AnyArray, BoolArray, Float64Array

WIDE_ARRAYS = WIDE_PAIRS, WIDE_RATIO, WIDE_SIMILARITY, WIDE_INVERTED


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseSearchTask(JobTask):
    """Wide search of the pairs of some sections with those before them."""

    start: int
    stop: int
    seen: range
    """Sections whose pairs decide which are searched."""

    def run(self) -> Result:
        """Search the pairs that need it."""
        job, first = self.job, self.seen.start
        given = given_sections(job)[first : self.seen.stop]
        wanted = pairs_to_search(COARSE_RATIO.read(job, z=self.seen), least=job.coarse.min_ratio, given=given)
        wanted = [((z + first, k), searched + first) for (z, k), searched in wanted]
        wanted = [((z, k), searched) for (z, k), searched in wanted if self.start <= z < self.stop]
        shape = (REACH, self.stop - self.start)
        affines, inverted = np.full((*shape, 2, 3), np.nan), np.zeros(shape, dtype=np.uint8)
        ratios, similarity = np.zeros(shape), np.full(shape, np.nan)
        volume, mip = open_source(job), thumbnail_mip(job)
        sections: dict[int, CoarseSection] = {}
        wide: dict[int, WideSection] = {}
        scales = {1.0}

        def section(z: int) -> CoarseSection:
            if z not in sections:
                sections[z] = read_coarse_section(
                    job, volume, z=z, mip=mip, is_inverted=job.fitted_fixes.of(z).inverted
                )
            return sections[z]

        with torch.inference_mode():
            # One section after the other, since the spectra of one take some 50 MB.
            for (z, k), searched in sorted(wanted, key=lambda item: (item[1], item[0][1])):
                if searched not in wide:
                    wide, scales = {searched: WideSection(section(searched))}, {1.0}
                other = z - k if searched == z else z
                # What matches its neighbours at no other scale matches no farther section at one.
                pair = search_pair(
                    fixed=section(other),
                    moving=wide[searched],
                    pixel=float(2**mip),
                    scales=SCALES if k == 1 else sorted(scales, key=SCALES.index),
                )
                if pair.ratio >= job.coarse.min_ratio:
                    scales.add(pair.scale)
                at = k - 1, z - self.start
                # Found is other → searched; wanted is z → z-k.
                affines[at] = pair.affine if searched == z - k else invert_affine(pair.affine)
                ratios[at], similarity[at], inverted[at] = pair.ratio, pair.similarity, pair.inverted
        z_range = range(self.start, self.stop)
        results: tuple[AnyArray, ...] = (affines, ratios, similarity, inverted)
        written = sum(array.write(job, values, z=z_range) for array, values in zip(WIDE_ARRAYS, results, strict=True))
        read = job.source_bytes(len(sections) * job.section_pixels, mip=mip)
        return Result(bytes_read=read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read all ratios, and sections with those around them; write the rows of the wide pairs."""
        job = self.job
        return Footprint(
            reads=(
                *job.source_regions(self.start - REACH, self.stop),
                COARSE_RATIO.region(job, self.seen.start, self.seen.stop),
            ),
            writes=tuple(array.region(job, self.start, self.stop) for array in WIDE_ARRAYS),
        )


def read_wide(job: Job, sections: range) -> tuple[WidePairs, Float64Array]:
    """Read the wide pairs of some sections, and the similarities of the sections `(R, Z)`."""
    pairs = WidePairs(
        WIDE_PAIRS.read(job, z=sections),
        WIDE_RATIO.read(job, z=sections),
        WIDE_INVERTED.read(job, z=sections).astype(bool),
    )
    return pairs, WIDE_SIMILARITY.read(job, z=sections)


def no_wide(sections: range) -> tuple[WidePairs, Float64Array]:
    """Return what `read_wide` does where nothing was searched."""
    shape = (REACH, len(sections))
    unknown = WidePairs(np.full((*shape, 2, 3), np.nan), np.zeros(shape), np.zeros(shape, dtype=bool))
    return unknown, np.full(shape, np.nan)


def initial_affines(job: Job) -> Float64Array | None:
    """Return the user's affines `(Z, 2, 3)`, NaN for sections without one; None if there is no file."""
    if job.coarse.initial is None:
        return None
    return read_initial_affines(job.coarse.initial, info=job.info, digest=job.coarse.initial_digest).affines


def given_sections(job: Job) -> BoolArray:
    """Return the sections whose affine the user gave, in a file of affines or as a fix."""
    return np.asarray(np.isfinite(_given_maps(job)).all(axis=(1, 2)))


def start_maps(job: Job) -> Float64Array:
    """Return the user's affines, and the identity for all other sections: what is said of one is said of it alone."""
    maps = _given_maps(job)
    known: BoolArray = np.asarray(np.isfinite(maps).all(axis=(1, 2)))
    return np.asarray(np.where(known[:, None, None], maps, IDENTITY))


def _given_maps(job: Job) -> Float64Array:
    """Return the maps `(Z, 2, 3)` that the user gave, NaN for sections without one; a fix replaces what a file says."""
    fixed = placed_maps(job, job.fitted_fixes)
    initial = initial_affines(job)
    return fixed if initial is None else np.asarray(np.where(np.isfinite(fixed), fixed, initial))
