"""The journal of an import: one small file per slab of sections that is written, so that an import resumes.

A record is written after all shards of its slab, at all levels, and has their names. So a slab with a record need not
be read again, and after the last slab all shards that must exist can be counted. A shard of zeros has no file.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter

from ssem_dask.storage import location
from ssem_dask.storage.untrusted import read_hint


@dataclass(slots=True)
class Slab:
    """Record of a slab that was written."""

    digest: str
    """Digest of the import."""
    lowest: float
    """Lowest value at mip 0, of the channel to align by if there is one."""
    highest: float
    files: list[str] = field(default_factory=list)
    """Paths in the volume of the shards that hold more than zeros."""


_SLAB: TypeAdapter[Slab] = TypeAdapter(Slab)


class Journal:
    """The records of one import."""

    def __init__(self, url: str, *, digest: str) -> None:
        """Open the journal in a folder; an empty `digest` is that of an import that cannot be recognised again."""
        self._url = url
        self._digest = digest

    def read(self, z: int) -> Slab | None:
        """Return the record of the slab that begins at a section; None if this import has none."""
        slab = read_hint(self._slab_url(z), _SLAB)
        return slab if slab is not None and slab.digest == self._digest != "" else None

    def write(self, z: int, slab: Slab) -> None:
        """Write the record of a slab."""
        location.write_json(self._slab_url(z), asdict(slab))

    def forget(self, slabs: Iterable[int]) -> None:
        """Delete the records of slabs, so that they are written again."""
        for z in slabs:
            location.delete(self._slab_url(z), recursive=False)

    def delete(self) -> None:
        """Delete all records."""
        location.delete(self._url, recursive=True)

    def _slab_url(self, z: int) -> str:
        return location.join(self._url, f"z{z:06d}.json")
