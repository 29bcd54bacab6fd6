"""Advice about a source never hides the error that it is for."""

import pytest

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.advice import explain_source


@pytest.mark.parametrize("refusal", [PermissionError("Forbidden"), RuntimeError("a client of its own kind")])
def test_a_store_that_refuses_to_look_leaves_the_error_as_it_is(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    def refuse(_url: str) -> bool:
        raise refusal

    monkeypatch.setattr(location, "exists", refuse)
    error = SourceError("s3://data/v.zarr: no permission to read it.")
    assert explain_source("s3://data/v.zarr", "out.zarr", error) is error
