"""Rules that find the fault of a section, each from a few measurements, the most important fault first.

A section is named if a measurement deviates both by several robust standard deviations and by an amount that matters. A
value at its threshold has certainty 0.5.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ssem_dask.diagnosis.usual_values import DEVIATIONS, SectionEvidence, UsualValues, affine_shapes
from ssem_dask.section_record import Kind

LIKE_SHARE = 0.45
"""Similarity to the most similar neighbour, relative to the usual one, below which a section matches nothing."""
UNPLACED_SHARE = 0.8
"""That limit for a section that registration ties to no other."""
_BLANK_TISSUE = 0.03
_NOISE_STRUCTURE = 0.35
_BLURRED_SHARE, _STEADY_BLURRED_SHARE = 0.6, 0.8
_FAINT_SHARE = 0.5
_STEADY_FACTOR = 2.0
_LEAST_EMPTY = 0.08
_LEAST_SPOTS, _LEAST_SPOT, _SPOTS_FACTOR = 0.012, 0.002, 1.4
_LEAST_BAND_LENGTH, _LEAST_DISPLACED_BAND = 0.5, 0.3
_MAX_BAND_WIDTH = 0.25
_LEAST_BAND_WIDTH = 0.015
_LEAST_ELONGATION, _LEAST_DISPLACED_ELONGATION = 3.0, 2.0
_TORN_SHARE, _TORN_FACTOR = 0.1, 2.0
_MOSTLY_EMPTY = 0.25
_STEP_SHARE = 1.7
_LEAST_STEP_PX = 4.0
_SEAM_FACTOR = 1.6
_LEAST_BETWEEN = 0.015  # share of a broken section that is darker, or brighter, than tissue
_SCALE = 0.04
_SHIFT_SHARE = 0.12
_ROTATION_DEG = 12.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that a rule has found."""

    kind: Kind
    certainty: float
    detail: str = ""
    evidence: tuple[tuple[str, float], ...] = ()


def find_faults(e: SectionEvidence, usual: UsualValues, *, z: int, is_placed: bool) -> Iterator[Fault | None]:
    """Yield what each rule says of a section, the most important first."""
    yield _blank(e, z)
    yield _noise(e, usual, z)
    yield _inverted(usual, z)
    if is_placed:  # too little of it is left to resemble anything
        yield _partly_empty(e, usual, z, least=_MOSTLY_EMPTY)
    if e.repeated[z]:  # its pairs are not registered, so it seems to match nothing
        yield Fault(Kind.DUPLICATE, 0.95, "the same image as an earlier section")
    yield _broken(e, z)
    yield _unmatched(usual, z, is_placed=is_placed)
    if e.misplaced[z]:
        yield Fault(Kind.OUT_OF_ORDER, 0.9, "out of order")
    yield from _orientation(e, usual, z)
    yield _band(e, usual, z)  # it stretches the whole section's affine, so it comes before scale and shift
    yield from _scale_and_shift(e, usual, z)
    yield _seam(e, usual, z)
    sharpness = float(e.sharpness[z])
    yield _low(usual, "sharpness", sharpness, z=z, share=_BLURRED_SHARE, kind=Kind.BLURRED)
    # Where all sections are equally sharp, less is noticeable; the contrast of tissue is never that steady.
    if usual.differs("sharpness", _logarithm(sharpness), z=z, factor=_STEADY_FACTOR):
        yield _low(usual, "sharpness", sharpness, z=z, share=_STEADY_BLURRED_SHARE, kind=Kind.BLURRED)
    yield _low(usual, "contrast", float(e.contrast[z]), z=z, share=_FAINT_SHARE, kind=Kind.FAINT)
    yield _partly_empty(e, usual, z, least=_LEAST_EMPTY)
    yield _torn(e, usual, z)
    yield _dirt(e, usual, z)


def _blank(e: SectionEvidence, z: int) -> Fault | None:
    if not e.tissue[z] < _BLANK_TISSUE:
        return None
    certainty = _certainty(_BLANK_TISSUE / max(float(e.tissue[z]), 1e-3))
    return Fault(Kind.BLANK, certainty, evidence=(("tissue", float(e.tissue[z])),))


def _noise(e: SectionEvidence, usual: UsualValues, z: int) -> Fault | None:
    structure = float(e.structure[z])
    if not structure < _NOISE_STRUCTURE or not usual.differs("structure", structure, z=z):
        return None
    certainty = _certainty(_NOISE_STRUCTURE / max(structure, 0.01))
    return Fault(Kind.NOISE, certainty, evidence=(("structure", structure),))


def _inverted(usual: UsualValues, z: int) -> Fault | None:
    best, worst = usual.likeness[z], usual.negative[z]
    if not worst < -LIKE_SHARE or not best < LIKE_SHARE:
        return None
    return Fault(Kind.INVERTED, _certainty(-worst / LIKE_SHARE), evidence=(("likeness", float(worst)),))


def _broken(e: SectionEvidence, z: int) -> Fault | None:
    """Name a section whose parts were found and placed one by one: by what is seen between them."""
    apart = float(e.part_step[z])
    if not math.isfinite(apart):
        return None
    dark, bright = (float(np.nan_to_num(share[z])) for share in (e.dark, e.bright))
    kind = Kind.SEAM if max(dark, bright) < _LEAST_BETWEEN else Kind.FOLD if dark > bright else Kind.CRACK
    text = f"parts {apart:.0f} px apart"
    return Fault(kind, 0.95, text, (("part_step_px", apart), ("dark", dark), ("bright", bright)))


def _unmatched(usual: UsualValues, z: int, *, is_placed: bool) -> Fault | None:
    best = float(usual.likeness[z])
    evidence = (("likeness", best),)
    if best < LIKE_SHARE:
        certainty = _certainty((LIKE_SHARE / max(best, 0.05)) ** (1.0 if is_placed else 2.0))
        return Fault(Kind.FOREIGN, certainty, evidence=evidence)
    if is_placed:
        return None
    # Registration found no place either: only a similarity near the usual one speaks for a section of this stack.
    if best < UNPLACED_SHARE:
        return Fault(Kind.FOREIGN, _certainty(UNPLACED_SHARE / best), evidence=evidence)
    return Fault(Kind.UNPLACED, 0.9, evidence=evidence)


def _deviation(e: SectionEvidence, usual: UsualValues, name: str, *, z: int) -> float:
    """Return by how much a value of the coarse affine differs from the usual one; 0 within the usual scatter."""
    value = float(affine_shapes(e)[name][z])
    return value - float(usual.levels[name].middle[z]) if usual.differs(name, value, z=z) else 0.0


def _orientation(e: SectionEvidence, usual: UsualValues, z: int) -> Iterator[Fault | None]:
    if float(np.linalg.det(e.affines[z, :, :2])) < 0:
        yield Fault(Kind.MIRRORED, 0.98)
    rotation = (_deviation(e, usual, "rotation", z=z) + 180.0) % 360.0 - 180.0
    if abs(rotation) > _ROTATION_DEG:
        text = f"turned by {abs(rotation):.0f}°"
        yield Fault(Kind.TURNED, _certainty(abs(rotation) / _ROTATION_DEG), text, (("rotation_deg", rotation),))


def _scale_and_shift(e: SectionEvidence, usual: UsualValues, z: int) -> Iterator[Fault | None]:
    scale = _deviation(e, usual, "scale", z=z)
    if abs(scale) > _SCALE:
        # The map is aligned → source: a factor above 1 means that the source shows the tissue larger.
        text = f"{abs(scale):.0%} {'larger' if scale > 0 else 'smaller'}"
        yield Fault(Kind.SCALED, _certainty(abs(scale) / _SCALE), text, (("scale", scale),))
    for name, side in (("shift_y", e.shape_yx[0]), ("shift_x", e.shape_yx[1])):
        shift = _deviation(e, usual, name, z=z)
        if abs(shift) > _SHIFT_SHARE * side:
            certainty = _certainty(abs(shift) / side / _SHIFT_SHARE)
            yield Fault(Kind.SHIFTED, certainty, f"shifted by {abs(shift):.0f} px", ((f"{name}_px", shift),))


def _band(e: SectionEvidence, usual: UsualValues, z: int) -> Fault | None:
    length, width, tone = float(e.length[z]), float(e.width[z]), float(e.tone[z])
    # A shorter or less regular band counts if its sides were displaced against each other.
    displaced = _is_step(e, usual, z) or _torn(e, usual, z) is not None
    least = _LEAST_DISPLACED_BAND if displaced else _LEAST_BAND_LENGTH
    elongation = _LEAST_DISPLACED_ELONGATION if displaced else _LEAST_ELONGATION
    if not (length > least and _LEAST_BAND_WIDTH < width < _MAX_BAND_WIDTH and length > elongation * width):
        return None
    strength = min(length / least, width / _LEAST_BAND_WIDTH, length / width / elongation)
    evidence = ("band_length", length), ("band_width", width), ("band_tone", tone), ("step_px", float(e.step[z]))
    return Fault(Kind.CRACK if tone > 0 else Kind.FOLD, _certainty(strength**2), evidence=evidence)


def _step_limit(usual: UsualValues, z: int) -> float:
    level = usual.levels["step"]
    return max(_STEP_SHARE * float(level.middle[z]), float(level.middle[z]) + DEVIATIONS * level.spread, _LEAST_STEP_PX)


def _is_step(e: SectionEvidence, usual: UsualValues, z: int) -> bool:
    """Return whether a section has a step of its own; those at the ends have neighbours on one side only."""
    # A large step of one section leaves smaller ones in its neighbours.
    near = e.step[max(0, z - 1) : z + 2]
    return 0 < z < e.count - 1 and bool(e.step[z] > _step_limit(usual, z) and e.step[z] >= np.nanmax(near))


def _seam(e: SectionEvidence, usual: UsualValues, z: int) -> Fault | None:
    # Strong elastic distortion makes steps as well, so without a band a step must be far larger than usual.
    step, limit = float(e.step[z]), _SEAM_FACTOR * _step_limit(usual, z)
    if not step > limit or not _is_step(e, usual, z):
        return None
    return Fault(Kind.SEAM, _certainty(step / limit), evidence=(("step_px", step),))


def _low(usual: UsualValues, name: str, value: float, *, z: int, share: float, kind: Kind) -> Fault | None:
    middle = float(usual.levels[name].middle[z])
    logarithm = _logarithm(value)
    if not logarithm < middle + math.log(share) or not usual.differs(name, logarithm, z=z):
        return None
    return Fault(kind, _certainty(share * math.exp(middle - logarithm)), evidence=((name, value),))


def _logarithm(value: float) -> float:
    return math.log(max(value, 1e-6)) if math.isfinite(value) else math.nan


def _partly_empty(e: SectionEvidence, usual: UsualValues, z: int, *, least: float) -> Fault | None:
    empty = float(e.empty[z])
    if not empty > least or not usual.differs("empty", empty, z=z):
        return None
    return Fault(Kind.PARTLY_EMPTY, _certainty(empty / _LEAST_EMPTY), f"{empty:.0%} of it empty", (("empty", empty),))


def _torn(e: SectionEvidence, usual: UsualValues, z: int) -> Fault | None:
    share, limit = float(e.unlike[z]), _TORN_SHARE + _TORN_FACTOR * float(usual.upper["unlike"][z])
    if not share > limit:
        return None
    text = f"{share:.0%} of it unlike its neighbours"
    return Fault(Kind.TORN, _certainty(share / limit), text, (("unlike", share),))


def _dirt(e: SectionEvidence, usual: UsualValues, z: int) -> Fault | None:
    # Sound sections have many small spots or a single larger one, hardly both.
    spots = float(np.nansum([e.dark[z], e.bright[z], e.empty[z]]))
    largest = float(e.length[z] * e.width[z])
    limit = _LEAST_SPOTS + _SPOTS_FACTOR * float(usual.upper["spots"][z])
    largest_limit = _LEAST_SPOT + _SPOTS_FACTOR * float(usual.upper["largest"][z])
    if not spots > limit or not largest > largest_limit:
        return None
    certainty = _certainty(math.sqrt(spots / limit * largest / largest_limit))
    return Fault(Kind.DIRT, certainty, evidence=(("spots", spots), ("largest_spot", largest)))


def _certainty(strength: float) -> float:
    """Return a certainty of 0.5 for a value at its threshold, and near 1 for one several times as strong."""
    return 1.0 - 0.5 / max(strength, 0.5) if math.isfinite(strength) else 1.0
