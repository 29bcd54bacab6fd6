"""The record of an evaluation survives the file, belongs to one configuration, and a damaged file is no evaluation."""

import json
import math
from pathlib import Path

import pytest

from ssem_dask.storage.evaluation_file import (
    ErrorCurve,
    Evaluation,
    EvaluationRow,
    Metric,
    read_evaluation,
    write_evaluation,
)


def evaluation(run: str, *, truth: str | None = "truth.zarr") -> Evaluation:
    return Evaluation(
        run=run,
        truth=truth,
        labels=None,
        undeformed_run=None,
        sections=3,
        rows=(EvaluationRow("observed", {"jitter_median": 4.5}), EvaluationRow("aligned", {"jitter_median": 0.25})),
        metrics=(Metric("jitter_median", "px", "low", "difference of the alignment error"),),
        notes=("Without labels there is no Dice or IoU.",),
        curves={"aligned": ErrorCurve((0, 1, 2), (math.nan, 0.25, 0.5), (0.125, 0.0, 0.25))},
    )


def test_an_evaluation_is_kept_and_replaced(tmp_path: Path) -> None:
    run = str(tmp_path / "out.zarr")
    assert read_evaluation(run, config_digest="d") is None
    write_evaluation(evaluation(run, truth=None), config_digest="d")
    write_evaluation(evaluation(run), config_digest="d")
    kept = read_evaluation(run, config_digest="d")
    assert kept is not None
    assert kept.to_json() == evaluation(run).to_json()
    assert math.isnan(kept.curves["aligned"].jitter[0])
    assert kept.value("aligned", "jitter_median") == 0.25
    assert math.isnan(kept.value("coarse", "jitter_median"))


def test_an_evaluation_belongs_to_one_configuration(tmp_path: Path) -> None:
    run = str(tmp_path / "out.zarr")
    write_evaluation(evaluation(run), config_digest="d")
    assert read_evaluation(run, config_digest="another") is None


@pytest.mark.parametrize("content", ["", "[]", '{"config_digest": "d"}', '{"config_digest": "d", "rows": 3}'])
def test_a_damaged_file_is_no_evaluation(content: str, tmp_path: Path) -> None:
    run = tmp_path / "out.zarr"
    (run / "quality").mkdir(parents=True)
    (run / "quality" / "evaluation.json").write_text(content)
    assert read_evaluation(str(run), config_digest="d") is None


def test_unknown_values_are_null_in_the_file(tmp_path: Path) -> None:
    run = tmp_path / "out.zarr"
    write_evaluation(evaluation(str(run)), config_digest="d")
    record = json.loads((run / "quality" / "evaluation.json").read_text())
    assert record["curves"]["aligned"]["jitter"] == [None, 0.25, 0.5]
    assert record["config_digest"] == "d"
