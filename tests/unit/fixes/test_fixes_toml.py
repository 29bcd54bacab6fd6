import tomllib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssem_dask.errors import ConfigError
from ssem_dask.fixes.fix_records import Fixes, JumpFix, PairFix, SectionFix
from ssem_dask.fixes.fixes_toml import fix_text, fixes_text, parse_fixes, with_changed_fix, with_fix, without_fix

ALL = """\
# seen on Monday
[[section]]
z = 12
action = "exclude"
fill = "nearest"

[[section]]   # half a turn
z = 15
action = "turn"
angle = 180

# torn at the corner
[[section]]
z = 7
mask = [[[0, 0], [0, 40], [30, 0]]]
split = [[[5, 5], [60.5, 70]]]

[[section]]
sections = "20:22"
action = "invert"

[[section]]
z = 3
action = "place"
affine = [[1, 0, 5.5], [0, 1, -3]]

[[section]]
z = 30
action = "swap"
with = 31

[[pair]]
fixed = 14
moving = 15
points = [[10, 20, 30, 40], [11, 21, 31.25, 41]]
sd = 2.5

[[jump]]
z = 9
action = "keep"
"""


def test_every_kind_of_fix_is_read() -> None:
    fixes = parse_fixes(ALL)
    exclude, turn, drawn, invert, place, swap = fixes.section
    assert (exclude.z, exclude.action, exclude.fill) == (12, "exclude", "nearest")
    assert (turn.angle, turn.mirror) == (180.0, False)
    assert drawn.mask == (((0.0, 0.0), (0.0, 40.0), (30.0, 0.0)),)
    assert drawn.split == (((5.0, 5.0), (60.5, 70.0)),)
    assert (invert.range, place.affine) == (range(20, 22), ((1.0, 0.0, 5.5), (0.0, 1.0, -3.0)))
    assert (swap.range, swap.other) == (range(30, 31), 31)
    assert fixes.pair[0].points[1] == (11.0, 21.0, 31.25, 41.0)
    assert fixes.jump[0] == JumpFix(z=9, action="keep")


def test_what_is_written_is_read_back() -> None:
    fixes = parse_fixes(ALL)
    assert {t.given()["z"] for t in parse_fixes(fixes_text(fixes)).section if t.z is not None} == {12, 15, 7, 3, 30}
    assert sorted(map(fix_text, parse_fixes(fixes_text(fixes)).section)) == sorted(map(fix_text, fixes.section))
    assert parse_fixes(fixes_text(fixes)).pair == fixes.pair


number = st.floats(-1e5, 1e5, allow_nan=False).map(lambda v: round(v, 3))


@given(
    points=st.lists(st.tuples(number, number, number, number), min_size=1, max_size=12),
    sd=st.floats(0.01, 100),
    name=st.text(st.characters(codec="utf-8"), min_size=1),
)
@settings(max_examples=50, deadline=None)
@example(points=[(1.0, 2.0, 3.0, 4.0)], sd=1.0, name='a\x7f"\\\n')
def test_any_values_are_read_back(points: list[tuple[float, ...]], sd: float, name: str) -> None:
    pair = PairFix.model_validate({"fixed": 1, "moving": 0, "points": points, "sd": sd})
    mask = SectionFix(z=1, mask=name)
    assert parse_fixes(fix_text(pair) + fix_text(mask)) == Fixes(pair=(pair,), section=(mask,))


def test_a_table_is_added_without_touching_the_rest() -> None:
    text = with_fix(ALL, PairFix(fixed=1, moving=2, points=((1, 2, 3, 4),)))
    assert text.startswith(ALL.rstrip())
    assert len(parse_fixes(text).pair) == 2
    assert parse_fixes(with_fix("", JumpFix(z=3, action="undo"))).jump == (JumpFix(z=3, action="undo"),)


def test_a_table_is_removed_with_its_comments_and_no_others() -> None:
    text = without_fix(ALL, "section", 2)
    assert "half a turn" not in text
    assert "# torn at the corner\n[[section]]\nz = 7" in text
    assert "# seen on Monday" in text
    assert [fix.z for fix in parse_fixes(text).section] == [12, 7, None, 3, 30]


def test_a_table_is_changed_in_place() -> None:
    text = with_changed_fix(ALL, 1, SectionFix(z=12, action="exclude", fill="between"))
    assert "# torn at the corner" in text
    assert parse_fixes(text).section[0].fill == "between"
    assert parse_fixes(text).section[1:] == parse_fixes(ALL).section[1:]


def test_tables_in_another_notation_can_be_edited_too() -> None:
    text = 'section = [{z = 1, action = "invert"}, {z = 2, action = "invert"}]'
    assert [fix.z for fix in parse_fixes(without_fix(text, "section", 1)).section] == [2]
    assert [
        fix.z for fix in parse_fixes(with_fix(fixes_text(parse_fixes(text)), SectionFix(z=3, action="invert"))).section
    ] == [1, 2, 3]


def test_a_table_that_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(ConfigError, match=r"no table \[\[jump\]\] number 2; there are 1"):
        without_fix(ALL, "jump", 2)


def test_long_lists_have_one_row_per_line() -> None:
    pair = PairFix(fixed=0, moving=1, points=tuple((float(i), 2.25, 3.5, 4.0) for i in range(20)))
    text = fix_text(pair)
    assert max(map(len, text.splitlines())) <= 110
    assert tomllib.loads(text)["pair"][0]["points"][19] == [19, 2.25, 3.5, 4]


def test_nm_become_px() -> None:
    fixes = parse_fixes(
        'unit = "nm"\n[[section]]\nz = 1\naction = "place"\naffine = [[1, 0, 50], [0, 1, 100]]\n'
        "[[pair]]\nfixed = 0\nmoving = 1\npoints = [[10, 20, 30, 40]]\nsd = 25\n"
    ).in_px(5.0)
    assert fixes.section[0].affine == ((1.0, 0.0, 10.0), (0.0, 1.0, 20.0))
    assert (fixes.pair[0].points, fixes.pair[0].sd) == (((2.0, 4.0, 6.0, 8.0),), 5.0)
    assert fixes.unit == "px"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("z = ", r"invalid TOML \(.*\); fix that line"),
        ("[[sections]]\nz = 1", r"unknown key 'sections'; did you mean 'section'\?"),
        ("[section]\nz = 1", r"section must be tables; write \[\[section\]\] above the keys of each"),
        (
            "[[section]]\nz = 1\naktion = 'exclude'",
            r"number 1 \(z = 1\): unknown key 'aktion'; did",
        ),
        ("[[section]]\nz = 1\naction = 'drop'", r"number 1 \(z = 1\): action: input should be 'exclude', 'turn'"),
        ("[[section]]\nz = -1\naction = 'invert'", r"z: input should be greater than or equal to 0"),
        ("[[section]]\naction = 'invert'", r'give either z = 12 or sections = "12:15"'),
        ("[[section]]\nz = 1\nsections = '1:2'\naction = 'invert'", r'give either z = 12 or sections = "12:15"'),
        ("[[section]]\nsections = '5:5'\naction = 'invert'", r'"12:15"'),
        ("[[section]]\nz = 1", r"says nothing about the section; give an action, a mask or a split"),
        ("[[section]]\nz = 1\naction = 'turn'", r'action = "turn" needs angle = degrees, mirror = true, or both'),
        ("[[section]]\nz = 1\naction = 'turn'\nangle = nan", r"angle: must be a number of degrees"),
        ("[[section]]\nz = 1\naction = 'place'", r"needs affine = \[\[a, b, c\], \[d, e, f\]\]"),
        ("[[section]]\nz = 1\naction = 'place'\naffine = [[1, 0, 0], [2, 0, 0]]", r"the map cannot be inverted"),
        ("[[section]]\nz = 1\naction = 'place'\naffine = [[1, 0], [2, 0]]", r"affine: \[1, 0\] is no \[\[a, b, c\]"),
        ("[[section]]\nz = 1\naction = 'swap'", r'action = "swap" needs z and with, one section each'),
        ("[[section]]\nsections = '1:4'\naction = 'swap'\nwith = 7", r"needs z and with, one section each"),
        ("[[section]]\nz = 1\naction = 'invert'\nfill = 'blank'", r'fill belongs to action = "exclude"'),
        ("[[section]]\nz = 1\naction = 'invert'\nmirror = true", r'mirror belongs to action = "turn"'),
        ("[[section]]\nz = 1\nmask = [[[1, 2], [3, 4]]]", r"mask: a polygon has 2 points, but needs 3"),
        (
            "[[section]]\nz = 1\nmask = [[1, 2], [3, 4], [5, 6]]",
            r"mask: wanted is a list of|is no point",
        ),
        ("[[section]]\nz = 1\nsplit = [[[1, 2]]]", r"split: a line has 1 points, but needs 2"),
        ("[[section]]\nz = 1\nsplit = [[[1, inf], [2, 2]]]", r"split: \[1, inf\] is no point"),
        ("[[pair]]\nfixed = 1\nmoving = 2", r"number 1 \(fixed = 1, moving = 2\): key 'points' is missing; add it"),
        ("[[pair]]\nfixed = 1\nmoving = 1\npoints = [[1, 2, 3, 4]]", r"fixed and moving are both section 1"),
        ("[[pair]]\nfixed = 1\nmoving = 2\npoints = []", r"holds no point"),
        ("[[pair]]\nfixed = 1\nmoving = 2\npoints = [[1, 2, 3]]", r"points: \[1, 2, 3\] is no \[y fixed"),
        ("[[pair]]\nfixed = 1\nmoving = 2\npoints = [[1, 2, 3, 4]]\nsd = 0", r"sd: input should be greater than 0"),
        ("[[jump]]\nz = 0\naction = 'keep'", r"\[\[jump\]\] number 1 \(z = 0\): z: input should be greater"),
        ("[[jump]]\nz = 4", r"key 'action' is missing; add it"),
        ("unit = 'um'", r"unit: input should be 'px' or 'nm'"),
    ],
)
def test_a_mistake_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        parse_fixes(text, where="my.toml")
    message = str(caught.value)
    assert message.startswith("Fixes my.toml: ")
    assert message.endswith((".", "?"))
    assert "\n" not in message
