"""Names of the sections of a volume: the files they were imported from, or labels that their file has.

People know sections by these names, not by their numbers, so messages give both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

SECTIONS_KEY = "ssem_dask_sections"
"""Group attribute of an imported volume: {"names": [...]}, one name per section."""


def names_attribute(names: Sequence[str]) -> dict[str, Any]:
    """Return the group attributes that keep the names of sections; {} if there are none."""
    return {SECTIONS_KEY: {"names": list(names)}} if names else {}


def section_names(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of sections in group attributes, in order of z; () if there are none."""
    record = attributes.get(SECTIONS_KEY)
    names = record.get("names") if isinstance(record, Mapping) else None
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def section_label(z: int, names: Sequence[str] = ()) -> str:
    """Return how a section is named to the user: `section 7, S008.tif`, or `section 7` if it has no name."""
    return f"section {z}, {names[z]}" if 0 <= z < len(names) and names[z] else f"section {z}"


def section_list(sections: Sequence[int], names: Sequence[str] = (), *, limit: int = 10) -> str:
    """Return a list of sections for a message: `7 (S008.tif), 12 (S013.tif)`, with an ellipsis after `limit`."""
    shown = [f"{z} ({names[z]})" if 0 <= z < len(names) and names[z] else str(z) for z in sections[:limit]]
    return ", ".join([*shown, *(["…"] if len(sections) > limit else [])])
