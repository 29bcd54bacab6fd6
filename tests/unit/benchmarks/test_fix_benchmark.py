"""The benchmark of fixes by hand: what a person says leads to the section that was spoilt."""

import numpy as np
import pytest

from benchmarks.fix.actions import NOTHING, proposed, typed
from benchmarks.fix.rounds import Round
from benchmarks.spoilt.kinds import KINDS, spoil_stack
from ssem_dask.fixes.fix_checks import check_fixes
from ssem_dask.fixes.fixes_toml import parse_fixes
from ssem_dask.section_record import Action, Attention, Kind, SectionRecord

SHAPE = (10, 192, 192)
AT = 5


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "three_bad"])
def test_each_kind_has_a_fix_that_can_be_used(kind: str) -> None:
    images = np.random.default_rng(2).integers(1, 255, size=SHAPE, dtype=np.uint8)
    spoilt = spoil_stack(images, kind, at=AT, seed=1, foreign=images[0])
    fields = np.zeros((SHAPE[0], 2, 12, 12), dtype=np.float32)
    said = typed(kind, AT, spoilt, fields=fields, spacing=16, seed=1)
    if kind in ("blurred", "faint"):
        assert said == NOTHING
        return
    assert said.actions > 0
    fixes = parse_fixes(said.toml)
    check_fixes(fixes, shape=SHAPE, pixel_size=5.0)
    named = {z for table in fixes.section for z in table.range} | {pair.moving for pair in fixes.pair}
    assert named == {AT}
    for pair in fixes.pair:
        for y, x, moving_y, moving_x in pair.points:
            wanted = spoilt.sources[AT][:, int(moving_y), int(moving_x)]
            assert np.isnan(wanted).any() or np.hypot(*(wanted - np.array([y, x]))) < 15


def test_a_proposal_takes_one_key_and_what_is_done_takes_none() -> None:
    def attention(action: Action) -> Attention:
        record = SectionRecord(z=AT, kind=Kind.FOREIGN, certainty=1.0, action=action, effect_px=0.0, detail="")
        return Attention(sections=SHAPE[0], records=(record,))

    said = proposed(AT, attention(Action.NOTHING))
    assert said is not None
    assert said.actions == 1
    assert proposed(AT, attention(Action.PUT_RIGHT)) is None
    assert proposed(AT - 1, attention(Action.NOTHING)) is None
    # One key to go there, one to accept, one to apply.
    assert Round("foreign", "foreign", [said]).actions == 3
    assert Round("fold_mild", "fold", [NOTHING]).actions == 0


def test_the_lines_of_folds_run_where_they_are() -> None:
    images = np.full((10, 320, 320), 100, dtype=np.uint8)
    for kind in ("fold_mild", "crack"):
        spoilt = spoil_stack(images, kind, at=AT, seed=3, foreign=images[0])
        said = typed(kind, AT, spoilt, fields=np.zeros((10, 2, 20, 20), dtype=np.float32), spacing=16, seed=1)
        (line,) = parse_fixes(said.toml).section[0].split or ()
        hidden = np.isnan(spoilt.sources[AT][0])
        inner = [(y, x) for y, x in line if 0 <= y < 320 and 0 <= x < 320]
        assert all(hidden[int(y), int(x)] for y, x in inner), kind
        assert len(inner) < len(line)  # it leaves the section, so that the sides are apart
