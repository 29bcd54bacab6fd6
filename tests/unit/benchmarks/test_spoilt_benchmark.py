"""The benchmark of spoilt sections: every kind knows its geometry, and harm and return are what fields differ by."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from benchmarks.accuracy.methods import SectionFields
from benchmarks.spoilt.__main__ import main, table_of
from benchmarks.spoilt.cases import UNDAMAGED
from benchmarks.spoilt.kinds import COMES_BACK, KINDS, spoil_stack
from benchmarks.spoilt.measure import measure, truth_maps
from benchmarks.spoilt.stacks import DeformedStack, deform_stack, load_stack
from ssem_dask.types import AnyArray, Float32Array

_SIDE, _SPACING = 192, 8
_SAME_GREYS = set(COMES_BACK) - {"inverted", "blurred", "faint"}


@pytest.fixture(scope="module")
def stack() -> DeformedStack:
    return deform_stack(load_stack("phantom", sections=10, size=_SIDE, data=Path()), seed=3)


def smooth(seed: int) -> AnyArray:
    values = gaussian_filter(np.random.default_rng(seed).standard_normal((_SIDE, _SIDE)), 3.0)
    return (128 + 60 * values / values.std()).clip(20, 230).astype(np.uint8)


def zero_fields(count: int) -> Float32Array:
    return np.zeros((count, 2, _SIDE // _SPACING, _SIDE // _SPACING), dtype=np.float32)


@pytest.mark.parametrize("kind", COMES_BACK)
def test_the_source_of_a_spoilt_section_says_what_it_shows(kind: str) -> None:
    images = np.stack([smooth(z) for z in range(3)])
    spoilt = spoil_stack(images, kind, at=1, seed=5, foreign=smooth(9))
    source = spoilt.sources[1]
    known = np.isfinite(source).all(axis=0)
    assert known.mean() > 0.15
    assert (spoilt.images[[0, 2]] == images[[0, 2]]).all()
    if kind in _SAME_GREYS:
        shown = map_coordinates(images[1].astype(float), np.nan_to_num(source) - 0.5, order=1, mode="nearest")
        assert np.median(np.abs(shown - spoilt.images[1])[known]) < 2


def test_kinds_that_are_lost_have_no_source_and_three_are_spoilt_in_three_ways() -> None:
    images = np.stack([smooth(z) for z in range(10)])
    for kind in set(KINDS) - set(COMES_BACK) - {"three_bad"}:
        assert not spoil_stack(images, kind, at=1, seed=5, foreign=smooth(90)).sources
    three = spoil_stack(images, "three_bad", at=1, seed=5, foreign=smooth(90))
    assert three.spoilt == {1: "fold_large", 6: "foreign", 9: "turn180"}
    assert set(three.sources) == {1, 9}


def test_harm_is_the_distance_that_other_sections_were_moved_by(stack: DeformedStack) -> None:
    spoilt = spoil_stack(stack.images, "dirt", at=4, seed=5, foreign=stack.foreign)
    sound = truth_maps(SectionFields(zero_fields(10), _SPACING), stack, {})
    moved = zero_fields(10) + 2.0  # a shift of all sections is nothing
    moved[2, 0] += 3.0
    moved[4, 1] += 1.0
    found = measure(truth_maps(SectionFields(moved, _SPACING), stack, spoilt.sources), sound, spoilt)
    assert found.harm_largest == pytest.approx(3.0, abs=0.4)
    assert found.harm_median < 0.4  # the deformation is seen at another place
    assert set(found.harm) == set(range(10)) - {4}
    assert found.back[4][0] == pytest.approx(1.0, abs=0.4)


def test_a_turned_section_is_back_if_its_field_turns_it_back(stack: DeformedStack) -> None:
    spoilt = spoil_stack(stack.images, "turn180", at=4, seed=5, foreign=stack.foreign)
    sound = truth_maps(SectionFields(zero_fields(10), _SPACING), stack, {})
    fields = zero_fields(10)
    lost = measure(truth_maps(SectionFields(fields, _SPACING), stack, spoilt.sources), sound, spoilt)
    assert lost.back[4][0] > 50
    nodes = (np.mgrid[: _SIDE // _SPACING, : _SIDE // _SPACING] + 0.5) * _SPACING
    fields[4] = _SIDE - 2 * nodes
    found = measure(truth_maps(SectionFields(fields, _SPACING), stack, spoilt.sources), sound, spoilt)
    assert found.back[4][1] < 0.1


def test_a_case_is_run_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "phantom", "--size", "96", "--sections", "9", "--at", "4", "--kinds", "black", "--work"]
    assert main([*words, str(tmp_path), "--methods", "identity", "--json", str(tmp_path / "out.json")]) == 0
    assert "0.00; 0.00" in capsys.readouterr().out
    assert (tmp_path / "out.json").exists()
    assert len(list((tmp_path / UNDAMAGED).iterdir())) == 1


def test_a_peer_that_is_not_installed_says_so() -> None:
    record = {"data": "vnc", "method": "peer", "kind": "black", "state": "not installed", "cause": "peer is missing"}
    assert "peer is missing" in list(table_of([record]).columns[4].cells)
