"""Records of a run: any change of their bytes is noticed."""

import json
from pathlib import Path

import pytest

from ssem_dask.errors import ContentError
from ssem_dask.storage.json_records import read_record, write_record

RECORD = {"name": "é", "values": [1, 2.5, float("nan")], "inner": {"crc32": "00000000"}}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    url = str(tmp_path / "record.json")
    assert write_record(url, RECORD) == (tmp_path / "record.json").stat().st_size
    assert repr(read_record(url)) == repr(RECORD)
    assert next(iter(json.loads((tmp_path / "record.json").read_text()))) == "crc32"


def test_any_changed_byte_outside_the_name_of_the_checksum_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(str(path), RECORD)
    content = path.read_bytes()
    name = content.index(b"crc32")
    for at in range(len(content)):
        if name <= at < name + len(b"crc32"):
            continue
        for bit in (0x01, 0x10):
            path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            with pytest.raises(ContentError):
                read_record(str(path))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"crc32": 3}', b'{"crc32": "\\ud800"}', b'{"crc32": ""}'])
def test_what_is_no_record_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(ContentError):
        read_record(str(tmp_path / "record.json"))


def test_a_record_without_a_checksum_is_read(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"a": 1}')
    assert read_record(str(tmp_path / "record.json")) == {"a": 1}
