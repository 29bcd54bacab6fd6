import pytest

from ssem_dask.fixes.fixes_toml import parse_fixes
from ssem_dask.fixes.proposals import proposal_for, proposals, proposals_text
from ssem_dask.section_record import Action, Kind, SectionRecord


def record(z: int, kind: Kind, action: Action = Action.NOTHING, **evidence: float) -> SectionRecord:
    return SectionRecord(z=z, kind=kind, action=action, evidence=evidence)


def test_what_resembles_nothing_is_proposed_to_be_left_out() -> None:
    proposal = proposal_for(record(12, Kind.FOREIGN, Action.LEFT_OUT))
    assert proposal is not None
    assert proposal.sentence == "section 12 resembles nothing around it: exclude"
    (fix,) = parse_fixes(proposal.toml).section
    assert (fix.z, fix.action, fix.fill) == (12, "exclude", "nearest")


@pytest.mark.parametrize(("rotation", "angle"), [(179.8, 180.0), (-180.0, 180.0), (90.2, -90.0), (-41.0, 41.0)])
def test_a_turned_section_is_turned_back(rotation: float, angle: float) -> None:
    proposal = proposal_for(record(15, Kind.TURNED, Action.PUT_RIGHT, rotation_deg=rotation))
    assert proposal is not None
    assert (proposal.fix.angle, proposal.is_done) == (angle, True)
    assert "as the run has found by itself" in proposal.sentence


@pytest.mark.parametrize("kind", [Kind.FOLD, Kind.DIRT, Kind.BLURRED, Kind.OUT_OF_ORDER, Kind.TURNED])
def test_what_only_a_person_can_say_is_not_proposed(kind: Kind) -> None:
    assert proposal_for(record(3, kind)) is None


def test_the_text_is_a_file_of_fixes_of_what_was_not_put_right() -> None:
    records = [
        record(4, Kind.MIRRORED, Action.PUT_RIGHT),
        record(9, Kind.INVERTED),
        record(12, Kind.BLANK, Action.LEFT_OUT),
    ]
    assert [proposal.z for proposal in proposals(records)] == [9, 12, 4]
    assert [(fix.z, fix.action) for fix in parse_fixes(proposals_text(records)).section] == [
        (9, "invert"),
        (12, "exclude"),
    ]
    assert proposals_text([]) == ""
