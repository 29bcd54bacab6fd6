from pathlib import Path

import pytest

from ssem_dask.storage.run_source import recorded_source, source_identity, source_places


def test_places_of_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.zarr").mkdir()
    record = {"source": source_identity("v.zarr", output="runs/a.zarr", attributes=None)}
    record |= source_places("v.zarr", output="runs/a.zarr")
    assert record["source"] == "../../v.zarr"
    monkeypatch.chdir("/")
    output = str(tmp_path / "runs" / "a.zarr")
    for at in (output, str(tmp_path / "b.zarr")):  # the second after a move of the run alone
        assert recorded_source(record, output=at) == str(tmp_path / "v.zarr")
        assert source_identity(str(tmp_path / "v.zarr"), output=at, attributes=record) == "../../v.zarr"
    assert source_identity("/other.zarr", output=output, attributes=record) != "../../v.zarr"


def test_a_path_of_an_earlier_version_is_relative_to_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "v.zarr").mkdir()
    monkeypatch.chdir(tmp_path)
    record = {"source": "v.zarr"}
    assert recorded_source(record, output="runs/a.zarr") == "v.zarr"
    assert source_identity("v.zarr", output="runs/a.zarr", attributes=record) == "v.zarr"


@pytest.mark.parametrize("output", ["/runs/a.zarr", "s3://bucket/a.zarr"])
def test_urls_stay_as_they_are(output: str) -> None:
    record = {"source": source_identity("s3://bucket/v.zarr", output=output, attributes=None)}
    record |= source_places("s3://bucket/v.zarr", output=output)
    assert record["source"] == recorded_source(record, output=output) == "s3://bucket/v.zarr"
