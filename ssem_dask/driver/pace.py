"""Pace of a run that grows: how fast sections come, and how fast they are aligned."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

from ssem_dask.units import duration, plural

KEPT = 50
"""Batches that a run remembers."""
Batch = tuple[str, int, float]
"""When it ended (UTC, ISO 8601), the sections that the run had then, and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Pace over the batches that a run remembers."""

    sections: int
    """Sections that came between the first and the last of them."""
    hours: float
    """Time between the two."""
    seconds: float
    """Median time of a batch."""
    latest: str
    """When the last one ended."""
    batches: int
    """Batches after the first."""

    @property
    def per_hour(self) -> float:
        """Sections that came per hour."""
        return self.sections / self.hours if self.hours > 0 else 0.0

    @property
    def keeps_up(self) -> bool:
        """Whether aligning took less time than passed."""
        return self.seconds * self.batches <= self.hours * 3600

    def sentence(self) -> str:
        """Return the pace in one line."""
        verdict = "keeps up" if self.keeps_up else "does not keep up"
        return (
            f"{plural(self.sections, 'section')} came in {duration(self.hours * 3600)}, {self.per_hour:.3g} per hour; "
            f"a batch takes {duration(self.seconds)}, so aligning {verdict} with the microscope. "
            f"The last batch ended {self.latest}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the pace as JSON values."""
        return {
            "sections": self.sections,
            "hours": round(self.hours, 4),
            "per_hour": round(self.per_hour, 3),
            "batch_seconds": round(self.seconds, 1),
            "keeps_up": self.keeps_up,
            "latest": self.latest,
        }


def with_batch(batches: Sequence[Batch], *, sections: int, seconds: float) -> list[Batch]:
    """Return the batches that a run remembers after one more."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [*batches, (now, sections, round(seconds, 1))][-KEPT:]


def pace_of(batches: Sequence[Batch]) -> Pace | None:
    """Return the pace over some batches; None if there are fewer than two."""
    if len(batches) < 2:
        return None
    (begin, before, _), (end, after, _) = batches[0], batches[-1]
    hours = (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds() / 3600
    return Pace(after - before, hours, float(median(seconds for _, _, seconds in batches[1:])), end, len(batches) - 1)
