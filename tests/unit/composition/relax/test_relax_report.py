"""Records of what was fitted: they are read back as they were written."""

import json

import numpy as np
import pytest

from ssem_dask.composition.relax.relax_report import (
    TOO_FEW,
    AffineReport,
    DriftRecord,
    JumpRecord,
    MotionStatistics,
    RelaxReport,
    band_records,
    describe_drift,
    describe_motion,
)
from ssem_dask.composition.separation.anchored import DriftResult
from ssem_dask.composition.separation.jumps import Jump
from ssem_dask.composition.separation.sequence import Variances
from tests.support.affine_volumes import SHAPE

VARIANCES = Variances(distortion=4.0, motion=1.0, correlation=0.8, noise=0.01, erratic=0.04)


def drift(outliers: int) -> DriftResult:
    return DriftResult(
        drift=np.outer(np.linspace(-1, 1, 5), [30.0, 10.0, 5.0, 2.0, 0.0, 0.0]),
        shares={"shift": 0.2},
        frame=np.eye(3)[:2],
        landmark_errors=np.arange(14.0),
        landmark_outliers=np.arange(outliers),
        far_pairs=0,
        far_outliers=0,
    )


def report(*, anchored: bool) -> AffineReport:
    jump = Jump(7, np.array([1.0, -2.0, 3.0, 4.0, 0.0, 0.0]), 123.46)
    return AffineReport(
        statistics={"shift": MotionStatistics.of(VARIANCES)},
        evidence=12.5,
        certainty=0.9,
        jumps=(JumpRecord.of(jump, shape_yx=SHAPE),),
        drift=DriftRecord.of(drift(2), shape_yx=SHAPE) if anchored else None,
    )


@pytest.mark.parametrize("anchored", [False, True])
def test_the_affine_report_is_read_back_from_json(anchored: bool) -> None:
    written = report(anchored=anchored)
    assert AffineReport.from_json(json.loads(json.dumps(written.to_json()))) == written


def test_the_report_has_its_summary_bands_and_variances() -> None:
    bands = band_records([VARIANCES] * 2, shape=(12, 14), spacing=32.0, pixel_size=5.0)
    record = RelaxReport(
        summary="fine",
        pixel_size=5.0,
        section_thickness=40.0,
        affine=report(anchored=True),
        bands=tuple(bands),
        variances={"variances": [VARIANCES] * 2},
    ).to_json()
    assert record["summary"] == "fine"
    assert record["bands"][0]["wavelength_nm"] > record["bands"][1]["wavelength_nm"]
    assert [Variances(**v) for v in record["variances"]] == [VARIANCES] * 2
    assert record["reference"]["doubted"] == [0, 1]


def test_sentences_name_a_few_and_say_if_there_are_too_few_sections() -> None:
    assert describe_motion([], affine={}, thickness=40.0) == TOO_FEW
    assert describe_drift(None) == []
    (undone, outliers) = describe_drift(DriftRecord.of(drift(12), shape_yx=SHAPE))
    assert "63.2 px" in undone
    assert outliers.endswith("9, 10 ….")
