import numpy as np
import pytest
from scipy.ndimage import label

from ssem_dask.errors import ConfigError
from ssem_dask.field.affine import compose_affine
from ssem_dask.fixes.drawn_regions import inside_polygons, near_lines
from ssem_dask.fixes.fix_checks import check_fixes
from ssem_dask.fixes.fixes_toml import parse_fixes
from ssem_dask.fixes.section_fixes import NO_FIXES, SectionFixes, VolumeFixes, placed_map, section_fixes

SHAPE = 20, 100, 200


def volume_fixes(text: str, *, pixel_size: float = 4.0) -> VolumeFixes:
    fixes = parse_fixes(text)
    check_fixes(fixes, shape=SHAPE, pixel_size=pixel_size)
    return section_fixes(fixes, pixel_size=pixel_size, file_digest=lambda path: f"sha of {path}")


def test_tables_about_one_section_are_joined() -> None:
    fixes = volume_fixes(
        "[[section]]\nz = 5\naction = 'turn'\nmirror = true\n[[section]]\nsections = '4:6'\naction = 'invert'\n"
        "[[section]]\nz = 5\nmask = [[[0, 0], [0, 9], [9, 0]]]\n[[section]]\nz = 5\nmask = 'spots.png'\n"
    )
    assert fixes.of(4) == SectionFixes(inverted=True)
    five = fixes.of(5)
    assert (five.angle, five.mirror, five.inverted, five.mask_files) == (0.0, True, True, ("spots.png",))
    assert len(five.masks) == 1
    assert fixes.of(6) == SectionFixes()
    assert fixes.file_digests == {"spots.png": "sha of spots.png"}


def test_points_are_seen_from_either_section() -> None:
    fixes = volume_fixes(
        "[[pair]]\nfixed = 4\nmoving = 5\npoints = [[1, 2, 3, 4]]\nsd = 2\n"
        "[[pair]]\nfixed = 5\nmoving = 4\npoints = [[7, 8, 5, 6]]\n"
    )
    assert fixes.points_of(5) == {4: ((3.0, 4.0, 1.0, 2.0, 2.0), (7.0, 8.0, 5.0, 6.0, 5.0))} or fixes.points_of(5) == {
        4: ((7.0, 8.0, 5.0, 6.0, 5.0), (3.0, 4.0, 1.0, 2.0, 2.0))
    }
    assert fixes.concerned() == {4, 5}


def test_a_digest_is_that_of_the_meaning() -> None:
    px = volume_fixes("[[section]]\nz = 3\naction = 'invert'\n[[jump]]\nz = 9\naction = 'undo'")
    other_order = volume_fixes("[[jump]]\nz = 9\naction = 'undo'\n[[section]]\nsections = '3:4'\naction = 'invert'")
    assert px.digest() == other_order.digest()
    in_px = volume_fixes("[[pair]]\nfixed = 1\nmoving = 2\npoints = [[8, 8, 4, 4]]\nsd = 2")
    in_nm = volume_fixes("unit = 'nm'\n[[pair]]\nfixed = 1\nmoving = 2\npoints = [[32, 32, 16, 16]]\nsd = 8")
    assert in_px.digest() == in_nm.digest()
    assert px.digest() != in_px.digest()
    assert NO_FIXES.digest() == ""


def test_only_sections_that_a_change_concerns_differ() -> None:
    before = volume_fixes("[[section]]\nz = 3\naction = 'invert'\n[[section]]\nz = 12\naction = 'exclude'")
    after = volume_fixes(
        "[[section]]\nz = 3\naction = 'invert'\n[[pair]]\nfixed = 15\nmoving = 16\npoints = [[1,1,1,1]]"
    )
    assert after.differing(before) == {12, 15, 16}
    assert after.within(range(0, 10)).digest() == before.within(range(0, 10)).digest()
    assert after.differing(after) == frozenset()


def test_a_changed_mask_file_is_another_fix() -> None:
    fixes = parse_fixes("[[section]]\nz = 2\nmask = 'a.png'")
    one, two = (section_fixes(fixes, pixel_size=1, file_digest={"a.png": digest}.__getitem__) for digest in "xy")
    assert one.differing(two) == {2}


def test_a_turn_brings_content_back() -> None:
    # A mark at the top right appears at the top left after a quarter counter-clockwise.
    turned = placed_map(SectionFixes(angle=90.0), shape_yx=(100, 100))
    assert turned is not None
    np.testing.assert_allclose(turned @ [10.0, 10.0, 1.0], [10.0, 90.0], atol=1e-9)
    mirrored = placed_map(SectionFixes(angle=0.0, mirror=True), shape_yx=(100, 100))
    assert mirrored is not None
    np.testing.assert_allclose(mirrored @ [10.0, 20.0, 1.0], [10.0, 80.0], atol=1e-9)
    # Mirrored first, then turned: the mark at the top left is at the top right, then at the top left again.
    both = placed_map(SectionFixes(angle=90.0, mirror=True), shape_yx=(100, 100))
    assert both is not None
    np.testing.assert_allclose(both @ [10.0, 10.0, 1.0], [10.0, 10.0], atol=1e-9)
    half = placed_map(SectionFixes(angle=180.0), shape_yx=(100, 200))
    assert half is not None
    np.testing.assert_allclose(compose_affine(outer=half, inner=half), [[1, 0, 0], [0, 1, 0]], atol=1e-9)
    assert placed_map(SectionFixes(inverted=True), shape_yx=(100, 100)) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[section]]\nz = 20\naction = 'exclude'", r"names section 20, but the volume's sections are 0 to 19"),
        ("[[section]]\nsections = '18:21'\naction = 'exclude'", r"names section 20"),
        ("[[section]]\nz = 1\naction = 'swap'\nwith = 33", r"names section 33"),
        ("[[section]]\nz = 1\naction = 'swap'\nwith = 1", r"cannot change places with itself"),
        ("[[pair]]\nfixed = 1\nmoving = 99\npoints = [[1, 1, 1, 1]]", r"names section 99"),
        ("[[jump]]\nz = 20\naction = 'keep'", r"names section 20"),
        ("[[section]]\nz = 1\nmask = [[[500, 0], [500, 9], [900, 0]]]", r"\(500, 0\) px is outside the section of 100"),
        (
            "unit = 'nm'\n[[pair]]\nfixed = 1\nmoving = 2\npoints = [[1, 1, 1, 9000]]",
            r"\(1, 9000\) nm is outside .* 400 × 800",
        ),
        (
            "[[section]]\nz = 1\naction = 'turn'\nangle = 9\n"
            "[[section]]\nz = 1\naction = 'place'\naffine = [[1, 0, 0], [0, 1, 0]]",
            r"number 2 has action 'place' for section 1, but number 1 has 'turn'; leave one of them out",
        ),
        (
            "[[section]]\nz = 1\naction = 'exclude'\n[[section]]\nsections = '0:9'\naction = 'exclude'",
            r"number 2 has action 'exclude' for section 1, but number 1 has 'exclude'",
        ),
        (
            "[[section]]\nz = 1\naction = 'swap'\nwith = 2\n[[section]]\nz = 2\naction = 'swap'\nwith = 3",
            r"for section 2, but number 1 has 'swap'",
        ),
        (
            "[[section]]\nz = 1\naction = 'exclude'\n[[pair]]\nfixed = 0\nmoving = 1\npoints = [[1, 1, 1, 1]]",
            r"\[\[pair\]\] number 1 is about section 1, which \[\[section\]\] number 1 excludes",
        ),
        (
            "[[section]]\nz = 1\naction = 'exclude'\nmask = [[[0, 0], [0, 9], [9, 0]]]",
            r"is about section 1, which \[\[section\]\] number 1 excludes",
        ),
        ("[[jump]]\nz = 4\naction = 'keep'\n[[jump]]\nz = 4\naction = 'undo'", r"before section 4 is to be kept and"),
    ],
)
def test_what_does_not_fit_the_volume_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        volume_fixes(text)


def test_a_polygon_holds_the_pixels_inside() -> None:
    square = ((2.0, 3.0), (2.0, 7.0), (6.0, 7.0), (6.0, 3.0))
    inside = inside_polygons([square], shape=(10, 10))
    expected = np.zeros((10, 10), dtype=bool)
    expected[2:6, 3:7] = True
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(inside_polygons([square], shape=(5, 5), pixel=2.0).sum(), 4)
    # What crosses the border is cut off, and two polygons are joined where they overlap.
    corner = ((-5.0, -5.0), (-5.0, 4.0), (4.0, 4.0), (4.0, -5.0))
    assert inside_polygons([corner, square], shape=(10, 10)).sum() == 16 + 16 - 2


@pytest.mark.parametrize("end", [(9.0, 17.0), (3.0, 19.0), (19.0, 2.0)])
def test_no_path_of_pixels_passes_through_a_line(end: tuple[float, float]) -> None:
    near = near_lines([((0.0, 0.0), end, (19.9, 19.9))], shape=(20, 20), pixel=1.0)
    _, regions = label(~near)
    assert near.sum() < 100
    assert regions >= 2
