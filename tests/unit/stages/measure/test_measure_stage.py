"""Stage measure: what makes its results outdated."""

import pytest

from ssem_dask.stages.job import Job
from ssem_dask.stages.measure import measure_stage
from ssem_dask.stages.measure.measure_stage import MeasureStage
from ssem_dask.storage.quality import Column


@pytest.mark.parametrize("table", ["SECTION_COLUMNS", "WINDOW_COLUMNS"])
def test_a_new_column_is_measured_in_runs_that_have_been_measured(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = object.__new__(Job)  # it decides nothing
    before = MeasureStage().decisive(job)
    assert before == MeasureStage().decisive(job)
    monkeypatch.setattr(measure_stage, table, {**getattr(measure_stage, table), "brightness": Column("1", "mean")})
    assert MeasureStage().decisive(job) != before
