"""Names of sections that a run gives, against the sections that were spoilt."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.spoilt.aligners import NAMED

RIGHT_NAMES: Mapping[str, str] = {
    "fold_large": "fold",
    "fold_mild": "fold",
    "half_missing": "partly_empty",
    "black": "blank",
    "turn180": "turned",
    "turn90": "turned",
    "turn40": "turned",
    "scale8": "scaled",
    "shift30": "shifted",
    "swapped": "out_of_order",
}
"""Name of each kind that has another name in the product."""


def names_of(notes: Sequence[str]) -> dict[str, str] | None:
    """Return the names in the notes of a method, z → kind; None if it gives none."""
    found = [note.removeprefix(NAMED) for note in notes if note.startswith(NAMED)]
    names: dict[str, str] | None = json.loads(found[-1]) if found else None
    return names


def naming_figures(records: Sequence[Mapping[str, Any]]) -> str:
    """Return precision, recall and right kinds over all cases whose method names sections, and what is missed."""
    right = wrong = missed = kinds = stacks = false = 0
    misses: dict[str, int] = {}
    for record in records:
        if record["state"] != "done" or record.get("named") is None:
            continue
        named, spoilt = record["named"], record["spoilt"]
        if not spoilt:
            stacks, false = stacks + 1, false + len(named)
        right += len(named.keys() & spoilt.keys())
        wrong += len(named.keys() - spoilt.keys())
        for z, kind in spoilt.items():
            is_right = named.get(z) == RIGHT_NAMES.get(kind, kind)
            kinds += is_right
            missed += z not in named
            if not is_right:
                label = f"{kind} as {named.get(z, 'ok')}"
                misses[label] = misses.get(label, 0) + 1
    if not right + wrong + missed + stacks:
        return "named: no method here names sections"
    parts = [
        f"precision {right / max(1, right + wrong):.1%}",
        f"recall {right / max(1, right + missed):.1%}",
        f"kind right {kinds / max(1, right + missed):.1%}",
        f"{false} false names in {stacks} undamaged stacks",
    ]
    listed = ", ".join(f"{count} × {label}" for label, count in sorted(misses.items()))
    return f"named: {', '.join(parts)}" + (f"; not right: {listed}" if listed else "")
