"""Records of sections, their summary and their JSON."""

import json
from dataclasses import replace

import pytest

from ssem_dask.section_record import Action, Attention, Kind, SectionRecord, matching_records

RECORDS = (
    SectionRecord(z=7, kind=Kind.FOLD, certainty=0.9, effect_px=0.4, evidence={"band_length": 0.9}),
    SectionRecord(z=12, kind=Kind.FOREIGN, certainty=0.98, action=Action.LEFT_OUT),
    SectionRecord(z=15, kind=Kind.TURNED, certainty=0.97, action=Action.PUT_RIGHT, detail="turned by 180°"),
)
ATTENTION = Attention(sections=20, records=RECORDS, unplaced=(12,))


def test_the_summary_names_the_sections() -> None:
    assert ATTENTION.summary() == "3 of 20 sections need a look: 7 fold, 12 foreign, 15 turned by 180°, put right"


def test_the_summary_names_the_files_of_sections() -> None:
    named = Attention(
        sections=20, records=tuple(replace(record, name=f"S{record.z + 1:03d}.tif") for record in RECORDS)
    )
    listed = "7 (S008.tif) fold, 12 (S013.tif) foreign, 15 (S016.tif) turned by 180°, put right"
    assert named.summary() == f"3 of 20 sections need a look: {listed}"
    assert Attention.from_json(json.loads(json.dumps(named.to_json()))) == named
    assert [record["name"] for record in named.to_json()["attention"]] == ["S008.tif", "S013.tif", "S016.tif"]


def test_records_without_a_name_of_their_file_are_read() -> None:
    stored = ATTENTION.to_json()
    for record in stored["attention"]:
        del record["name"]
    assert Attention.from_json(stored) == ATTENTION


def test_a_volume_in_which_nothing_matches_is_not_aligned() -> None:
    records = (*(SectionRecord(z=z, kind=Kind.UNPLACED) for z in (0, 2)), SectionRecord(z=1, kind=Kind.BLANK))
    lost = Attention(sections=3, records=records, unplaced=(0, 1, 2))
    assert lost.verdict("complete") == (
        "not aligned; no section matches another; check their order, their pixel size, and whether they show the same "
        "tissue; 1 of 3 sections needs a look: 1 blank"
    )
    assert lost.verdict("incomplete").startswith("incomplete; no section matches another")
    assert ATTENTION.verdict("complete") == f"aligned; {ATTENTION.summary()}"


def test_nothing_to_look_at() -> None:
    assert Attention(sections=20).summary() == "none of 20 sections needs a look"


def test_one_section_is_singular() -> None:
    assert Attention(sections=20, records=RECORDS[:1]).summary() == "1 of 20 sections needs a look: 7 fold"


def test_pieces_are_said_with_their_cause() -> None:
    lost = SectionRecord(z=4, kind=Kind.BLANK)
    attention = Attention(sections=10, records=(lost,), pieces=((0, 1, 2, 3), (5, 6, 8, 9)))
    text = "0–3 are connected with each other, but not with 5–6, 8–9, since 4 matches nothing"
    assert attention.summary().endswith(text)


def test_many_sections_are_shortened() -> None:
    many = Attention(sections=900, records=tuple(SectionRecord(z=z, kind=Kind.DIRT) for z in range(300)))
    assert len(many.summary()) < 250
    assert many.summary().endswith("…")


@pytest.mark.parametrize(
    "attention", [ATTENTION, Attention(sections=2), Attention(sections=9, pieces=((0, 1), (3, 4)))]
)
def test_json_and_back(attention: Attention) -> None:
    assert Attention.from_json(json.loads(json.dumps(attention.to_json()))) == attention


def test_the_record_of_a_section_without_a_fault_is_ok() -> None:
    assert ATTENTION.record(7) is RECORDS[0]
    assert ATTENTION.record(8) == SectionRecord(z=8)
    assert ATTENTION.record(8).kind is Kind.OK


def test_records_of_some_kinds() -> None:
    assert matching_records(RECORDS, ["fold", "dirt"]) == [RECORDS[0]]
    assert matching_records(RECORDS, ["any"]) == list(RECORDS)
    assert matching_records(RECORDS, []) == []
