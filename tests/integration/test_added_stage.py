"""A stage added by one module and one list entry is planned, run, listed, overridden and rerun like the others."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.runs import SMALL, to_toml


def cli(*words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.added_stage", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_added_stage_is_planned_run_and_rerun(observed: str, tmp_path: Path) -> None:
    output, config = tmp_path / "out.zarr", tmp_path / "run.toml"
    tree = {"source": observed, "output": str(output), **SMALL, "brightness": {"scale": 2.0}}
    config.write_text(to_toml(tree))
    planned = cli("plan", str(config), "--json")
    assert "brightness" in json.dumps(planned)
    assert cli("run", str(config), "--cluster", "serial", "--json")["state"] == "complete"
    status = cli("status", str(output), "--json")
    assert list(status["counts"])[-1] == "brightness"
    assert status["counts"]["brightness"] == {"ok": 3}
    means = json.loads((output / "quality" / "brightness-000000.json").read_text())["means"]
    redone = cli("rerun", str(output), "--set", "brightness.scale=1.0", "--cluster", "serial", "--json")
    assert len(redone["again"]["changed"]) == 3
    assert all(key.startswith("brightness/") for key in redone["again"]["changed"])
    halved = json.loads((output / "quality" / "brightness-000000.json").read_text())["means"]
    assert halved == [mean / 2 for mean in means]
    assert all(mean > 0 for mean in means)
