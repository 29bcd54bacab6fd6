"""Records of sections in a run: read back, or not at all if something else is stored there."""

import json
from pathlib import Path

import pytest

from ssem_dask.section_record import Attention, Kind, SectionRecord
from ssem_dask.storage.attention import image_attention, read_attention

ATTENTION = Attention(sections=9, records=(SectionRecord(z=3, kind=Kind.FOLD),), pieces=((0, 1), (4, 5)), unplaced=(3,))


def write(run: Path, content: str) -> str:
    (run / "quality").mkdir(exist_ok=True)
    (run / "quality" / "attention.json").write_text(content)
    return str(run)


def test_records_are_read_back(tmp_path: Path) -> None:
    assert read_attention(write(tmp_path, json.dumps(ATTENTION.to_json()))) == ATTENTION


def test_without_records_there_is_nothing(tmp_path: Path) -> None:
    assert read_attention(str(tmp_path)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"attention": [{"z": 3}]},
        {"attention": [{"z": 9, "kind": "fold", "certainty": 1, "action": "nothing"}]},
        {"attention": [{"z": 3, "kind": "wrinkle", "certainty": 1, "action": "nothing"}]},
        {"attention": 5},
        {"sections": "many"},
        {"sections": float("inf")},
        {"unplaced": [-1]},
        {"pieces": [[], [1]]},
        {"pieces": [[0, 40]]},
    ],
)
def test_anything_else_is_not_trusted(tmp_path: Path, change: dict[str, object]) -> None:
    assert read_attention(write(tmp_path, json.dumps({**ATTENTION.to_json(), **change}))) is None


def test_attributes_of_the_aligned_volume() -> None:
    attributes = image_attention(ATTENTION, unplaced="blank")["ssem_dask_attention"]
    assert attributes["attention"][0]["kind"] == "fold"
    assert (attributes["unplaced"], attributes["unplaced_shown"]) == ([3], "blank")
    json.dumps(attributes)
