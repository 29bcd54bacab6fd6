"""Records of sections that a person should look at, as a run and its aligned volume keep them."""

from typing import Any

from ssem_dask.section_record import Attention
from ssem_dask.storage.quality import read_record

KEY = "ssem_dask_attention"
"""Group attribute of the aligned volume: the records, and which sections have no place."""
_FILE = "attention.json"


def read_attention(run: str) -> Attention | None:
    """Return the records of a run; None if it has none yet, or none that can be read."""
    record = read_record(run, _FILE)
    if record is None:
        return None
    try:
        attention = Attention.from_json(record)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None
    named = [record.z for record in attention.records] + list(attention.unplaced)
    named += [z for piece in attention.pieces for z in piece]
    is_sound = all(0 <= z < attention.sections for z in named) and all(attention.pieces)
    return attention if is_sound else None


def image_attention(attention: Attention, *, unplaced: str) -> dict[str, Any]:
    """Return the attributes of the aligned volume.

    Args:
        attention: records of the run.
        unplaced: `[render] unplaced`: what the volume shows of sections without a place.
    """
    record = attention.to_json()
    return {
        KEY: {
            "attention": record["attention"],
            "unplaced": record["unplaced"],
            "unplaced_shown": unplaced,
            "pieces": record["pieces"],
        }
    }
