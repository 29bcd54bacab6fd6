"""Origins of a derived volume: fingerprints, per range of sections, of the arrays that its tasks read.

The digest of a task includes the fingerprints of the sections that it reads. So a warp or an export that is repeated
after its source or its alignment has changed does exactly the work again that reads something else now.

Law: a derived volume is complete only if its origins were complete when it was planned, and have the same fingerprints
after its last task as before its first.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssem_dask.errors import SourceError
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.storage import arrays, location, run_group
from ssem_dask.storage.json_digest import digest_of
from ssem_dask.storage.volume_checks import WARP_KEY
from ssem_dask.units import shortened

Fingerprints = Mapping[tuple[int, int, int], str]
"""Fingerprints of sections by (mip, start, stop)."""
_SPANS_SHOWN = 10
_GROUPS_AROUND = 3
"""Groups that are asked for their state: an array, its image, and the run of that image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A volume or an array that a derived volume is made of."""

    name: str
    """URL, for messages."""
    read: Callable[[], Fingerprints]
    """Returns the present fingerprints."""


@dataclass(slots=True)
class Origins:
    """Everything that a derived volume is made of, as it was when the work was planned."""

    options: Mapping[str, Any]
    """Everything else that determines the pixels; plain JSON values."""
    origins: tuple[Origin, ...]
    _planned: list["_Sorted"] = field(init=False)
    _digests: dict[tuple[int, ...], str] = field(init=False, default_factory=dict)
    """By mip, first section, section after the last one, and further sections."""

    def __post_init__(self) -> None:
        """Read the fingerprints."""
        self._planned = [_Sorted(origin.read()) for origin in self.origins]

    def digest(self, sections: range, *, mip: int, others: Iterable[int] = ()) -> str:
        """Return the digest of a task that reads some sections of all origins at a mip, and others besides."""
        key = mip, sections.start, sections.stop, *others
        if key not in self._digests:
            spans = sections, *(range(z, z + 1) for z in key[3:])
            read = [
                [part for span in spans for part in planned.overlapping(span, mip=mip)] for planned in self._planned
            ]
            self._digests[key] = digest_of({**self.options, "read": read, "sections": key})[:16]
        return self._digests[key]

    @property
    def content(self) -> str:
        """Digest of all options and all fingerprints."""
        return digest_of({**self.options, "read": [planned.items for planned in self._planned]})

    def missing(self) -> list[str]:
        """Return a sentence per origin that is not complete."""
        return [
            f"{origin.name}: is not complete, so what was made of it is not either; complete it, then run this command "
            "again."
            for origin in self.origins
            if not is_complete(origin.name)
        ]

    def changes(self) -> tuple[list[str], set[str]]:
        """Compare the origins with what they were when the work was planned.

        Returns:
            A sentence per origin that has changed, and the digests of the tasks that read what has changed.
        """
        sentences, digests = [], set()
        for origin, planned in zip(self.origins, self._planned, strict=True):
            differing = planned.differing(origin.read())
            if not differing:
                continue
            spans = sorted({(start, stop) for _, start, stop in differing})
            shown = shortened([f"{start}:{stop}" for start, stop in spans], limit=_SPANS_SHOWN)
            sentences.append(
                f"{origin.name}: sections {shown} were written while this command read them; run it again, which does "
                "the work on them again."
            )
            digests |= {digest for task, digest in self._digests.items() if _reads_any(task, differing)}
        return sentences, digests


def is_complete(url: str) -> bool:
    """Return whether the run or the warp that writes a volume, an image or an array is complete; True if none does."""
    group: str | None = url
    below = ""
    for _ in range(_GROUPS_AROUND):
        if group is None:
            break
        with contextlib.suppress(SourceError):  # groups around a volume need not be readable
            attributes = arrays.group_attributes(group) or {}
            for key in (run_group.KEY, WARP_KEY):
                record = attributes.get(key)
                # Whatever else somebody has put into the group of a run is not written by it.
                if isinstance(record, dict) and (key == WARP_KEY or below in ("", ALIGNED)):
                    return record.get("state") == "complete"
        below = group.rstrip("/").rpartition("/")[2]
        group = location.parent(group)
    return True


def field_fingerprints(run: str) -> Fingerprints:
    """Return the fingerprints of the fields of a run."""
    url = SECTION.at(run)
    with location.reading(url):
        stored = arrays.fingerprints_along(url, arrays.open_array(url, mode="r"))
    return {(0, *span): fingerprint for span, fingerprint in stored.items()}


class _Sorted:
    """Fingerprints in order, to find those of some sections quickly."""

    def __init__(self, fingerprints: Fingerprints) -> None:
        self._planned = dict(fingerprints)
        self.items = [[*key, value] for key, value in sorted(fingerprints.items())]
        self._by_mip: dict[int, list[tuple[int, int, str]]] = {}
        for (mip, start, stop), value in sorted(fingerprints.items()):
            self._by_mip.setdefault(mip, []).append((start, stop, value))

    def overlapping(self, sections: range, *, mip: int) -> list[tuple[int, int, str]]:
        """Return start, stop and fingerprint of what overlaps some sections; files of one mip never overlap."""
        stored = self._by_mip.get(mip, [])
        first = bisect_right(stored, sections.start, key=lambda item: item[1])
        found = []
        for item in stored[first:]:
            if item[0] >= sections.stop:
                break
            found.append(item)
        return found

    def differing(self, current: Fingerprints) -> set[tuple[int, int, int]]:
        """Return the (mip, start, stop) that have another fingerprint now, or are new or gone."""
        return {key for key in {*self._planned, *current} if self._planned.get(key) != current.get(key)}


def _reads_any(task: tuple[int, ...], differing: Iterable[tuple[int, int, int]]) -> bool:
    mip, start, stop, *others = task
    spans = (start, stop), *((z, z + 1) for z in others)
    return any(mip == at and a < end and begin < b for at, begin, end in differing for a, b in spans)
