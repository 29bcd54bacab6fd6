"""Whatever stdin, stdout and stderr are, a command does its work, and its exit code is about that work."""

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tifffile

import ssem_dask
from ssem_dask.cli import streams
from ssem_dask.cli.app import app
from ssem_dask.geometry.box import Box
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Cause, Outcome, TaskReport
from tests.support.runs import SMALL, to_toml

COMMAND = [sys.executable, "-m", "ssem_dask.cli"]
HOSTILE = (
    "\x1b]52;c;c2VjcmV0\x07\x1b[2J\x9b31m\rerror: all lost\n\x00\u202egpj.exe\u2066 [x] [bold]b[/bold] :bug: é → x"
)


@pytest.fixture(scope="module")
def work(observed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name no old encoding has, with an image stack, a run, its configuration and points."""
    folder = tmp_path_factory.mktemp("streams") / "прóба [x] → 測"
    folder.mkdir()
    volume = Volume.open(observed)
    tifffile.imwrite(folder / "stack.tif", volume.read(Box((0, 0, 0), volume.info.shape)), photometric="minisblack")
    run = str(folder / "run.zarr")
    assert ssem_dask.align(observed, run, cluster="serial", **SMALL).state == "complete"
    (folder / "run.toml").write_text(to_toml({"source": observed, "output": run, **SMALL}))
    (folder / "points.csv").write_text("z,y,x,имя\n1,10,10,точка\n")
    return folder


def words_of(command: str, work: Path, source: str, tmp: Path) -> list[str]:
    """A small but complete use of a command."""
    run, config = f"{work}/run.zarr", f"{work}/run.toml"
    serial = ["--cluster", "serial"]
    return {
        "demo": ["--dir", f"{tmp}/demo → é", "--sections", "8", "--size", "256", *serial],
        "import": [f"{work}/stack.tif", f"{tmp}/é →.zarr", "--pixel-size", "5", "--section-thickness", "50"],
        "align": [source, run, "--config", config, *serial],
        "plan": [config],
        "run": [config, *serial],
        "append": [run, *serial],
        "status": [run],
        "rerun": [run, *serial],
        "verify": [run, *serial],
        "report": [run, "--file", f"{tmp}/é →.html", "--worst", "1"],
        "compare": [run, run, "--file", f"{tmp}/compared é →.html"],
        "view": [run, "--port", "0", "--print-url"],
        "fix": [run, "--port", "0", "--print-url", "--file", f"{tmp}/é →.toml"],
        "warp": [run, source, f"{tmp}/warped é.zarr", *serial],
        "points": [run, f"{work}/points.csv"],
        "export": [run, f"{tmp}/exported é.zarr", "--ngff", "0.4", *serial],
        "certs": [f"{tmp}/certs é"],
        "train": [source, f"{tmp}/é.safetensors", "--steps", "1"],
        "simulate": ["phantom", f"{tmp}/simulated é.zarr", "--seed", "1", "--sections", "3", "--size", "64"],
        "evaluate": [run, "--truth", source],
    }[command]


COMMANDS = [info.name for info in app.registered_commands]


@pytest.fixture
def streams_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], list[Path]]]:
    """Make stdout and stderr files of an encoding, as the script does it."""
    opened: list[io.TextIOWrapper] = []

    def make(encoding: str) -> list[Path]:
        paths = [tmp_path / "stdout", tmp_path / "stderr"]
        for name, path in zip(("stdout", "stderr"), paths, strict=True):
            file = path.open("w", encoding=encoding)
            opened.append(file)
            made = streams.accepting(name, file.fileno(), file)
            opened.append(made)
            monkeypatch.setattr(sys, name, made)
        return paths

    yield make
    for file in reversed(opened):
        file.close()


def end(words: list[str]) -> int:
    try:
        app(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_writes_to_any_encoding(
    command: str, work: Path, observed: str, tmp_path: Path, streams_with: Callable[[str], list[Path]]
) -> None:
    encoding = "latin-1" if COMMANDS.index(command) % 2 else "ascii"
    out, err = streams_with(encoding)
    if command in ("view", "fix"):
        threading.Timer(4.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    code = end([command, *words_of(command, work, observed, tmp_path)])
    streams.flush_streams()
    assert code == 0, err.read_text(encoding)
    shown = out.read_bytes() + err.read_bytes()
    assert shown
    shown.decode(encoding)
    assert b"Traceback" not in shown


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_obstacle(closed: str, tmp_path: Path) -> None:
    words = [*COMMAND, "certs", str(tmp_path / "tls")]
    ended = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "tls" / "key.pem").read_text().startswith("-----BEGIN")
    assert ("certificates until" in ended.stdout) == (">&-" not in closed.split())


def test_closed_stdin_is_an_empty_file(work: Path) -> None:
    words = [*COMMAND, "points", f"{work}/run.zarr", "-"]
    ended = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: Points -: ")
    assert len(ended.stderr.splitlines()) == 1


def test_old_locales(observed: str, tmp_path: Path) -> None:
    """The environment of some batch jobs."""
    (tmp_path / "run.toml").write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), **SMALL}))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    ended = subprocess.run(
        [*COMMAND, "plan", str(tmp_path / "run.toml")], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert "\\u2192" in ended.stdout  # the arrow


def test_a_reader_that_goes_away(work: Path) -> None:
    """The exit code is that of the work; the reader has what it wanted."""
    many = "z,y,x\n" + "1,10,10\n" * 30_000
    (work / "many.csv").write_text(many)
    for words in (["points", f"{work}/run.zarr", f"{work}/many.csv"], ["status", f"{work}/run.zarr", "--json"]):
        script = '"$@" 2>stderr | head -1; echo ${PIPESTATUS[0]}; cat stderr'
        ended = subprocess.run(
            ["bash", "-c", script, "bash", *COMMAND, *words], capture_output=True, text=True, check=False, cwd=work
        )
        assert ended.stdout.splitlines()[1:] == ["0"], ended.stdout


def test_watching_ends_with_its_reader(work: Path, tmp_path: Path) -> None:
    """A run that says that it is running is watched for ever."""
    shutil.copytree(work / "run.zarr", tmp_path / "run.zarr")
    attributes = json.loads((tmp_path / "run.zarr/zarr.json").read_text())
    attributes["attributes"]["ssem_dask"]["state"] = "running"
    (tmp_path / "run.zarr/zarr.json").write_text(json.dumps(attributes))
    script = '"$@" status --watch --json --interval 0.2 run.zarr 2>&1 | head -1'
    ended = subprocess.run(
        ["bash", "-c", script, "bash", *COMMAND], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert json.loads(ended.stdout)["event"] == "progress"


def test_a_result_that_cannot_be_written_is_an_error(work: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*COMMAND, "status", f"{work}/run.zarr"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("error: stdout: the result cannot be written (No space left")


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run whose ledger commands terminals."""
    url = str(tmp_path_factory.mktemp("hostile") / "a[x]b :bug:.zarr")
    create_run(url, attributes={"format": 2, "state": "incomplete", "stages": ["coarse"]})
    for number, outcome in enumerate((Outcome.FAILED, Outcome.LOW_QUALITY)):
        report = TaskReport(
            key=f"coarse/{number:03d}",
            digest="0",
            outcome=outcome,
            cause=Cause.BUG if outcome is Outcome.FAILED else None,
            message=HOSTILE,
            worker=HOSTILE,
        )
        open_ledger(url).write(report)
    return url


def on_a_terminal(*words: str) -> str:
    """Text that a command sends to a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *words], stdin=follower, stdout=follower, stderr=follower, env={**os.environ, "TERM": "dumb"}
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            got = os.read(leader, 1 << 16)
        except OSError:
            break
        if not got:
            break
        shown += got
    os.close(leader)
    process.wait(60)
    return shown.decode()


def assert_harmless(shown: str) -> None:
    harmful = [mark for mark in "\x1b]\x9b\x00\x07\u202e\u2066" if mark != "]" and mark in shown.replace("\x1b[", "")]
    assert harmful == []
    for sequence in ("\x1b]52", "\x1b[2J", "\rerror:", "\nerror: all lost"):
        assert sequence not in shown


def test_no_control_character_of_a_store_reaches_the_terminal(hostile_run: str) -> None:
    shown = on_a_terminal("status", hostile_run)
    assert_harmless(shown)
    assert "\\x1b]52" in shown.replace("\n", "").replace("\r", "")
    assert "a[x]b :bug:.zarr: incomplete" in shown
    assert_harmless(on_a_terminal("status", hostile_run, "--json"))
    assert_harmless(on_a_terminal("status", join(hostile_run, HOSTILE.replace("\x00", ""))))


def test_names_are_shown_as_they_are(hostile_run: str, streams_with: Callable[[str], list[Path]]) -> None:
    out, err = streams_with("utf-8")
    assert end(["status", hostile_run]) == 1
    assert end(["status", hostile_run + "/no[/x] \\[y] :bug:"]) == 2
    streams.flush_streams()
    assert "a[x]b :bug:.zarr: incomplete" in out.read_text("utf-8")
    assert "[x] [bold]b[/bold] :bug: é → x" in err.read_text("utf-8")
    assert "no[/x] \\[y] :bug:: nothing is there" in err.read_text("utf-8")
