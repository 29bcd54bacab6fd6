"""The benchmark of long sequences evaluates its records: cost of damage, rows of the table, the picture."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.sequence import COLOURS, MODES, plot, slope_beyond, table_of, with_cost_of_damage


def record(seed: int, *, damage: str = "none", size: int = 224, jumps: float = 1.0, mode: str = "default") -> Any:
    """Record of six sections; section 3 is damaged if any is."""
    return {
        "kind": "phantom smooth",
        "sections": 6,
        "size": size,
        "mode": mode,
        "seed": seed,
        "damage": damage,
        "damaged": [] if damage == "none" else [3],
        "drift_of_z": [3.0, 2.0, 1.0, 0.0, 1.0, 2.0],
        "jump_of_z": [float("nan"), jumps, jumps, 9.0, 9.0, jumps],
        **dict.fromkeys(("jitter", "J", "drift", "drift_no_trend", "slope"), float(jumps)),
        **dict.fromkeys(("injected_jitter", "injected_drift", "dice_back", "ncc_ratio", "minutes"), float("nan")),
    }


def test_damage_costs_what_jitter_rises_by_between_sound_sections() -> None:
    rows = with_cost_of_damage([record(1), record(1, size=448, jumps=7.0), record(1, damage="5%", jumps=1.2)])
    assert rows[2]["sound"] == pytest.approx(1.2)
    assert rows[2]["cost"] == pytest.approx(0.2)


def test_sequences_of_another_width_have_their_own_row() -> None:
    table = table_of([record(1), record(2, jumps=3.0), record(1, size=448, jumps=5.0)])
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["px"] == ["224", "448"]
    assert [str(cell)[:4] for cell in columns["J, px"]] == ["2.00", "5.00"]


@pytest.mark.parametrize(
    ("records", "drawn"),
    [
        ([record(seed, mode=mode) for seed in (1, 2) for mode in MODES], True),
        ([record(1), record(1, size=448)], True),
        ([record(1, damage="5%")], False),
        ([], False),
    ],
)
def test_a_picture_where_there_is_something_to_draw(tmp_path: Path, records: list[Any], drawn: bool) -> None:
    plot(records, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").exists() == drawn
    assert set(COLOURS) == set(MODES)


def test_bounded_drift_has_no_slope_and_a_constant_rate_has_one() -> None:
    assert slope_beyond([5.0] * 400, 50) == pytest.approx(0.0, abs=1e-9)
    assert slope_beyond([float(abs(z - 200)) for z in range(400)], 50) == pytest.approx(1.0, abs=0.05)
