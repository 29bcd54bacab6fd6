"""Measuring aligned sections for their names: similarity over up to three sections, and what sets one apart.

Sections are compared whole, at the mip where their longer side has at most `EVIDENCE_PX`. Their neighbours on both
sides are read too, so that a section does not depend on the task that measures it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.diagnosis.local_likeness import block_likeness, likeness, unlike_share
from ssem_dask.diagnosis.odd_regions import ComparedSection, OddRegions, find_odd_regions
from ssem_dask.diagnosis.steps import largest_step
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.stages.job import Job
from ssem_dask.stages.pair_support import read_placed
from ssem_dask.stages.source_sections import open_source
from ssem_dask.stages.thumbnails import thinned_field, warp_thumbnails
from ssem_dask.storage.volume import Volume
from ssem_dask.types import Float64Array

EVIDENCE_PX = 512
"""Longest side of the images that are compared, px."""
REACH = 3
"""Sections before and after that a section is compared with."""
_STEP_REACH_SHARE = 1 / 9
"""Distance up to which both sides of a line are compared, as a share of the shorter side."""
_MARGIN_PX = 4
"""Pixels inside the frame of the source that are not judged, since interpolation reaches beyond it."""
_LEAST_TISSUE = 0.5
"""Tissue of a neighbour, relative to the median, with which a section can be compared."""


@dataclass(frozen=True, slots=True)
class _AlignedSection:
    """One section at the mip where sections are compared."""

    compared: ComparedSection
    inside: Tensor
    """True where the aligned section shows a part of its source."""
    step: float
    """See `diagnosis.steps`."""

    @property
    def image(self) -> Tensor:
        """Pixels, float32."""
        return self.compared.image

    @property
    def mask(self) -> Tensor:
        """True on tissue."""
        return self.compared.mask

    @property
    def tissue(self) -> float:
        """Share of its source, as far as it is shown, that is tissue."""
        shown = int(self.inside.sum())
        return float((self.mask & self.inside).sum()) / shown if shown else math.nan


def evidence_mip(job: Job) -> int:
    """Return the mip at which sections are compared; the coarsest stored one if that is finer."""
    wanted = math.ceil(math.log2(max(1.0, max(job.shape_yx) / EVIDENCE_PX)))
    return max(0, min(wanted, job.mips - 1))


def measure_evidence(job: Job, aligned: Volume, sections: range) -> dict[str, Float64Array]:
    """Return columns `(sections,)` of `quality/sections` for the names of sections."""
    first, last = max(0, sections.start - REACH), min(job.shape[0], sections.stop + REACH)
    seen = dict(zip(range(first, last), _read_sections(job, aligned, range(first, last)), strict=True))
    names = "odd_dark", "odd_bright", "odd_empty", "odd_length", "odd_width", "odd_tone"
    columns = {name: np.full(len(sections), np.nan) for name in ("tissue", "unlike", "step", *names)}
    columns |= {f"likeness_{k}": np.full(len(sections), np.nan) for k in range(1, REACH + 1)}
    shown = np.array([section.tissue for section in seen.values()])
    shown = shown[np.isfinite(shown)]
    usual = float(np.median(shown)) if len(shown) else math.nan
    for i, z in enumerate(sections):
        section = seen[z]
        columns["tissue"][i], columns["step"][i] = section.tissue, section.step
        for k in range(1, min(z, REACH) + 1):
            columns[f"likeness_{k}"][i] = _likeness(section, seen[z - k])
        if z - 1 in seen and z + 1 in seen:
            blocks = [_blocks(section, seen[z - 1]), _blocks(section, seen[z + 1]), _blocks(seen[z - 1], seen[z + 1])]
            columns["unlike"][i] = unlike_share(*blocks)
        odd = _odd_regions(seen, z, usual=usual)
        for name in names:
            columns[name][i] = getattr(odd, name.removeprefix("odd_"))
    return columns


def _odd_regions(seen: dict[int, _AlignedSection], z: int, *, usual: float) -> OddRegions:
    """Compare a section with the nearest one on either side that shows tissue; at an end, with two on one side."""
    near = sorted((n for n in seen if n != z), key=lambda n: (abs(n - z), n))
    near = [n for n in near if seen[n].tissue >= _LEAST_TISSUE * usual]
    before, after = [n for n in near if n < z], [n for n in near if n > z]
    pair = [*before[:1], *after[:1]] if before and after else (before or after)[:2]
    if len(pair) < 2:
        return OddRegions.none()
    own, one, other = seen[z], seen[pair[0]], seen[pair[1]]
    return find_odd_regions(
        own.compared,
        inside=own.inside,
        before=one.compared,
        after=other.compared,
        one_sided=not pair[0] < z < pair[1],
    )


def _likeness(first: _AlignedSection, second: _AlignedSection) -> float:
    return likeness(first.image.numpy(), second.image.numpy(), valid=(first.mask & second.mask).numpy())


def _blocks(first: _AlignedSection, second: _AlignedSection) -> Float64Array:
    return block_likeness(first.image.numpy(), second.image.numpy(), valid=(first.mask & second.mask).numpy())


def _read_sections(job: Job, aligned: Volume, sections: range) -> Iterator[_AlignedSection]:
    """Read whole aligned sections, as they would be without the user's choice for those without a place."""
    mip = evidence_mip(job)
    pixels = Grid(shape_at_mip(job.shape_yx, mip=mip), float(2**mip))
    withheld = (
        set[int]() if job.render.unplaced == "as_is" else set(np.flatnonzero(~read_placed(job, sections)).tolist())
    )
    source = open_source(job, fixes=job.fixes)
    # Read together, since a chunk holds several sections.
    stored = aligned.read(Box((sections.start, 0, 0), (sections.stop, *pixels.shape), mip))
    for z in sections:
        field, grid = thinned_field(job, z)
        where = pixels.positions()
        places = where + sample_known(field, grid=grid, positions=where)
        margin = _MARGIN_PX * float(2**mip)
        height, width = job.shape_yx
        inside = (places[0] > margin) & (places[0] < height - margin)
        inside &= (places[1] > margin) & (places[1] < width - margin)
        if z in withheld:
            ((image, mask),) = warp_thumbnails(source, sections=range(z, z + 1), mip=mip, places=[places])
        else:
            image = torch.from_numpy(stored[z - sections.start].astype(np.float32))
            mask = tissue_mask(image)
        step = largest_step(field.numpy(), spacing=grid.spacing, reach=_STEP_REACH_SHARE * min(job.shape_yx))
        yield _AlignedSection(ComparedSection.of(image, mask=mask), inside, step)
