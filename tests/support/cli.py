"""The command line as a test uses it."""

import subprocess
import sys

from typer.testing import CliRunner

from ssem_dask.cli.app import app

Ended = subprocess.CompletedProcess[str]


def ssem_dask(*words: str) -> Ended:
    """Run a command in this process: the same code as the script's, without its start-up time."""
    ended = CliRunner().invoke(app, words)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return Ended(words, ended.exit_code, ended.stdout, ended.stderr)


def ssem_dask_process(*words: str) -> Ended:
    return subprocess.run([sys.executable, "-m", "ssem_dask.cli", *words], capture_output=True, text=True, check=False)


def assert_one_sentence(ended: Ended, *, naming: str) -> None:
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert naming in lines[0]
    assert ended.stdout == ""
