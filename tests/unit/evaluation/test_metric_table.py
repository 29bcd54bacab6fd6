"""The table of metrics: what is measured is in it."""

import math

import pytest

from ssem_dask.errors import PlanError
from ssem_dask.evaluation.metric_table import METRICS, measured_metrics
from ssem_dask.storage.evaluation_file import EvaluationRow


def test_metrics_are_shown_in_the_order_of_the_table() -> None:
    rows = [
        EvaluationRow("observed", {"ncc": 0.5}),
        EvaluationRow("aligned", {"jitter_p95": 1.0, "cpc_64px": math.nan}),
    ]
    assert measured_metrics(rows) == (METRICS["jitter_p95"], METRICS["ncc"])


def test_a_metric_that_the_table_does_not_have_is_refused() -> None:
    with pytest.raises(PlanError, match=r"not in METRICS of evaluation\.metric_table: brightness"):
        measured_metrics([EvaluationRow("aligned", {"ncc": 0.5, "brightness": 1.0})])
