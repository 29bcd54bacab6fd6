from pathlib import Path

from ssem_dask.cli.configuration_page import configuration_markdown


def test_the_document_is_the_one_the_records_make() -> None:
    path = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
    assert path.read_text() == configuration_markdown(), "run `make docs`"
