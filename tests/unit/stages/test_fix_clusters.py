"""Which sections a change of the fixes reaches."""

from dataclasses import dataclass
from typing import cast

import pytest

from ssem_dask.fixes.section_fixes import NO_FIXES, SectionFixes, VolumeFixes
from ssem_dask.stages.fix_clusters import MARGIN, REACH, FixCluster, clusters_at, fix_clusters
from ssem_dask.stages.job import Job


@dataclass(frozen=True)
class Fixed:
    """The part of a job that is looked at."""

    fixes: VolumeFixes
    fitted_fixes: VolumeFixes = NO_FIXES
    shape: tuple[int, int, int] = (200, 64, 64)


def clusters(fixes: VolumeFixes, fitted: VolumeFixes = NO_FIXES) -> tuple[FixCluster, ...]:
    return fix_clusters(cast(Job, Fixed(fixes, fitted)))


EXCLUDE = SectionFixes(fill="blank")
MASK = SectionFixes(masks=(((0.0, 0.0), (0.0, 9.0), (9.0, 0.0)),))
SPLIT = SectionFixes(splits=(((0.0, 5.0), (9.0, 5.0)),))


def test_a_change_reaches_seven_sections_and_fades() -> None:
    (cluster,) = clusters(VolumeFixes(sections={100: EXCLUDE}))
    assert cluster.sections == range(101 - REACH, 100 + REACH)
    assert cluster.read == range(101 - REACH - MARGIN, 100 + REACH + MARGIN)
    weights = [cluster.weight(100 + d) for d in range(REACH + 1)]
    assert weights[:5] == [1.0] * 5
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] == 0.0
    assert cluster.weight(96) == cluster.weight(104)


def test_changes_near_each_other_are_one_cluster_and_others_are_not() -> None:
    near = clusters(VolumeFixes(sections={20: EXCLUDE, 20 + 2 * REACH - 1: MASK, 90: MASK}))
    assert [cluster.changed for cluster in near] == [(20, 20 + 2 * REACH - 1), (90,)]
    # Each follows its own changes alone, so that a change elsewhere does not concern it.
    assert near[1].fixes.sections.keys() == {90}
    (alone,) = clusters(VolumeFixes(sections={90: MASK}))
    assert alone == near[1]
    assert alone.digest == near[1].digest


def test_only_what_differs_from_the_fit_is_changed() -> None:
    fitted = VolumeFixes(sections={50: EXCLUDE, 52: MASK})
    assert clusters(fitted, fitted) == ()
    (cluster,) = clusters(VolumeFixes(sections={50: EXCLUDE}), fitted)
    assert cluster.changed == (52,)
    # What the fit has of the sections around holds as well.
    assert cluster.fixes.sections == {50: EXCLUDE}
    (taken_back,) = clusters(NO_FIXES, fitted)
    assert taken_back.changed == (50, 52)


def test_what_is_shown_and_jumps_change_no_field() -> None:
    blank, nearest = (VolumeFixes(sections={5: SectionFixes(fill=fill)}) for fill in ("blank", "nearest"))
    assert clusters(nearest, blank) == ()
    assert clusters(VolumeFixes(kept_jumps=(7,))) == ()


@pytest.mark.parametrize(
    ("fixes", "moved", "pairs"),
    [
        (VolumeFixes(sections={9: EXCLUDE}), (9,), {(1, 9), (2, 9), (1, 10), (2, 11)}),
        (VolumeFixes(sections={9: MASK}), (), {(1, 9), (2, 9), (1, 10), (2, 11)}),
        # The sides of a line are placed again.
        (VolumeFixes(sections={9: SPLIT}), (9,), {(1, 9), (2, 9), (1, 10), (2, 11)}),
        # Points move the moving section; of the fixed one only the pair with them changes.
        (VolumeFixes(pairs={(9, 10): ((1.0, 1.0, 1.0, 1.0, 5.0),)}), (10,), {(1, 10), (2, 10), (1, 11), (2, 12)}),
        (VolumeFixes(sections={0: EXCLUDE}), (0,), {(1, 1), (2, 2)}),
        (VolumeFixes(sections={199: EXCLUDE}), (199,), {(1, 199), (2, 199)}),
    ],
)
def test_moved_sections_and_changed_pairs(
    fixes: VolumeFixes, moved: tuple[int, ...], pairs: set[tuple[int, int]]
) -> None:
    (cluster,) = clusters(fixes)
    assert cluster.moved == moved
    assert cluster.pairs(steps=2, count=200) == pairs


def test_parts_are_found_again_if_lines_come_go_or_have_points() -> None:
    points = {(8, 9): ((1.0, 1.0, 1.0, 1.0, 5.0),)}
    drawn = VolumeFixes(sections={9: SPLIT})
    for now, fitted in ((drawn, NO_FIXES), (NO_FIXES, drawn), (VolumeFixes(sections={9: SPLIT}, pairs=points), drawn)):
        (cluster,) = clusters(now, fitted)
        assert cluster.redrawn == (9,)
    (cluster,) = clusters(VolumeFixes(pairs=points))
    assert cluster.redrawn == ()


def test_clusters_are_found_by_the_sections_that_they_reach() -> None:
    job = cast(Job, Fixed(VolumeFixes(sections={100: EXCLUDE})))
    assert clusters_at(job, range(100 + REACH, 200)) == ()
    assert clusters_at(job, range(0, 101 - REACH)) == ()
    assert len(clusters_at(job, range(100 + REACH - 1, 120))) == 1
