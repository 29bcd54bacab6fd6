"""C2 and the tilings: boxes, chunks, windows, mips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, round_up
from ssem_dask.geometry.mip import ceil_div, mip_for_pixel_size, shape_at_mip
from ssem_dask.geometry.windows import tile_windows
from ssem_dask.types import ShapeZYX

laws = settings(max_examples=60, deadline=None)


def triples(low: int, high: int) -> st.SearchStrategy[ShapeZYX]:
    return st.tuples(*[st.integers(low, high)] * 3)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    start, extent = draw(triples(-40, 40)), draw(triples(0, 30))
    stop = (start[0] + extent[0], start[1] + extent[1], start[2] + extent[2])
    return Box(start, stop, draw(st.integers(0, 3)))


def painted(shape: ShapeZYX, box: Box) -> np.ndarray:
    """True in the box."""
    out = np.zeros(shape, dtype=bool)
    out[box.slices] = True
    return out


@laws
@given(shape=triples(1, 17), chunk=triples(1, 8))
def test_chunks_are_disjoint_and_cover_the_shape(shape: ShapeZYX, chunk: ShapeZYX) -> None:
    count = np.zeros(shape, dtype=int)
    for box in chunk_boxes(shape, chunk=chunk):
        assert box.size > 0
        assert all(a % c == 0 for a, c in zip(box.start, chunk, strict=True))
        count[box.slices] += 1
    assert (count == 1).all()


@laws
@given(shape=triples(1, 15), core=triples(1, 8), before=triples(0, 5), after=triples(0, 5))
def test_window_cores_tile_and_reads_hold_their_core_and_halo(
    shape: ShapeZYX, core: ShapeZYX, before: ShapeZYX, after: ShapeZYX
) -> None:
    count = np.zeros(shape, dtype=int)
    volume = Box((0, 0, 0), shape)
    for window in tile_windows(shape, core=core, halo_before=before, halo_after=after):
        count[window.core.slices] += 1
        assert window.read.contains(window.core)
        assert volume.contains(window.read)
        for axis in range(3):
            reached = window.core.start[axis] - window.read.start[axis]
            assert reached == min(before[axis], window.core.start[axis])
            ahead = window.read.stop[axis] - window.core.stop[axis]
            assert ahead == min(after[axis], shape[axis] - window.core.stop[axis])
    assert (count == 1).all()


@laws
@given(box=boxes(), shape=triples(1, 30))
def test_clipping_keeps_exactly_what_lies_in_the_volume(box: Box, shape: ShapeZYX) -> None:
    clipped = box.clipped(shape)
    assert Box((0, 0, 0), shape).contains(clipped)
    assert clipped.clipped(shape) == clipped
    index = np.indices(shape)
    inside = np.all(
        [(index[a] >= box.start[a]) & (index[a] < box.stop[a]) for a in range(3)],
        axis=0,
    )
    assert np.array_equal(painted(shape, clipped), inside)


@laws
@given(box=boxes(), by=triples(-20, 20), grow=triples(0, 9))
def test_shift_and_growth_are_undone_by_their_opposites(box: Box, by: ShapeZYX, grow: ShapeZYX) -> None:
    back = (-by[0], -by[1], -by[2])
    assert box.shifted(by).shifted(back) == box
    assert box.shifted(by).shape == box.shape
    grown = box.grown(before=grow, after=by if min(by) >= 0 else grow)
    assert grown.contains(box)
    assert grown.mip == box.mip


@laws
@given(box=boxes(), mip=st.integers(0, 5))
def test_a_box_at_another_mip_covers_the_same_pixels_with_as_few_as_it_can(box: Box, mip: int) -> None:
    other = box.at_mip(mip)
    assert other.mip == mip
    assert other.sections == box.sections
    common = 2.0 ** np.array([box.mip, mip])
    for axis in (1, 2):
        assert other.start[axis] * common[1] <= box.start[axis] * common[0]
        assert other.stop[axis] * common[1] >= box.stop[axis] * common[0]
        assert (other.start[axis] + 1) * common[1] > box.start[axis] * common[0]
        assert (other.stop[axis] - 1) * common[1] < box.stop[axis] * common[0]
    if mip <= box.mip:
        assert other.at_mip(box.mip) == box


@laws
@given(box=boxes())
def test_size_shape_and_slices_agree(box: Box) -> None:
    assert box.size == int(np.prod(box.shape))
    assert box.shape_yx == box.shape[1:]
    assert box.start_yx == box.start[1:]
    assert tuple(s.stop - s.start for s in box.slices) == box.shape


def test_a_box_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="stop"):
        Box((0, 5, 0), (1, 4, 1))


@laws
@given(value=st.integers(0, 10**6), divisor=st.integers(1, 1000))
def test_rounding_up(value: int, divisor: int) -> None:
    assert (ceil_div(value, divisor) - 1) * divisor < value <= ceil_div(value, divisor) * divisor
    assert 0 <= round_up(value, multiple=divisor) - value < divisor


@laws
@given(shape=st.tuples(st.integers(1, 5000), st.integers(1, 5000)), mip=st.integers(0, 6))
def test_shape_at_a_mip_is_that_of_repeated_halving(shape: tuple[int, int], mip: int) -> None:
    halved = shape
    for _ in range(mip):
        halved = (ceil_div(halved[0], 2), ceil_div(halved[1], 2))
    assert shape_at_mip(shape, mip=mip) == halved


@laws
@given(pixel=st.floats(1.0, 50.0), wanted=st.floats(1.0, 500.0))
def test_mip_for_a_pixel_size_is_the_nearest_on_a_log_scale(pixel: float, wanted: float) -> None:
    mip = mip_for_pixel_size(pixel, wanted=wanted)
    assert mip >= 0
    distance = abs(np.log2(pixel * 2**mip / wanted))
    assert mip == 0 or distance <= 0.5 + 1e-9
