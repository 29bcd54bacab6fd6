"""Every command reads runs of the formats that it knows, and writes only into runs of its own format."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ssem_dask as package
from ssem_dask.report.viewer.site import make_site
from ssem_dask.storage.run_group import FORMAT
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.runs import SMALL, to_toml

EARLIER, LATER = 1, 99


@pytest.fixture(scope="module")
def finished(observed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "out.zarr"
    assert package.align(observed, str(output), cluster="serial", **SMALL).state == "complete"
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out.zarr"))


def attributes(output: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((output / "zarr.json").read_text())["attributes"]["ssem_dask"]
    return stored


def set_format(output: Path, run_format: int) -> None:
    metadata = json.loads((output / "zarr.json").read_text())
    metadata["attributes"]["ssem_dask"] |= {"format": run_format, "version": "9.9"}
    (output / "zarr.json").write_text(json.dumps(metadata))


def reading(output: Path, observed: str) -> dict[str, tuple[str, ...]]:
    """Arguments of each command that reads a run without changing it."""
    run, folder = str(output), output.parent
    (folder / "points.csv").write_text("z,y,x\n1,40,40\n")
    serial = ("--cluster", "serial")
    return {
        "status": (run,),
        "points": (run, str(folder / "points.csv"), "--to", "aligned"),
        "warp": (run, observed, str(folder / "warped.zarr"), *serial),
        "export": (run, str(folder / "exported.zarr"), "--ngff", "0.4", *serial),
        "report": (run, "--file", str(folder / "report.html")),
    }


def writing(output: Path, observed: str) -> dict[str, tuple[str, ...]]:
    """Arguments of each command that writes into a run."""
    run, serial = str(output), ("--cluster", "serial")
    config = output.parent / "run.toml"
    config.write_text(to_toml({"source": observed, "output": run, **SMALL}))
    return {
        "align": (observed, run, *serial),
        "run": (str(config), *serial),
        "rerun": (run, "--stage", "measure", *serial),
        "verify": (run, *serial),
    }


def test_a_new_run_has_the_current_format(finished: Path) -> None:
    assert attributes(finished)["format"] == FORMAT


@pytest.mark.parametrize("run_format", [EARLIER, FORMAT])
def test_known_formats_are_read(output: Path, observed: str, run_format: int) -> None:
    set_format(output, run_format)
    before = attributes(output)
    for command, words in reading(output, observed).items():
        ended = ssem_dask(command, *words)
        assert ended.returncode == 0, (command, ended.stderr)
    assert make_site(str(output), labels=None, worst=1)[0] is not None
    assert attributes(output) == before


def test_a_later_format_is_not_read(output: Path, observed: str) -> None:
    set_format(output, LATER)
    commands = {**reading(output, observed), "view": (str(output),), "evaluate": (str(output),)}
    commands["compare"] = (str(output), str(output))
    for command, words in commands.items():
        ended = ssem_dask(command, *words)
        assert_one_sentence(ended, naming="format 99, but this version of ssem_dask reads formats 1 and 2")
    assert_one_sentence(ssem_dask("status", str(output), "--watch"), naming="format 99")
    assert not (output.parent / "warped.zarr").exists()
    assert not (output.parent / "exported.zarr").exists()


@pytest.mark.parametrize("run_format", [EARLIER, LATER])
def test_another_format_is_not_written(output: Path, observed: str, run_format: int) -> None:
    set_format(output, run_format)
    before = attributes(output)
    commands = writing(output, observed)
    for command, words in commands.items():
        ended = ssem_dask(command, *words)
        assert_one_sentence(ended, naming=f"format {run_format}")
    assert_one_sentence(ssem_dask("fix", str(output), "--print-url"), naming=f"format {run_format}")
    ended = ssem_dask("rerun", *commands["rerun"])
    assert_one_sentence(ended, naming=f"format {run_format}, but this version of ssem_dask writes format {FORMAT}")
    assert "start a new run at another output" in ended.stderr
    assert "ssem_dask 9.9" in ended.stderr
    assert attributes(output) == before


def test_the_current_format_is_written(output: Path, observed: str) -> None:
    for command, words in writing(output, observed).items():
        if command != "align":  # which has another configuration
            ended = ssem_dask(command, *words)
            assert ended.returncode == 0, (command, ended.stderr)
