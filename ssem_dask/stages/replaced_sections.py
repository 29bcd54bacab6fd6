"""Sections that are shown in the place of others: of those without a place, and of those that a fix leaves out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from ssem_dask.diagnosis.tied_sections import placed_sections
from ssem_dask.fixes.section_fixes import NO_FIXES, VolumeFixes
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.job import Job
from ssem_dask.storage.arrays import is_node, open_array
from ssem_dask.types import BoolArray

Unplaced: TypeAlias = Literal["as_is", "blank", "nearest"]
NEAREST_REACH = 8
"""Sections up to which the nearest one that has a place is shown instead of one that has none."""


class Shown(NamedTuple):
    """Sections that are shown in the place of others, and their share of the pixels."""

    sections: range
    weight: float = 1.0


def shown_sections(
    sections: range, *, unplaced: Unplaced, fixes: VolumeFixes, placed: Callable[[], BoolArray], labels: bool
) -> Iterator[tuple[range, tuple[Shown, ...]]]:
    """Yield runs of sections with what is shown in their place; nothing is shown if that is empty.

    Only sections that a fix leaves out are replaced and, if the configuration says so, those without a place.

    Args:
        sections: z of the sections.
        unplaced: what is shown for a section without a place, see `RenderStageConfig`.
        fixes: fixes that say which sections are left out.
        placed: returns which sections of the volume have a place.
        labels: whether pixels are ids, which cannot be mixed.
    """
    replaced: dict[int, tuple[Shown, ...]] = {}
    excluded = fixes.excluded(sections)
    if excluded or unplaced != "as_is":
        known = placed().copy()
        known[fixes.excluded(range(len(known)))] = False
        fills: dict[int, str] = {z: unplaced for z in sections if unplaced != "as_is" and not known[z]}
        fills |= {z: fixes.of(z).fill or "blank" for z in excluded}
        replaced = {z: _fill(z, fill, placed=known, labels=labels) for z, fill in fills.items()}
    start = sections.start
    for z in sorted(replaced):
        if start < z:
            yield range(start, z), (Shown(range(start, z)),)
        yield range(z, z + 1), replaced[z]
        start = z + 1
    if start < sections.stop:
        yield range(start, sections.stop), (Shown(range(start, sections.stop)),)


def _fill(z: int, fill: str, *, placed: BoolArray, labels: bool) -> tuple[Shown, ...]:
    """Return what is shown in the place of a section.

    Args:
        z: the section.
        fill: `blank`, `nearest` or `between`.
        placed: sections that can be shown.
        labels: whether pixels are ids, which cannot be mixed.
    """
    near = [n for n in range(max(0, z - NEAREST_REACH), min(len(placed), z + NEAREST_REACH + 1)) if placed[n]]
    if fill == "blank" or not near:
        return ()
    before, after = [n for n in near if n < z], [n for n in near if n > z]
    if fill == "between" and before and after and not labels:
        low, high = before[-1], after[0]
        share = (z - low) / (high - low)
        return Shown(range(low, low + 1), 1.0 - share), Shown(range(high, high + 1), share)
    shown = min(near, key=lambda n: abs(n - z))
    return (Shown(range(shown, shown + 1)),)


def nearest_reach(config: RenderStageConfig, fixes: VolumeFixes = NO_FIXES) -> int:
    """Return how far a section may be that is shown instead of another one."""
    filled = any(fix.fill in ("nearest", "between") for fix in fixes.sections.values())
    return NEAREST_REACH if config.unplaced == "nearest" or filled else 0


def showing_fixes(job: Job, sections: range) -> VolumeFixes:
    """Return the fixes that decide what a shard shows: of its sections, and of those that may take their place."""
    own = job.fixes.showing().within(sections)
    reach = nearest_reach(job.render, own)
    return job.fixes.showing().within(range(sections.start - reach, sections.stop + reach))


def support_rows(job: Job, sections: range) -> tuple[range, ...]:
    """Return the sections whose support says which of some sections have a place."""
    return range(job.fit.shape[0]), supporting(sections, count=job.shape[0])


def supporting(sections: range, *, count: int) -> range:
    """Return the sections whose pairs tie some sections, or those that may replace them, to others."""
    reach = 2 * NEAREST_REACH  # replacements, and the pairs of these
    return range(max(0, sections.start - reach), min(count, sections.stop + reach))


def with_replacements(sections: range) -> range:
    """Return some sections with all that may be shown in their place."""
    return range(max(0, sections.start - NEAREST_REACH), sections.stop + NEAREST_REACH)


def placed_by_support(
    support: str, *, changed: str, pairs: Sequence[tuple[int, int]], count: int, near: range, fitted: int
) -> BoolArray:
    """Return which sections have a place; all, if that is not known.

    Args:
        support: URL of `fields/pair_support`; empty: it is not known.
        changed: URL of the support of pairs that fixes have changed.
        pairs: (k, z) of these.
        count: number of sections.
        near: sections of which it is asked, and those around; the others are not read, but for the fit.
        fitted: number of sections of the fit, which say what support is usual.
    """
    if not support or not is_node(support):
        return np.ones(count, dtype=bool)
    stored = open_array(support, mode="r")
    usual, now = np.zeros((stored.shape[0], fitted)), np.zeros((stored.shape[0], count))
    for target, part in ((usual, range(fitted)), (now, near)):
        target[:, part.start : part.stop] = np.nan_to_num(np.asarray(stored[:, part.start : part.stop]))
    if pairs:
        array = open_array(changed, mode="r")
        for k, z in pairs:
            now[k - 1, z] = np.nan_to_num(array[k - 1, z])
    return placed_sections(now, usual=usual)
