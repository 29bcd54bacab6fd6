"""A quick command line: help, version and status import nothing that they do not need."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import ssem_dask
from ssem_dask.cli.data_commands import DeformationPreset
from ssem_dask.evaluation.deformation import Preset
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.run_group import create_run
from ssem_dask.task import Outcome, TaskReport

HEAVY = {"torch", "distributed", "dask", "matplotlib", "jinja2", "scipy", "zarr", "numpy", "fsspec", "h5py"}
"""Typer itself imports pydantic for the help of a command."""
OF_STORAGE = {"zarr", "numpy", "fsspec"}
LIST_MODULES = """
import json, sys
sys.argv[0] = "ssem-dask"
from ssem_dask.cli.main import main
try:
    main()
except SystemExit as ended:
    print(json.dumps([ended.code, sorted(name for name in sys.modules if "." not in name)]), file=sys.stderr)
"""


def imported(*words: str) -> set[str]:
    """Top-level modules that a command has imported when it ends."""
    ended = subprocess.run([sys.executable, "-c", LIST_MODULES, *words], capture_output=True, text=True, check=True)
    code, names = json.loads(ended.stderr.splitlines()[-1])
    assert code == 0, ended.stderr
    return set(names)


@pytest.mark.parametrize(
    "words",
    ["--version", "--help", "align --help", "import --help", "report --help", "rerun --help", "status --help"],
)
def test_help_and_version_import_nothing_heavy(words: str) -> None:
    assert imported(*words.split()) & HEAVY == set()


def test_status_imports_storage_alone(tmp_path: Path) -> None:
    url = str(tmp_path / "run.zarr")
    create_run(url, attributes={"format": 2, "state": "complete"})
    open_ledger(url).write(TaskReport(key="coarse/000-002", digest="0", outcome=Outcome.OK))
    assert imported("status", url) & HEAVY <= OF_STORAGE
    assert imported("status", url, "--json") & HEAVY <= OF_STORAGE


def test_public_names_are_imported_on_first_use() -> None:
    code = "import sys, ssem_dask; print(sorted(set(sys.modules) & {'torch', 'numpy', 'zarr', 'dask'}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    for name in ssem_dask.__all__:
        assert getattr(ssem_dask, name) is not None
    assert {"align", "import_volume", "open_alignment", "warp_volume", "export_volume"} <= set(ssem_dask.__all__)


def test_presets_of_the_command_line_are_those_of_the_simulation() -> None:
    assert tuple(preset.value for preset in DeformationPreset) == get_args(Preset)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("al", {"align"}), ("re", {"report", "rerun"}), ("rerun --cause g", {"gpu_out_of_memory"})],
)
def test_bash_completes_commands_and_values(typed: str, completed: set[str]) -> None:
    words = f"ssem-dask {typed}"
    shell = {"_SSEM_DASK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    code = "import sys; sys.argv[0] = 'ssem-dask'; from ssem_dask.cli.main import main; main()"
    shown = subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, **shell})
    assert set(shown.split()) == completed
