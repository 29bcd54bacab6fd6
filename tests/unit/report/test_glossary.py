"""The glossary of kinds: whole, the same in the documents, and with commands that work."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssem_dask.cli.app import app
from ssem_dask.cli.glossary_page import page_with_glossary
from ssem_dask.config.schema import make_config
from ssem_dask.report.glossary import GLOSSARY, RUN
from ssem_dask.section_record import Kind

GLOSSARY_SETTINGS = {entry.command: entry.setting for entry in GLOSSARY.values()}
ROOT = Path(__file__).resolve().parents[3]


def test_every_kind_has_an_entry() -> None:
    assert set(GLOSSARY) == set(Kind) - {Kind.OK}
    for entry in GLOSSARY.values():
        assert all((entry.meaning, entry.evidence, entry.done, entry.advice))


@pytest.mark.parametrize("name", ["failures.md", "glossary.md"])
def test_the_pages_show_the_entries(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page_with_glossary(page) == page, "run make docs"


@pytest.mark.parametrize("command", sorted({entry.command for entry in GLOSSARY.values() if entry.command}))
def test_commands_exist(command: str) -> None:
    program, verb, run, *words = command.split()
    assert (program, run) == ("ssem-dask", RUN)
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
    assert GLOSSARY_SETTINGS[command] == " ".join(words[1:])
    for option, setting in zip(words[::2], words[1::2], strict=True):
        assert option == "--set"
        key, _, value = setting.partition("=")
        table, _, name = key.partition(".")
        typed = {"true": True, "false": False}.get(value, value)
        make_config({"source": "a.zarr", "output": "b.zarr", table: {name: typed}})
