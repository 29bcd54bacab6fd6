import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.storage import location


def test_join_and_parent():
    assert location.join("/a/b/", "c/d", "e") == "/a/b/c/d/e"
    assert location.join("s3://b", "c") == "s3://b/c"
    assert location.join("/", "c") == "/c"
    assert location.parent("s3://b/c/d") == "s3://b/c"
    assert location.parent("s3://b") is None
    assert location.parent("/a/b") == "/a"
    assert location.parent("/") is None


def test_bytes_come_back_and_names_are_listed(place: str):
    assert location.list_names(place) == []
    assert location.list_files(place) == []
    assert not location.exists(place)
    location.write_bytes(location.join(place, "a/b"), b"1")
    location.write_bytes(location.join(place, "a/b"), b"22")
    location.write_bytes(location.join(place, "c"), b"3")
    assert location.read_bytes(location.join(place, "a/b")) == b"22"
    assert location.list_names(place) == ["a", "c"]
    assert location.list_files(place) == ["a/b", "c"]
    assert location.exists(location.join(place, "a"))
    location.delete(location.join(place, "a"), recursive=True)
    location.delete(location.join(place, "nothing"), recursive=False)
    assert location.list_files(place) == ["c"]
    with pytest.raises(FileNotFoundError):
        location.read_bytes(location.join(place, "a/b"))


def test_file_url_is_the_path(tmp_path: Path):
    location.write_bytes(f"file://{tmp_path}/a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_writer_that_is_killed_leaves_the_old_bytes(tmp_path: Path):
    script = (
        "import os, signal, sys\n"
        "from ssem_dask.storage import location\n"
        "os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)\n"
        "location.write_bytes(sys.argv[1], b'new')\n"
    )
    target = tmp_path / "entry.json"
    location.write_bytes(str(target), b"old")
    ended = subprocess.run([sys.executable, "-c", script, str(target)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2  # what the killed writer left behind …
    assert location.list_names(str(tmp_path)) == ["entry.json"]  # … is not listed


@pytest.mark.parametrize("url", ["nonsense://bucket/a", "nonsense://bucket/a/b"])
def test_unknown_protocol_is_one_sentence(url: str):
    with pytest.raises(SourceError, match="protocol 'nonsense' is not known"):
        location.open_store(url, read_only=True)


def test_reading_and_writing_turn_errors_into_sentences(tmp_path: Path):
    with pytest.raises(SourceError, match="nothing is there"), location.reading("x"):
        (tmp_path / "no").read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file is in the way"), location.writing("x"):
        (tmp_path / "file" / "below").mkdir()
    with pytest.raises(OutputError, match="no space left"), location.writing("x"):
        Path("/dev/full").write_bytes(b"1")


def test_a_bug_in_a_local_place_stays_a_bug():
    with pytest.raises(ZeroDivisionError), location.reading("here"):
        _ = 1 / 0
    with pytest.raises(SourceError, match="cannot be reached"), location.reading("s3://bucket"):
        _ = 1 / 0


def test_patterns(tmp_path: Path):
    (tmp_path / "s[1].tif").touch()
    (tmp_path / "s2.tif").touch()
    assert not location.is_pattern(str(tmp_path / "s[1].tif"))
    assert location.is_pattern(str(tmp_path / "*.tif"))
    assert len(location.glob_urls(str(tmp_path / "*.tif"))) == 2


def test_parts_of_a_file_come_back(place: str):
    url = location.join(place, "a/b")
    location.write_bytes(url, bytes(range(100)))
    assert location.file_size(url) == 100
    assert location.read_range(url, start=10, stop=13) == bytes([10, 11, 12])
    assert location.read_range(url, start=98, stop=200) == bytes([98, 99])
    for missing in ("a", "a/c"):
        assert location.file_size(location.join(place, missing)) is None
