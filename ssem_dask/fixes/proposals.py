"""Fixes that follow from what a run has found of its sections, for a person to accept.

Only faults of a whole section have one: nothing but a person knows where a fold runs, or which points are the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ssem_dask.fixes.fix_records import SectionFix
from ssem_dask.fixes.fixes_toml import fix_text
from ssem_dask.section_record import Action, Kind, SectionRecord

_LOST = {
    Kind.BLANK: "shows no tissue",
    Kind.NOISE: "shows noise",
    Kind.FOREIGN: "resembles nothing around it",
    Kind.DUPLICATE: "repeats the image of an earlier section",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A fix of one section."""

    z: int
    reason: str
    """One sentence without its subject: `resembles nothing around it: exclude`."""
    fix: SectionFix
    is_done: bool
    """Whether the run has put it right by itself, so that the fix only makes it certain."""

    @property
    def sentence(self) -> str:
        """Return the proposal as a sentence."""
        done = ", as the run has found by itself" if self.is_done else ""
        return f"section {self.z} {self.reason}{done}"

    @property
    def toml(self) -> str:
        """Return the fix as it is written in a file of fixes, with its reason as a comment."""
        return f"# {self.sentence}\n{fix_text(self.fix)}"


def proposal_for(record: SectionRecord) -> Proposal | None:
    """Return the fix that a section's record proposes; None if it proposes none."""
    z, done = record.z, record.action is Action.PUT_RIGHT
    if record.kind in _LOST:
        return Proposal(z, f"{_LOST[record.kind]}: exclude", SectionFix(z=z, action="exclude", fill="nearest"), done)
    if record.kind is Kind.INVERTED:
        return Proposal(z, "has inverted contrast", SectionFix(z=z, action="invert"), done)
    if record.kind is Kind.MIRRORED:
        return Proposal(z, "matches its neighbours when mirrored", SectionFix(z=z, action="turn", mirror=True), done)
    rotation = record.evidence.get("rotation_deg")
    if record.kind is Kind.TURNED and rotation is not None:
        # The record has the rotation of the map aligned → source, which turns content the other way.
        angle = float(round(-rotation)) if abs(rotation) < 179.5 else 180.0
        reason = f"matches its neighbours when turned by {angle:.0f}°"
        return Proposal(z, reason, SectionFix(z=z, action="turn", angle=angle), done)
    return None


def proposals(records: Iterable[SectionRecord]) -> list[Proposal]:
    """Return the proposals of some sections, those that the run has put right by itself last."""
    found = [proposal for record in records if (proposal := proposal_for(record)) is not None]
    return sorted(found, key=lambda proposal: (proposal.is_done, proposal.z))


def proposals_text(records: Iterable[SectionRecord]) -> str:
    """Return the proposals of what the run has not put right, ready to copy into a file of fixes."""
    return "\n".join(proposal.toml for proposal in proposals(records) if not proposal.is_done)
