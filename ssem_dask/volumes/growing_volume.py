"""A volume that grows by image files that arrive in a folder, late, out of order, or again.

The number in its name says which section a file is: names of the volume's sections say which number the first one has,
and how far apart two are. A section that has not come is blank until it does. A file that has changed since it was read
replaces its section.

Laws: the sections of a volume are there before their names and stamps are recorded, so whatever is killed, a file that
is not recorded is read again. Changes of sections that a run may have read are numbered, so that each run finds out
which it has not seen (`changes_since`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssem_dask.errors import SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.stages.pyramid_writer import SlabWriter
from ssem_dask.storage import arrays, location
from ssem_dask.storage.formats.image_file import read_section
from ssem_dask.storage.formats.series import files_of
from ssem_dask.storage.formats.source import ReadOptions
from ssem_dask.storage.grown_array import lengthen
from ssem_dask.storage.section_changes import KEY, Changes, read_changes
from ssem_dask.storage.section_names import SECTIONS_KEY
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Numbering:
    """Which section a file is, by the number in its name."""

    place: int
    """Which of the numbers in a name it is."""
    first: int
    """Number of section 0."""
    step: int
    """Difference of the numbers of neighbours."""

    @classmethod
    def of(cls, names: Sequence[str], *, where: str) -> "Numbering":
        """Return the numbering of the sections of a volume; empty names are sections that have not come.

        Raises:
            SourceError: names do not number the sections evenly.
        """
        numbers = {z: [int(n) for n in _NUMBER.findall(name)] for z, name in enumerate(names) if name}
        for place in range(max((len(found) for found in numbers.values()), default=0)):
            at = {z: found[place] for z, found in numbers.items() if place < len(found)}
            if len(at) < len(numbers) or len(at) < 2:
                continue
            (z0, n0), *_, (z1, n1) = sorted(at.items())
            step, rest = divmod(n1 - n0, z1 - z0)
            if rest == 0 and step > 0 and all(n == n0 + step * (z - z0) for z, n in at.items()):
                return cls(place, n0 - step * z0, step)
        raise SourceError(
            f"{where}: the names of its sections do not number them evenly, so nothing says which section a new file "
            "is; append a volume instead."
        )

    def section(self, name: str) -> int | None:
        """Return the section that a file is; None if it is none."""
        numbers = [int(n) for n in _NUMBER.findall(name)]
        if self.place >= len(numbers):
            return None
        z, rest = divmod(numbers[self.place] - self.first, self.step)
        return z if rest == 0 and z >= 0 else None


@dataclass(slots=True)
class Arrivals:
    """Files of a folder that are whole and new, as far as two looks at it show."""

    volume: str
    """URL of the volume."""
    folder: str
    _seen: dict[str, str] = field(default_factory=dict)
    """Stamps of the last look, by name."""

    def whole(self) -> tuple[dict[int, AnyArray], dict[int, tuple[str, str]], list[str]]:
        """Look at the folder.

        Returns:
            Values (y, x) of the sections that are new and whole; their names and stamps; sentences on files that are
            not whole yet, or none of the volume's.
        """
        volume = Volume.open(self.volume)
        changes, numbering = read_changes(self.volume), Numbering.of(volume.section_names, where=self.volume)
        stamps = _stamps(self.folder)
        before, self._seen = self._seen, stamps
        values: dict[int, AnyArray] = {}
        found: dict[int, tuple[str, str]] = {}
        waiting: list[str] = []
        known = {name: z for z, name in enumerate(volume.section_names) if name}
        for name, stamp in sorted(stamps.items()):
            if name in known and name not in changes.stamps:
                changes.stamps[name] = stamp  # it was imported before anybody watched
            z = numbering.section(name)
            if z is None or changes.stamps.get(name) == stamp:
                continue
            if before.get(name) != stamp:
                waiting.append(f"{name}: is being written")
                continue
            try:
                (image,) = read_section(location.join(self.folder, name), ReadOptions())
            except SourceError as error:
                waiting.append(f"{name}: is not whole yet ({error})")
                continue
            if image.shape != volume.info.shape[1:] or image.dtype != volume.info.dtype:
                waiting.append(
                    f"{name}: is {image.shape} {image.dtype}, but sections are {volume.info.shape[1:]} "
                    f"{volume.info.dtype}"
                )
                continue
            values[z], found[z] = image, (name, stamp)
        return values, found, waiting


def add_sections(url: str, values: Mapping[int, AnyArray], found: Mapping[int, tuple[str, str]]) -> list[int]:
    """Write sections into a volume, which becomes longer if need be; the caller holds its lease.

    Args:
        url: of the volume.
        values: (y, x) by section.
        found: name and stamp of the file by section.

    Returns:
        The sections before the end that have not come.
    """
    volume = Volume.open(url)
    count = max(volume.info.shape[0], max(values) + 1)
    changed = [z for z in values if z < volume.info.shape[0]]
    if count > volume.info.shape[0]:
        for level in volume.level_urls:
            lengthen(level, sections=count)
        volume = Volume.open(url)
    depth = volume.write_unit(0)[0]
    for start in sorted({z // depth * depth for z in values}):
        span = range(start, min(start + depth, count))
        rows = volume.read(Box((span.start, 0, 0), (span.stop, *volume.info.shape[1:])))
        for z in values.keys() & set(span):
            rows[z - span.start] = values[z]
        SlabWriter(volume, sections=span, labels=False).write(rows)
    names = [*volume.section_names, *[""] * count][:count]
    for z, (name, _) in found.items():
        names[z] = name
    changes = read_changes(url).with_sections(changed, stamps=dict(found.values()))
    attributes: dict[str, Any] = {SECTIONS_KEY: {"names": names}, KEY: changes.to_json()}
    arrays.create_group(url, attributes=attributes)
    return [z for z, name in enumerate(names) if not name]


def record_baseline(url: str, folder: str) -> None:
    """Record the stamps of the files that a volume was imported from, if none are recorded."""
    changes = read_changes(url)
    if not changes.stamps:
        known = set(Volume.open(url).section_names)
        stamps = {name: stamp for name, stamp in _stamps(folder).items() if name in known}
        arrays.create_group(url, attributes={KEY: Changes(changes.made, stamps).to_json()})


def absent_sections(names: Iterable[str]) -> list[int]:
    """Return the sections that have not come, by the names of all."""
    return [z for z, name in enumerate(names) if not name]


def _stamps(folder: str) -> dict[str, str]:
    """Return a fingerprint of each image file of a folder, by its name; nothing if the folder is empty."""
    try:
        names = {file.rstrip("/").replace("\\", "/").rpartition("/")[2] for file in files_of(folder)}
    except SourceError:
        return {}
    return {name: stamp for name, stamp in location.file_fingerprints(folder).items() if name in names}
