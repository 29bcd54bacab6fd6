"""Changes of the sections of a volume that grows: which were written again, numbered, and from which files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from ssem_dask.storage.arrays import group_attributes
from ssem_dask.storage.untrusted import checked

KEY = "ssem_dask_changes"
"""Group attribute of a volume that grows: {"made": [section, …], "stamps": {file: fingerprint}}."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Sections and files that were written into a volume after its import."""

    made: list[int] = field(default_factory=list)
    """Sections that were there, or blank, and were written again, in that order; its length numbers the changes."""
    stamps: dict[str, str] = field(default_factory=dict)
    """Fingerprint of each file as it was read."""

    def with_sections(self, sections: Iterable[int], *, stamps: Mapping[str, str]) -> "Changes":
        """Return the changes with some sections more."""
        return Changes([*self.made, *sorted(sections)], {**self.stamps, **stamps})

    def since(self, number: int) -> list[int]:
        """Return the sections that were written again after the first `number` changes."""
        return sorted(set(self.made[number:]))

    def to_json(self) -> dict[str, Any]:
        """Return the attribute."""
        return {"made": self.made, "stamps": self.stamps}


_CHANGES = TypeAdapter(Changes)


def read_changes(url: str) -> Changes:
    """Return the changes of a volume; none if it never grew."""
    record = (group_attributes(url) or {}).get(KEY)
    return Changes() if record is None else checked(record, _CHANGES, where=url, what=f"its attribute {KEY}")
