"""One record per section: sound, or what is wrong with it, how certain that is, and what was done about it.

Stage measure writes the records of a run; status, report, viewer and the aligned volume's attributes show them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ssem_dask.units import plural, shortened

ANY_KIND = "any"
"""Name for all kinds of faults together."""
_SHOWN = 12
"""Sections that the summary names."""


class Kind(StrEnum):
    """State of a section: sound, or its most important fault."""

    OK = "ok"
    BLANK = "blank"
    """It shows no tissue."""
    NOISE = "noise"
    """It shows noise without any structure."""
    FOREIGN = "foreign"
    """It shows tissue, but resembles none of its neighbours, in any position."""
    UNPLACED = "unplaced"
    """It resembles its neighbours, but registration found no place for it."""
    TURNED = "turned"
    """It was rotated far more than the others."""
    MIRRORED = "mirrored"
    INVERTED = "inverted"
    """Its contrast is inverted."""
    SCALED = "scaled"
    """It was imaged at another scale."""
    SHIFTED = "shifted"
    """It was displaced far more than the others, and a part of it is missing."""
    DUPLICATE = "duplicate"
    """It repeats the image of a section before it."""
    OUT_OF_ORDER = "out_of_order"
    """It would fit better elsewhere in the stack."""
    FOLD = "fold"
    """A dark band runs through it."""
    CRACK = "crack"
    """A bright band runs through it."""
    SEAM = "seam"
    """One side was displaced against the other, without a gap."""
    TORN = "torn"
    """A part of it resembles none of its neighbours."""
    PARTLY_EMPTY = "partly_empty"
    DIRT = "dirt"
    """Dark or bright spots cover a part of it."""
    BLURRED = "blurred"
    FAINT = "faint"
    """Its contrast is far lower than that of the others."""


class Action(StrEnum):
    """Reaction of the run to a fault."""

    NOTHING = "nothing"
    """The section was aligned like the others."""
    PUT_RIGHT = "put right"
    """The fault was undone."""
    LEFT_OUT = "left out"
    """The section determines nothing; its field was interpolated from its neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionRecord:
    """The record of one section."""

    z: int
    name: str = ""
    """Name of the file or page that the section was imported from; empty if it has none."""
    kind: Kind = Kind.OK
    certainty: float = 1.0
    """How certain the kind is, 0 to 1."""
    action: Action = Action.NOTHING
    effect_px: float | None = None
    """How much the uncertainty of its neighbours exceeds that of the others, px; None: unknown."""
    detail: str = ""
    """The fault in a few words, such as `turned by 180°`."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """Measured values that led to the name, by name."""

    def describe(self) -> str:
        """Return the section with its fault, as the summary lists it."""
        section = f"{self.z} ({self.name})" if self.name else f"{self.z}"
        text = f"{section} {self.detail or self.kind.replace('_', ' ')}"
        return f"{text}, {self.action}" if self.action is Action.PUT_RIGHT else text

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "z": self.z,
            "name": self.name,
            "kind": str(self.kind),
            "certainty": self.certainty,
            "action": str(self.action),
            "effect_px": self.effect_px,
            "detail": self.detail,
            "evidence": dict(self.evidence),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "SectionRecord":
        """Return the record of JSON values.

        Raises:
            KeyError, TypeError, ValueError: the values are no record.
        """
        effect = record.get("effect_px")
        return cls(
            z=int(record["z"]),
            name=str(record.get("name", "")),
            kind=Kind(record["kind"]),
            certainty=float(record["certainty"]),
            action=Action(record["action"]),
            effect_px=None if effect is None else float(effect),
            detail=str(record.get("detail", "")),
            evidence={str(name): float(value) for name, value in dict(record.get("evidence", {})).items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The sections of a run that a person should look at, and the pieces into which the stack falls."""

    sections: int
    """Number of sections of the volume."""
    records: tuple[SectionRecord, ...] = ()
    """Records of the sections that are not ok, by z."""
    pieces: tuple[tuple[int, ...], ...] = ()
    """Sections that pairs connect with each other, if there are several such pieces; by their first section."""
    unplaced: tuple[int, ...] = ()
    """Sections that no pair ties to any other."""

    def record(self, z: int) -> SectionRecord:
        """Return the record of a section."""
        return next((record for record in self.records if record.z == z), SectionRecord(z=z))

    def to_json(self) -> dict[str, Any]:
        """Return the records as JSON values."""
        return {
            "sections": self.sections,
            "attention": [record.to_json() for record in self.records],
            "pieces": [list(piece) for piece in self.pieces],
            "unplaced": list(self.unplaced),
            "summary": self.summary(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Attention":
        """Return the records of JSON values.

        Raises:
            KeyError, TypeError, ValueError: the values are no records.
        """
        return cls(
            sections=int(record["sections"]),
            records=tuple(SectionRecord.from_json(values) for values in record["attention"]),
            pieces=tuple(tuple(int(z) for z in piece) for piece in record["pieces"]),
            unplaced=tuple(int(z) for z in record["unplaced"]),
        )

    def verdict(self, state: str) -> str:
        """Return the verdict in one line: `aligned; 3 of 20 sections need a look: 7 fold, …`.

        Args:
            state: state of the run; `complete` reads as aligned.
        """
        if state == "complete" and self._nothing_matches:
            return f"not aligned; {self.summary()}"
        return f"{'aligned' if state == 'complete' else state}; {self.summary()}"

    @property
    def _nothing_matches(self) -> bool:
        return self.sections > 1 and len(self.unplaced) == self.sections

    def summary(self) -> str:
        """Return the verdict without the state."""
        parts, records = [], self.records
        if self._nothing_matches:
            parts.append(
                "no section matches another; check their order, their pixel size, and whether they show the same tissue"
            )
            records = tuple(record for record in records if record.kind is not Kind.UNPLACED)
        if records:
            need = "sections needs" if len(records) == 1 else "sections need"
            listed = shortened((record.describe() for record in records), limit=_SHOWN)
            parts.append(f"{len(records)} of {self.sections:,} {need} a look: {listed}")
        if len(self.pieces) > 1:
            parts.append(self._describe_pieces())
        return "; ".join(parts) or f"none of {plural(self.sections, 'section')} needs a look"

    def _describe_pieces(self) -> str:
        """Return how the stack falls into pieces: which sections are between two of them."""
        first, second = self.pieces[0], self.pieces[1]
        between = [record.z for record in self.records if first[-1] < record.z < second[0]]
        cause = f", since {_spans(between)} {'matches' if len(between) == 1 else 'match'} nothing" if between else ""
        more = f" ({len(self.pieces)} pieces in all)" if len(self.pieces) > 2 else ""
        return f"{_spans(first)} are connected with each other, but not with {_spans(second)}{cause}{more}"


def without_excluded(attention: Attention, excluded: Sequence[int]) -> Attention:
    """Return the sections that a person should look at, without those that a person has left out already."""
    return replace(
        attention,
        records=tuple(record for record in attention.records if record.z not in excluded),
        unplaced=tuple(z for z in attention.unplaced if z not in excluded),
    )


def matching_records(records: Iterable[SectionRecord], kinds: Sequence[str]) -> list[SectionRecord]:
    """Return the records of some kinds; `any` matches all."""
    return [record for record in records if ANY_KIND in kinds or record.kind in kinds]


def _spans(sections: Sequence[int]) -> str:
    """Return sections as ranges: 0–3, 5."""
    spans: list[list[int]] = []
    for z in sections:
        if spans and z == spans[-1][1] + 1:
            spans[-1][1] = z
        else:
            spans.append([z, z])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans)
