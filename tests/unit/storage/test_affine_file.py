import json
from pathlib import Path

import fsspec
import numpy as np
import pytest

from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.storage.affine_file import read_affine_file

HEADER = "z,a00,a01,a02,a10,a11,a12"
GOOD = f"{HEADER}\n2,1,0,5.5,0,1,-3\n0,0.9,0.1,0,-0.1,0.9,2e1\n"


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    table, listed = tmp_path / "a.csv", tmp_path / "a.json"
    table.write_text("\ufeff" + GOOD, encoding="utf-8")
    names = HEADER.split(",")
    rows = [dict(zip(names, map(float, line.split(",")), strict=True)) for line in GOOD.splitlines()[1:]]
    listed.write_text(json.dumps(rows))
    a, b = (read_affine_file(str(path), sections=4, digest=None) for path in (table, listed))
    np.testing.assert_array_equal(a.affines, b.affines)
    np.testing.assert_array_equal(a.affines[2], [[1, 0, 5.5], [0, 1, -3]])
    np.testing.assert_array_equal(a.affines[0], [[0.9, 0.1, 0], [-0.1, 0.9, 20]])
    assert np.isnan(a.affines[[1, 3]]).all()
    assert a.digest != b.digest


def test_a_url_is_read_and_its_content_is_what_counts() -> None:
    url = "memory://affines/a.csv"
    with fsspec.open(url, "w") as file:
        file.write(GOOD)
    found = read_affine_file(url, sections=3, digest=None)
    assert read_affine_file(url, sections=3, digest=found.digest.upper()).digest == found.digest
    with fsspec.open(url, "w") as file:
        file.write(GOOD.replace("5.5", "5.6"))
    with pytest.raises(ConfigError, match="sha256"):
        read_affine_file(url, sections=3, digest=found.digest)


@pytest.mark.parametrize(
    ("text", "naming"),
    [
        ("", "missing"),
        ("z,a00,a01,a02,a10,a11\n0,1,0,0,0,1\n", "a12 missing"),
        (GOOD.replace(",", ";"), "z, a00, a01, a02, a10, a11, a12 missing"),
        (GOOD.removeprefix(f"{HEADER}\n"), "z, a00, a01, a02, a10, a11, a12 missing"),
        (f"{HEADER},b\n0,1,0,0,0,1,0,0\n", "'b'"),
        (f"{HEADER}\n0,1,0,0,0,1\n", "row 1: 6 values"),
        (f"{HEADER}\n0,1,0,0,0,1,nan\n", "a12 is 'nan'"),
        (f"{HEADER}\n0,1,0,0,0,1,x\n", "a12 is 'x'"),
        (f"{HEADER}\n0,1,0,0,0,0,0\n", "cannot be inverted"),
        (f"{HEADER}\n4,1,0,0,0,1,0\n", "sections are 0 to 3"),
        (f"{HEADER}\n-1,1,0,0,0,1,0\n", "sections are 0 to 3"),
        (f"{HEADER}\n1.5,1,0,0,0,1,0\n", "sections are 0 to 3"),
        (f"{HEADER}\n1,1,0,0,0,1,0\n1,1,0,0,0,1,0\n", "row 2: section 1 is repeated"),
        (f"{HEADER}\n", "no section"),
        ('[{"z": 0, "a00": 1}]', "entry 0: a01"),
        ('[{"z": 0, "a00": null, "a01": 0, "a02": 0, "a10": 0, "a11": 1, "a12": 0}]', "a00 is None"),
        ('{"z": 0}', "list of objects"),
        ("[[1, 0, 0], [0, 1, 0]]", "list of objects"),
        ("[{", "not valid JSON"),
    ],
)
def test_a_file_that_is_wrong_is_one_clear_sentence(text: str, naming: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_affine_file(str(path), sections=4, digest=None)
    message = str(caught.value)
    assert naming in message
    assert "bad.csv" in message
    assert "\n" not in message


def test_a_file_that_is_missing_or_binary(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.csv"):
        read_affine_file(str(tmp_path / "none.csv"), sections=4, digest=None)
    (tmp_path / "bin.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="not a text file"):
        read_affine_file(str(tmp_path / "bin.csv"), sections=4, digest=None)
