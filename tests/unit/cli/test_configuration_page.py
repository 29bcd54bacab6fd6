from ssem_dask.cli.configuration_page import configuration_markdown
from tests.support.real_data import REPOSITORY


def test_the_document_is_the_one_the_records_make() -> None:
    path = REPOSITORY / "docs" / "configuration.md"
    assert path.read_text() == configuration_markdown(), "run `make docs`"
