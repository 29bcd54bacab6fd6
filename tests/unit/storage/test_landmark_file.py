from pathlib import Path

import fsspec
import numpy as np
import pytest

from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.storage.landmark_file import read_landmark_file

HEADER = "z,y,x,ref_y,ref_x"


def test_rows_are_read_in_any_order_of_columns() -> None:
    url = "memory://landmarks/a.csv"
    with fsspec.open(url, "w") as file:
        file.write("\ufeffref_y, ref_x,z,y,x,sd\n1,2,3,4,5.5,\n\n6,7,0,8,9,2.5\n")
    found = read_landmark_file(url, sections=4)
    np.testing.assert_array_equal(found.rows, [[3, 4, 5.5, 1, 2, np.nan], [0, 8, 9, 6, 7, 2.5]])
    assert len(found.digest) == 64


@pytest.mark.parametrize(
    ("text", "naming"),
    [
        ("", "z, y, x, ref_y, ref_x missing"),
        ("z,y,x,ref_y\n0,1,2,3\n", "ref_x missing"),
        ("z;y;x;ref_y;ref_x\n0;1;2;3;4\n", "z, y, x, ref_y, ref_x missing"),
        ("0,1,2,3,4\n", "z, y, x, ref_y, ref_x missing"),
        (f"{HEADER},name\n0,1,2,3,4,a\n", "'name'"),
        (f"{HEADER},z\n0,1,2,3,4,0\n", "'z' is unknown or repeated"),
        (f"{HEADER}\n0,1,2,3\n", "row 1: 4 values"),
        (f"{HEADER}\n0,1,2,3,4\n0,1,x,3,4\n", "row 2: x is 'x'"),
        (f"{HEADER}\n0,1,2,3,inf\n", "ref_x is 'inf'"),
        (f"{HEADER}\n4,1,2,3,4\n", "sections are 0 to 3"),
        (f"{HEADER}\n1.5,1,2,3,4\n", "sections are 0 to 3"),
        (f"{HEADER},sd\n1,1,2,3,4,0\n", "sd is 0"),
        (f"{HEADER}\n", "the file has none"),
    ],
)
def test_a_file_that_is_wrong_is_one_clear_sentence(text: str, naming: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_landmark_file(str(path), sections=4)
    message = str(caught.value)
    assert naming in message
    assert "bad.csv" in message
    assert "\n" not in message


def test_a_file_that_is_missing_or_binary(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.csv"):
        read_landmark_file(str(tmp_path / "none.csv"), sections=4)
    (tmp_path / "bin.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="not a text file"):
        read_landmark_file(str(tmp_path / "bin.csv"), sections=4)
