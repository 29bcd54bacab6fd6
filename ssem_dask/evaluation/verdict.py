"""The verdict of an evaluation: one sentence that says whether the alignment is good, and which figures mean little."""

import math
from collections.abc import Mapping

from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.truth import Truth

_GOOD_NM = 10.0
"""Error that is good whatever it was before: the width of a membrane."""
_GOOD_SHARE, _FAIR_SHARE = 0.1, 0.3
"""Shares of the deformation that may remain in a good and in a fair alignment."""
_OF_THE_SOURCE = ("jitter_", "drift_")
"""Beginnings of the names of metrics that count what the undeformed sections have of their own."""


def make_verdict(
    values: Mapping[str, Mapping[str, float]], *, truth: Truth | None, has_reference: bool, pixel_size: float
) -> str:
    """Return the verdict.

    Args:
        values: metrics by candidate.
        truth: known deformation; None if there is none.
        has_reference: whether the undeformed sections were aligned too.
        pixel_size: nm.
    """
    if truth is None:
        return "No verdict: without a known truth nothing says how far sections are from their right places."
    if has_reference:
        return _graded(values, "recovery", "of the known deformation remain between adjacent sections", pixel_size)
    if isinstance(truth.source, PhantomConfig):
        return _graded(values, "jitter", "is the jump between adjacent sections", pixel_size)
    return (
        "No verdict yet: jitter and drift count what the undeformed sections have of their own too, and mean nothing "
        f"unless those were aligned. Align them ({truth.source}) and give that run as --undeformed: the recovery is "
        "then the error of the alignment alone."
    )


def metrics_in_doubt(names: Mapping[str, float], *, truth: Truth | None) -> tuple[str, ...]:
    """Return the metrics that mean little: those of sections that nothing says were aligned before they were deformed.

    Args:
        names: metrics that were measured.
        truth: known deformation; None if there is none.
    """
    if truth is None or isinstance(truth.source, PhantomConfig):
        return ()
    return tuple(name for name in names if name.startswith(_OF_THE_SOURCE))


def _graded(values: Mapping[str, Mapping[str, float]], metric: str, what: str, pixel_size: float) -> str:
    before = values["observed"].get(f"{metric}_median", math.nan)
    after = values["aligned"].get(f"{metric}_median", math.nan)
    worst = values["aligned"].get(f"{metric}_p95", math.nan)
    if not math.isfinite(after):
        return "No verdict: no error could be measured."
    share = after / before if before > 0 else math.nan
    is_good = after * pixel_size <= _GOOD_NM or share <= _GOOD_SHARE
    grade = "Good" if is_good else "Fair" if share <= _FAIR_SHARE else "Poor"
    return (
        f"{grade}: {after:.2f} px ({after * pixel_size:.1f} nm) {what}, median; 95th percentile {worst:.2f} px; before "
        f"alignment {before:.2f} px. Good is at most {_GOOD_NM:.0f} nm, the width of a membrane, or a tenth of what "
        "there was."
    )
