"""One spoilt section among good ones, in the default mode up to the fields: it comes back, and harms no other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.accuracy.methods import SectionFields
from benchmarks.spoilt.aligners import FieldsOnly, align_images
from benchmarks.spoilt.kinds import spoil_stack
from benchmarks.spoilt.measure import Measured, measure, truth_maps
from benchmarks.spoilt.stacks import DeformedStack, deform_stack, load_stack
from ssem_dask.types import AnyArray

pytestmark = pytest.mark.no_cover
_AT = 5


@pytest.fixture(scope="module")
def stack() -> DeformedStack:
    return deform_stack(load_stack("phantom", sections=12, size=256, data=Path()), seed=11)


def aligned(stack: DeformedStack, images: AnyArray, **config: Any) -> SectionFields:
    torch.set_num_threads(1)
    return align_images(
        FieldsOnly(config=config),
        images,
        pixel_size=stack.pixel_size,
        section_thickness=stack.section_thickness,
    )


@pytest.fixture(scope="module")
def undamaged(stack: DeformedStack) -> SectionFields:
    return aligned(stack, stack.images)


def spoilt(stack: DeformedStack, undamaged: SectionFields, kind: str, **config: Any) -> Measured:
    made = spoil_stack(stack.images, kind, at=_AT, seed=3, foreign=stack.foreign)
    found = aligned(stack, made.images, **config)
    return measure(truth_maps(found, stack, made.sources), truth_maps(undamaged, stack, {}), made)


@pytest.mark.parametrize(("kind", "most"), [("turn180", 1.0), ("inverted", 4.0)])
def test_a_section_that_was_turned_or_inverted_comes_back(
    stack: DeformedStack, undamaged: SectionFields, kind: str, most: float
) -> None:
    """Inverted tissue of a phantom has other features, and a dozen sections determine their drift but loosely."""
    found = spoilt(stack, undamaged, kind)
    assert found.harm_median < most
    assert found.back[_AT][0] < most


def test_a_half_turn_that_the_user_gives_reaches_the_picture_without_a_search(
    stack: DeformedStack, undamaged: SectionFields, tmp_path: Path
) -> None:
    side = stack.shape_yx[0]
    path = tmp_path / "initial.csv"
    path.write_text(f"z,a00,a01,a02,a10,a11,a12\n{_AT},-1,0,{side},0,-1,{side}\n")
    found = spoilt(stack, undamaged, "turn180", coarse={"initial": str(path), "search": False})
    assert found.harm_median < 0.8
    assert found.back[_AT][0] < 1.2


@pytest.mark.parametrize("kind", ["noise"])
def test_a_section_that_is_lost_harms_no_other(stack: DeformedStack, undamaged: SectionFields, kind: str) -> None:
    found = spoilt(stack, undamaged, kind)
    assert found.harm_median < 1.0
    assert np.isfinite(found.harm_largest)
    assert found.harm_largest < 2.5


def test_both_sides_of_a_large_fold_come_back() -> None:
    stack = deform_stack(load_stack("phantom", sections=8, size=448, data=Path()), seed=12)
    found = spoilt(stack, aligned(stack, stack.images), "fold_large")
    median, p95 = found.back[_AT]
    assert median < 5.0  # eight sections determine their drift but loosely
    assert p95 < 12.0  # the two sides are 74 px apart
    assert found.harm_median < 2.5
