from pathlib import Path

import pytest

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.storage import arrays, location
from ssem_dask.storage.run_group import create_run, is_run, read_run, update_run


def test_a_run_keeps_its_attributes(place: str):
    assert not is_run(place)
    create_run(place, attributes={"state": "incomplete", "config": {"a": [1]}})
    assert is_run(place)
    update_run(place, state="complete", extra=1)
    assert read_run(place) == {"state": "complete", "config": {"a": [1]}, "extra": 1}


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
