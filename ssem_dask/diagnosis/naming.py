"""Names for the faults of sections, from measurements of all sections of a volume.

Every measurement is compared with those of the same volume (`usual_values`), so that no threshold depends on the
tissue. A section has one name, that of the first rule that applies (`fault_rules`): what makes a section unlike all
others also makes it look dirty, dark or torn.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ssem_dask.diagnosis.fault_rules import Fault, find_faults
from ssem_dask.diagnosis.tied_sections import connected_pieces, tied_pairs, tied_sections
from ssem_dask.diagnosis.usual_values import SectionEvidence, UsualValues
from ssem_dask.section_record import Action, Attention, Kind, SectionRecord

_GROSS = {Kind.TURNED, Kind.MIRRORED, Kind.SCALED, Kind.SHIFTED, Kind.INVERTED}


def name_sections(evidence: SectionEvidence, *, names: Sequence[str] = ()) -> Attention:
    """Return the sections that a person should look at.

    Args:
        evidence: measurements of all sections.
        names: name of the file of each section; () if sections have none.
    """
    links = tied_pairs(evidence.support)
    placed = tied_sections(links)
    usual = UsualValues.of(evidence, placed=placed)
    records = []
    for z in range(evidence.count):
        fault = next((fault for fault in find_faults(evidence, usual, z=z, is_placed=bool(placed[z])) if fault), None)
        if fault is not None:
            record = _record(evidence, usual, fault, z=z, is_placed=bool(placed[z]))
            records.append(replace(record, name=names[z]) if z < len(names) else record)
    return Attention(
        sections=evidence.count,
        records=tuple(records),
        pieces=connected_pieces(links, placed=placed),
        unplaced=tuple(int(z) for z in np.flatnonzero(~placed)),
    )


def _record(e: SectionEvidence, usual: UsualValues, fault: Fault, *, z: int, is_placed: bool) -> SectionRecord:
    if not is_placed:
        action = Action.LEFT_OUT
    elif fault.kind in _GROSS or math.isfinite(e.part_step[z]):
        action = Action.PUT_RIGHT
    else:
        action = Action.NOTHING
    return SectionRecord(
        z=z,
        kind=fault.kind,
        certainty=round(fault.certainty, 3),
        action=action,
        effect_px=_effect(usual, e, z=z),
        detail=fault.detail,
        evidence={name: round(value, 4) for name, value in fault.evidence if math.isfinite(value)},
    )


def _effect(usual: UsualValues, e: SectionEvidence, *, z: int) -> float | None:
    """Return how much more uncertain the neighbours of a section are than usual, px."""
    level = usual.levels["uncertainty"]
    # The first and the last section are more uncertain than the others in any case.
    near = [n for n in (z - 1, z + 1) if 0 < n < e.count - 1 and math.isfinite(e.uncertainty[n])]
    excess = [float(e.uncertainty[n] - level.middle[n]) for n in near]
    known = [value for value in excess if math.isfinite(value)]
    return round(max(0.0, *known), 3) if known else None
