"""Regions: whether two meet does not depend on how it is looked up."""

from hypothesis import given
from hypothesis import strategies as st

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Region, RegionSet

_starts = st.tuples(*[st.integers(0, 30)] * 3)
_extents = st.tuples(*[st.integers(0, 12)] * 3)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    start, extent = draw(_starts), draw(_extents)
    stop = (start[0] + extent[0], start[1] + extent[1], start[2] + extent[2])
    return Region(draw(st.sampled_from(["a", "b"])), Box(start, stop))


@given(st.lists(regions(), max_size=6), st.lists(regions(), max_size=3))
def test_a_set_meets_what_one_of_its_regions_meets(held: list[Region], asked: list[Region]) -> None:
    found = RegionSet()
    found.add(held)
    assert found.overlaps_any(asked) == any(a.overlaps(b) for a in asked for b in held)


@given(regions(), regions())
def test_regions_meet_exactly_if_they_share_a_pixel(a: Region, b: Region) -> None:
    def pixels(region: Region) -> set[tuple[str, int, int, int]]:
        z, y, x = (range(low, high) for low, high in zip(region.box.start, region.box.stop, strict=True))
        return {(region.name, i, j, k) for i in z for j in y for k in x}

    assert a.overlaps(b) == b.overlaps(a) == bool(pixels(a) & pixels(b))
