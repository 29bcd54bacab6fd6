"""Stage calibrate: what the user gives is kept, what decides is in the digests, and the choice can be made again."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ssem_dask
from ssem_dask.config.schema import make_config
from ssem_dask.driver import pipeline
from ssem_dask.stages import calibrate
from ssem_dask.storage.location import join, read_bytes
from tests.support.runs import SEPARATE

QUICK: dict[str, Any] = {**SEPARATE, "coarse": {"neighbours": 1, "thumbnail": 64}, "compose": {"method": "chain"}}


def _with(**register: Any) -> dict[str, Any]:
    return {**QUICK, "register": {**QUICK["register"], **register}}


def _digests(observed: str, tree: dict[str, Any]) -> Mapping[str, str]:
    return pipeline.plan(make_config({"source": observed, "output": "unused.zarr", **tree})).job.digests


def test_what_decides_the_choice_decides_its_digest_and_that_of_what_follows(observed: str) -> None:
    plain, solver, window = (
        _digests(observed, tree) for tree in (QUICK, _with(gauss_newton={"smoothness": [18.0]}), _with(window=128))
    )
    assert plain["coarse"] == solver["coarse"] == window["coarse"]
    assert plain["calibrate"] == window["calibrate"] != solver["calibrate"]
    assert len({digests["register"] for digests in (plain, solver, window)}) == 3


def test_a_smoothness_that_is_given_is_kept_and_written_down(observed: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    summary = ssem_dask.align(observed, output, cluster="serial", **_with(gauss_newton={"smoothness": [18.0]}))
    assert summary.counts["calibrate"] == {"ok": 2}
    record = json.loads(read_bytes(join(output, "quality", "calibration.json")))
    assert (record["chosen_by"], record["smoothness"]) == ("user", [18.0])
    assert [window["steps"] for window in record["windows"]] == [[]]
    assert any("smoothness" in choice and "given" in choice for choice in summary.choices)
    planned = pipeline.plan(make_config({"source": observed, "output": output, **QUICK}))
    solver = calibrate.calibrated(planned.job).gauss_newton
    assert solver.smoothness == (18.0,)
    assert solver.scales is not None
    assert solver.scales.model_dump(mode="json") == record["scales"]


def test_scales_that_are_given_are_kept_and_what_measured_none_does_without(observed: str, tmp_path: Path) -> None:
    given = {"cold": [{"error": 50.0, "hessian": 20.0}] * 30, "confidence": 9.0}
    output = tmp_path / "out.zarr"
    ssem_dask.align(observed, str(output), cluster="serial", **_with(gauss_newton={"scales": given}))
    plain, own = (
        pipeline.plan(make_config({"source": observed, "output": str(output), **tree})).job
        for tree in (QUICK, _with(gauss_newton={"scales": given}))
    )
    scales = calibrate.calibrated(own).gauss_newton.scales
    assert scales is not None
    assert scales.confidence == 9.0
    path = output / "quality" / "calibration.json"
    record = json.loads(path.read_text())
    del record["scales"], record["crc32"]  # as earlier versions wrote it
    path.write_text(json.dumps(record))
    assert calibrate.calibrated(plain).gauss_newton.scales is None


def test_a_choice_that_is_lost_is_made_again_and_is_the_same(observed: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    ssem_dask.align(observed, output, cluster="serial", **QUICK)
    before = read_bytes(join(output, "quality", "calibration.json"))
    shutil.rmtree(tmp_path / "out.zarr" / "quality")
    shutil.rmtree(tmp_path / "out.zarr" / "ledger" / "calibrate")
    summary = ssem_dask.align(observed, output, cluster="serial", **QUICK)
    assert summary.counts["calibrate"]
    assert read_bytes(join(output, "quality", "calibration.json")) == before


def test_windows_lie_in_the_volume(observed: str) -> None:
    job = pipeline.plan(make_config({"source": observed, "output": "unused.zarr", **QUICK})).job
    for places in calibrate.sample_windows(job):
        for box in places:
            assert box.clipped(job.shape) == box
            assert box.size > 0


def test_ssemnet_has_nothing_to_choose(observed: str) -> None:
    planned = pipeline.plan(
        make_config({"source": observed, "output": "unused.zarr", "register": {"method": "ssemnet"}})
    )
    assert "calibrate" not in planned.estimates
