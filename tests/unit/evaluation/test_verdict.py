"""The verdict of an evaluation."""

from types import SimpleNamespace
from typing import Any

import pytest

from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.verdict import make_verdict, metrics_in_doubt

PHANTOM: Any = SimpleNamespace(source=PhantomConfig(seed=1, shape=(4, 64, 64)))
REAL: Any = SimpleNamespace(source="volume.zarr")


def values(metric: str, *, before: float, after: float) -> dict[str, dict[str, float]]:
    return {
        "observed": {f"{metric}_median": before},
        "aligned": {f"{metric}_median": after, f"{metric}_p95": 2 * after},
    }


@pytest.mark.parametrize(
    ("before", "after", "pixel_size", "grade"),
    [
        (17.4, 1.25, 5.0, "Good"),  # less than a membrane
        (90.0, 8.0, 5.0, "Good"),  # a tenth
        (17.0, 5.0, 5.0, "Fair"),
        (17.0, 9.0, 5.0, "Poor"),
        (17.0, 1.25, 50.0, "Good"),
        (3.0, 4.0, 5.0, "Poor"),
    ],
)
def test_jumps_of_a_phantom_are_graded(before: float, after: float, pixel_size: float, grade: str) -> None:
    measured = values("jitter", before=before, after=after)
    said = make_verdict(measured, truth=PHANTOM, has_reference=False, pixel_size=pixel_size)
    assert said.startswith(f"{grade}: {after:.2f} px ({after * pixel_size:.1f} nm)")
    assert metrics_in_doubt(measured["aligned"], truth=PHANTOM) == ()


def test_jumps_of_real_sections_mean_nothing_but_their_recovery_does() -> None:
    measured = values("jitter", before=20.0, after=1.0)
    said = make_verdict(measured, truth=REAL, has_reference=False, pixel_size=5.0)
    assert said.startswith("No verdict yet")
    assert "(volume.zarr)" in said
    assert "--undeformed" in said
    assert metrics_in_doubt(measured["aligned"], truth=REAL) == ("jitter_median", "jitter_p95")
    recovered = values("recovery", before=20.0, after=1.0)
    assert make_verdict(recovered, truth=REAL, has_reference=True, pixel_size=5.0).startswith("Good: 1.00 px")


def test_without_a_truth_there_is_no_verdict() -> None:
    assert make_verdict({}, truth=None, has_reference=False, pixel_size=5.0).startswith("No verdict")
