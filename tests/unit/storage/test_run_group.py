from pathlib import Path

import pytest

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.storage import arrays, location
from ssem_dask.storage.run_group import (
    FORMAT,
    create_run,
    is_run,
    read_run,
    read_writable_run,
    update_run,
)


def test_a_run_keeps_its_attributes(place: str):
    assert not is_run(place)
    create_run(place, attributes={"state": "incomplete", "config": {"a": [1]}})
    assert is_run(place)
    update_run(place, state="complete", extra=1)
    record = read_run(place)
    assert (record.format, record.state, record.config) == (FORMAT, "complete", {"a": [1]})
    assert read_writable_run(place) == record


@pytest.mark.parametrize("run_format", [1, 99, None, "2"])
def test_a_run_of_another_format_is_never_written(place: str, run_format: object):
    create_run(place, attributes={"format": run_format, "version": "0.7", "state": "complete"})
    for write in (read_writable_run, lambda url: update_run(url, state="running")):
        with pytest.raises(OutputError, match=f"format {run_format}, but .* writes format {FORMAT}; .* ssem_dask 0.7"):
            write(place)
    if run_format == 1:
        assert read_run(place).state == "complete"
    else:
        with pytest.raises(SourceError, match=f"format {run_format}, but .* reads formats 1 and 2"):
            read_run(place)


def test_a_run_is_not_made_over_anything(place: str):
    create_run(place, attributes={})
    with pytest.raises(OutputError, match="already there"):
        create_run(place, attributes={})
    location.write_bytes(location.join(place, "other/notes.txt"), b"mine")
    with pytest.raises(OutputError, match="not an alignment"):
        create_run(location.join(place, "other"), attributes={})


def test_an_empty_folder_and_a_file(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    create_run(str(tmp_path / "empty"), attributes={})
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not an alignment"):
        create_run(str(tmp_path / "file"), attributes={})
    with pytest.raises(OutputError, match="file is in the way"):
        create_run(str(tmp_path / "file" / "below"), attributes={})


def test_reading_what_is_no_run(place: str):
    with pytest.raises(SourceError, match="no alignment is there"):
        read_run(place)
    arrays.create_group(place, attributes={"a": 1})
    with pytest.raises(OutputError, match="not an alignment"):
        read_run(place)
    with pytest.raises(OutputError, match="not an alignment"):
        update_run(place, state="x")
