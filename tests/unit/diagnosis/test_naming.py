"""Names of sections from made-up measurements."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssem_dask.diagnosis.naming import name_sections
from ssem_dask.diagnosis.tied_sections import placed_sections, tied_pairs
from ssem_dask.diagnosis.usual_values import SectionEvidence
from ssem_dask.field.affine import rotation_about
from ssem_dask.section_record import Action, Kind, SectionRecord

COUNT, SIDE, BAD = 20, 500, 7
Change = Callable[[dict[str, Any]], None]


def sound(seed: int, count: int = COUNT) -> dict[str, Any]:
    """Measurements of sound sections, with the scatter that real ones have."""
    draw = np.random.default_rng(seed)

    def about(value: float, spread: float) -> Any:
        return value * (1 + spread * draw.standard_normal(count))

    likeness = np.stack([about(usual, 0.12) for usual in (0.45, 0.28, 0.2)])
    support = np.stack([about(usual, 0.1) for usual in (0.6, 0.4, 0.3)])
    for k in range(3):
        likeness[k, : k + 1], support[k, : k + 1] = np.nan, 0.0
    affines = [
        rotation_about(
            degrees=draw.uniform(-2, 2),
            centre=(SIDE / 2, SIDE / 2),
            shift=tuple(draw.uniform(-15, 15, 2)),
            scale=draw.uniform(0.99, 1.01),
        )
        for _ in range(count)
    ]
    return {
        "tissue": about(0.98, 0.01).clip(0, 1),
        "contrast": about(60.0, 0.05),
        "sharpness": about(0.6, 0.05),
        "structure": about(0.9, 0.02),
        "likeness": likeness,
        "unlike": draw.exponential(0.02, count),
        "dark": draw.exponential(0.003, count),
        "bright": draw.exponential(0.001, count),
        "empty": np.zeros(count),
        "length": draw.uniform(0, 0.2, count),
        "width": draw.uniform(0, 0.03, count),
        "tone": draw.normal(-1, 1, count),
        "step": about(5.5, 0.15),
        "part_step": np.full(count, np.nan),
        "uncertainty": about(1.7, 0.05),
        "support": support,
        "affines": np.stack(affines),
        "misplaced": np.zeros(count, bool),
        "repeated": np.zeros(count, bool),
        "shape_yx": (SIDE, SIDE),
    }


def lose(values: dict[str, Any], z: int) -> None:
    """Untie a section from all others."""
    values["support"][:, z] = 0.0
    for k in (1, 2, 3):
        if z + k < values["support"].shape[1]:
            values["support"][k - 1, z + k] = 0.0


def unmatch(values: dict[str, Any], z: int, likeness: float) -> None:
    """Untie a section, which then resembles others by chance."""
    lose(values, z)
    for k in (1, 2, 3):
        values["likeness"][k - 1, z] = likeness
        if z + k < values["likeness"].shape[1]:
            values["likeness"][k - 1, z + k] = likeness


def put(**changes: float) -> Change:
    def change(values: dict[str, Any]) -> None:
        for name, value in changes.items():
            values[name][BAD] = value

    return change


def map_by(degrees: float = 0.0, scale: float = 1.0, shift: float = 0.0, mirrored: bool = False) -> Change:
    def change(values: dict[str, Any]) -> None:
        centre = (SIDE / 2, SIDE / 2)
        affine = rotation_about(degrees=degrees, centre=centre, shift=(0.0, shift), scale=scale)
        values["affines"][BAD] = affine @ np.diag([1.0, -1.0, 1.0]) if mirrored else affine

    return change


def blank(values: dict[str, Any]) -> None:
    lose(values, BAD)
    put(tissue=0.0, contrast=np.nan, structure=np.nan)(values)


def noise(values: dict[str, Any]) -> None:
    unmatch(values, BAD, 0.01)
    put(structure=0.01, sharpness=3.5)(values)


CASES: dict[str, tuple[Change, Kind, Action]] = {
    "blank": (blank, Kind.BLANK, Action.LEFT_OUT),
    "noise": (noise, Kind.NOISE, Action.LEFT_OUT),
    "foreign": (lambda v: unmatch(v, BAD, 0.03), Kind.FOREIGN, Action.LEFT_OUT),
    "unplaced": (lambda v: lose(v, BAD), Kind.UNPLACED, Action.LEFT_OUT),
    "inverted": (lambda v: unmatch(v, BAD, -0.4), Kind.INVERTED, Action.LEFT_OUT),
    "turned": (map_by(degrees=-178.0), Kind.TURNED, Action.PUT_RIGHT),
    "mirrored": (map_by(mirrored=True), Kind.MIRRORED, Action.PUT_RIGHT),
    "scaled": (map_by(scale=1.08), Kind.SCALED, Action.PUT_RIGHT),
    "shifted": (map_by(shift=150.0), Kind.SHIFTED, Action.PUT_RIGHT),
    "duplicate": (put(repeated=True), Kind.DUPLICATE, Action.NOTHING),
    "out_of_order": (put(misplaced=True), Kind.OUT_OF_ORDER, Action.NOTHING),
    "fold": (put(dark=0.07, length=0.9, width=0.07, tone=-2.0), Kind.FOLD, Action.NOTHING),
    "short fold": (put(dark=0.03, length=0.35, width=0.05, tone=-2.0, step=20.0), Kind.FOLD, Action.NOTHING),
    "crack": (put(bright=0.05, length=0.9, width=0.05, tone=2.0), Kind.CRACK, Action.NOTHING),
    "seam": (put(step=25.0), Kind.SEAM, Action.NOTHING),
    "broken by a fold": (put(part_step=80.0, dark=0.1), Kind.FOLD, Action.PUT_RIGHT),
    "broken by a crack": (put(part_step=80.0, bright=0.1), Kind.CRACK, Action.PUT_RIGHT),
    "broken by a seam": (put(part_step=80.0), Kind.SEAM, Action.PUT_RIGHT),
    "torn": (put(unlike=0.4), Kind.TORN, Action.NOTHING),
    "partly empty": (put(empty=0.5, length=0.95, width=0.5, tone=-2.0), Kind.PARTLY_EMPTY, Action.NOTHING),
    "dirt": (put(dark=0.05, length=0.15, width=0.1), Kind.DIRT, Action.NOTHING),
    "blurred": (put(sharpness=0.15), Kind.BLURRED, Action.NOTHING),
    "faint": (put(contrast=8.0), Kind.FAINT, Action.NOTHING),
}  # fmt: skip


def named(values: dict[str, Any]) -> tuple[SectionRecord, ...]:
    return name_sections(SectionEvidence(**values)).records


@pytest.mark.parametrize("seed", range(40))
def test_sound_sections_have_no_name(seed: int) -> None:
    attention = name_sections(SectionEvidence(**sound(seed)))
    assert not attention.records
    assert not attention.pieces
    assert not attention.unplaced


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_spoilt_section_has_the_name_of_its_fault(case: str, seed: int) -> None:
    change, kind, action = CASES[case]
    values = sound(seed)
    change(values)
    (record,) = named(values)
    assert (record.z, record.kind, record.action) == (BAD, kind, action)
    assert 0.5 <= record.certainty <= 1.0


@pytest.mark.parametrize("case", ["fold", "blurred", "faint", "dirt", "crack", "foreign"])
def test_gain_and_units_change_no_name(case: str) -> None:
    values = sound(3)
    CASES[case][0](values)
    before = [(record.z, record.kind) for record in named(values)]
    values["contrast"] = values["contrast"] * 200
    values["likeness"] = values["likeness"] * 0.5
    assert [(record.z, record.kind) for record in named(values)] == before


def test_the_angle_of_a_turned_section_is_said() -> None:
    values = sound(4)
    map_by(degrees=90.0)(values)
    (record,) = named(values)
    assert record.describe().startswith(f"{BAD} turned by ")
    assert abs(abs(record.evidence["rotation_deg"]) - 90) < 3


def test_a_stack_whose_sections_are_all_turned_has_no_turned_section() -> None:
    values = sound(5)
    draw = np.random.default_rng(0)
    for z in range(COUNT):
        values["affines"][z] = rotation_about(degrees=draw.uniform(-180, 180), centre=(SIDE / 2, SIDE / 2))
    assert not named(values)


def test_more_certain_if_it_is_worse() -> None:
    certainties = []
    for dark in (0.05, 0.1, 0.3):
        values = sound(6)
        put(dark=dark, length=0.15, width=0.1)(values)
        certainties += [record.certainty for record in named(values)]
    assert certainties == sorted(certainties)
    assert len(set(certainties)) == 3


def test_neighbours_that_are_less_certain_are_its_effect() -> None:
    values = sound(7)
    CASES["foreign"][0](values)
    values["uncertainty"][[BAD - 1, BAD + 1]] = 2.9
    (record,) = named(values)
    assert record.effect_px == pytest.approx(1.2, abs=0.2)


def test_several_spoilt_sections() -> None:
    values = sound(8, count=40)
    for z in (5, 6, 20):
        unmatch(values, z, 0.02)
    values["sharpness"][30] = 0.1
    assert [(r.z, r.kind) for r in named(values)] == [
        (5, Kind.FOREIGN),
        (6, Kind.FOREIGN),
        (20, Kind.FOREIGN),
        (30, Kind.BLURRED),
    ]


def test_pieces_of_a_stack_that_nothing_connects() -> None:
    values = sound(9)
    unmatch(values, 4, 0.02)
    for k in (1, 2, 3):
        for z in range(COUNT):
            if z - k < 4 < z:
                values["support"][k - 1, z] = 0.0
    attention = name_sections(SectionEvidence(**values))
    assert attention.pieces == (tuple(range(4)), tuple(range(5, COUNT)))
    assert [record.z for record in attention.records] == [4]
    assert "0–3 are connected with each other, but not with 5–19, since 4 matches nothing" in attention.summary()


def test_records_have_the_names_of_files() -> None:
    values = sound(9)
    lose(values, BAD)
    names = [f"S{z + 1:03d}.tif" for z in range(COUNT)]
    named, plain = (name_sections(SectionEvidence(**values), names=n) for n in (names, ()))
    assert [record.name for record in named.records] == [names[record.z] for record in named.records]
    assert [record.name for record in plain.records] == [""] * len(named.records)


def test_every_second_section_blank_leaves_one_piece() -> None:
    values = sound(10)
    for z in range(1, COUNT, 2):
        lose(values, z)
        values["tissue"][z] = 0.0
        for name in ("contrast", "sharpness", "structure"):
            values[name][z] = np.nan
    attention = name_sections(SectionEvidence(**values))
    assert [record.z for record in attention.records] == list(range(1, COUNT, 2))
    assert {record.kind for record in attention.records} == {Kind.BLANK}
    assert not attention.pieces


def test_sections_that_resemble_none_anyway_are_not_called_foreign() -> None:
    values = sound(11)
    values["likeness"] = np.random.default_rng(1).normal(0, 0.02, values["likeness"].shape)
    assert not named(values)


def test_a_stack_too_short_for_statistics_has_no_names_by_chance() -> None:
    for seed in range(20):
        assert not named(sound(seed, count=3))


def test_placed_sections_are_those_with_support() -> None:
    support = np.zeros((2, 6))
    support[0, 1:3], support[1, 4] = 0.6, 0.3
    assert placed_sections(support).tolist() == [True, True, True, False, True, False]
    assert tied_pairs(support).sum() == 3
    assert not placed_sections(np.zeros((2, 6))).any()


def test_a_step_at_either_end_is_no_seam() -> None:
    values = sound(12)
    values["step"][[0, COUNT - 1]] = 30.0
    assert not named(values)


def test_evidence_counts_sections() -> None:
    assert SectionEvidence(**sound(1)).count == COUNT
    assert replace(SectionEvidence(**sound(1)), shape_yx=(1, 1)).count == COUNT
