"""Order of files, and remarks about it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssem_dask.storage.formats.section_order import natural_order, order_notes
from ssem_dask.storage.section_names import section_label, section_list

ORDERS = {
    "numbers": ["s2.tif", "s10.tif", "s100.tif"],
    "case": ["slice_0.tif", "Slice_1.tif", "slice_2.tif", "SLICE_3.tif"],
    "decimals": ["z_0um.tif", "z_0.25um.tif", "z_0.5um.tif", "z_1um.tif", "z_10um.tif"],
    "two numbers with a dot": ["a_1.9.tif", "a_1.10.tif", "a_1.11.tif"],
    "signs": ["z-10.tif", "z-4.tif", "z-1.tif", "z0.tif", "z3.tif", "z10.tif"],
    "plus and minus": ["z-2um.png", "z-1um.png", "z+1um.png", "z+10um.png"],
    "dashes": ["s-1.tif", "s-2.tif", "s-10.tif"],
    "dates": ["2020.10.11_s2.png", "2020.10.11_s10.png", "2020.10.12_s1.png"],
    "superscripts": ["1²0.tif", "1²1.tif", "2².tif"],
    "digits of another script": ["s٢.tif", "s١٠.tif"],
    "beginning with a number": ["2.tif", "10_a.tif", "10_b.tif"],
    "two suffixes": ["s2.ome.tif", "s10.ome.tif"],
    "tiles of sections": ["S1_z002.tif", "S1_z010.tif", "S2_z001.tif"],
}


@pytest.mark.parametrize("names", ORDERS.values(), ids=ORDERS)
def test_order(names: list[str]) -> None:
    for seed in range(5):
        assert natural_order(random.Random(seed).sample(names, len(names))) == names


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, min_size=1, max_size=6))
def test_no_name_is_a_crash(names: list[str]) -> None:
    ordered = natural_order(names)
    assert sorted(ordered) == sorted(names)
    assert natural_order(ordered[::-1]) == ordered
    assert order_notes(ordered)


def test_remarks() -> None:
    assert order_notes(["s1.tif", "s2.tif", "s3.tif"]) == [
        "order of sections: 3 files, from s1.tif (section 0) to s3.tif"
    ]
    assert not [note for note in order_notes([f"s{z:03d}0.tif" for z in range(9)]) if "gap" in note]
    notes = order_notes(natural_order(["s1.tif", "s2.tif", "s5.tif", "s02.tif", "copy of s5.tif"]))
    assert any("gap" in note and "s5.tif" in note for note in notes)
    assert any("s02.tif = s2.tif" in note for note in notes)
    assert any("names differ" in note and "copy of s5.tif" in note for note in notes)


@pytest.mark.parametrize(
    ("blocks", "gaps"),
    [
        ({1: [1, 2, 3], 2: [1, 2, 3]}, []),
        ({1: [1, 2, 3], 2: [4, 5, 6]}, []),
        ({1: [10, 20, 30], 2: [10, 20, 30]}, []),
        ({1: [1, 2, 3], 2: [1, 2, 4]}, ["w2_s2.tif and w2_s4.tif"]),
        ({1: [1, 2, 3], 2: [2, 3, 4]}, ["w1_s3.tif and w2_s2.tif"]),
        ({1: [1, 2, 3], 2: [6, 7, 8]}, ["w1_s3.tif and w2_s6.tif"]),
        ({1: [1, 2], 2: [1, 2], 4: [1, 2]}, ["w2_s2.tif and w4_s1.tif"]),
    ],
)
def test_gaps_in_names_that_count_blocks_and_sections(blocks: dict[int, list[int]], gaps: list[str]) -> None:
    names = natural_order([f"w{block}_s{number}.tif" for block, numbers in blocks.items() for number in numbers])
    notes = [note for note in order_notes(names) if "gap" in note]
    assert len(notes) == bool(gaps)
    assert all(gap in notes[0] for gap in gaps)


def test_labels() -> None:
    assert section_label(1, ["a.tif", "b.tif"]) == "section 1, b.tif"
    assert section_label(7, ["a.tif"]) == section_label(7) == "section 7"
    assert section_list([0, 3], ["a.tif"]) == "0 (a.tif), 3"
    assert section_list(range(4), limit=2) == "0, 1, …"
