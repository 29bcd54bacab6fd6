"""Ways to spoil a section, each with the geometry that spoilt it.

A kind takes the observed section and returns a spoilt image together with its *source*: for every pixel of the spoilt
image the position in the observed section that it shows, NaN where it shows none of it (a fold, dirt, resin).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from ssem_dask.types import AnyArray, Float32Array, ShapeYX

DARK, BRIGHT = 12.0, 245.0
"""Grey values of a fold or dirt, and of resin in a crack."""
_TEXTURE = 3.0
"""Standard deviation of grey values there: no detector is without noise."""


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A spoilt section."""

    image: AnyArray
    """(y, x) uint8."""
    source: Float32Array
    """(2, y, x): position in the observed section, px; NaN where no tissue of it is shown."""


Spoil = Callable[[AnyArray, np.random.Generator], Spoilt]
"""Observed section and random numbers → spoilt section."""


@dataclass(frozen=True, slots=True)
class SpoiltStack:
    """A stack with spoilt sections."""

    images: AnyArray
    """(z, y, x) uint8."""
    sources: Mapping[int, Float32Array]
    """Source of the sections that still show tissue of their own place."""
    spoilt: Mapping[int, str]
    """Kind of each spoilt section."""


COMES_BACK = (
    "fold_large", "fold_mild", "crack", "seam", "half_missing", "dirt", "inverted", "blurred", "faint", "turn180",
    "turn90", "turn40", "mirrored", "scale8", "shift30",
)  # fmt: skip
"""Kinds of one section that shows its own tissue."""
LOST = ("foreign", "black", "noise", "duplicate", "swapped")
"""Kinds that show no tissue of their own place."""
KINDS = (*COMES_BACK, *LOST, "three_bad")
_THREE = ((0, "fold_large"), (5, "foreign"), (8, "turn180"))
"""Sections of `three_bad`, counted from the first, and their kinds."""


def spoil_stack(images: AnyArray, kind: str, *, at: int, seed: int, foreign: AnyArray) -> SpoiltStack:
    """Spoil section `at`; `swapped` exchanges it with the next, `three_bad` spoils three.

    Args:
        images: observed sections (z, y, x) uint8.
        kind: one of `KINDS`.
        at: section.
        seed: seed of place and direction of the damage.
        foreign: (y, x), an image of another place.
    """
    if kind == "swapped":
        images = images.copy()
        images[[at, at + 1]] = images[[at + 1, at]]
        return SpoiltStack(images, {}, {at: kind, at + 1: kind})
    wanted = {at + step: name for step, name in _THREE} if kind == "three_bad" else {at: kind}
    return spoil_sections(images, wanted, seed=seed, foreign=foreign)


def spoil_sections(images: AnyArray, wanted: Mapping[int, str], *, seed: int, foreign: AnyArray) -> SpoiltStack:
    """Spoil several sections, each in one way, `swapped` excluded; arguments as for `spoil_stack`."""
    out, sources = images.copy(), {}
    for z, kind in wanted.items():
        rng = np.random.default_rng([seed, KINDS.index(kind), z])
        if kind == "duplicate":
            out[z] = images[z - 1]
        elif kind == "foreign":
            out[z] = np.rot90(foreign)
        else:
            made = SPOIL[kind](images[z], rng)
            out[z] = made.image
            if np.isfinite(made.source).any():
                sources[z] = made.source
    return SpoiltStack(out, sources, dict(wanted))


def _positions(shape: ShapeYX) -> Float32Array:
    """Centres of the pixels (2, y, x)."""
    return (np.mgrid[: shape[0], : shape[1]] + 0.5).astype(np.float32)


def _pull(image: AnyArray, source: Float32Array) -> AnyArray:
    """Sample an image at positions; 0 outside it."""
    known = np.isfinite(source).all(axis=0)
    index = np.where(known, source - 0.5, -9.0)
    out = map_coordinates(image.astype(np.float32), index, order=3, mode="constant", cval=0.0)
    inside = known & (index >= 0).all(axis=0) & (index[0] <= image.shape[0] - 1) & (index[1] <= image.shape[1] - 1)
    return np.where(inside, out.round().clip(0, 255), 0).astype(np.uint8)


def _within(source: Float32Array, shape: ShapeYX) -> Float32Array:
    """NaN where a source is outside the section."""
    inside = (source >= 0).all(axis=0) & (source[0] <= shape[0]) & (source[1] <= shape[1])
    return np.where(inside, source, np.nan).astype(np.float32)


def _moved(image: AnyArray, source: Float32Array) -> Spoilt:
    shape = (image.shape[0], image.shape[1])
    source = _within(source, shape)
    return Spoilt(_pull(image, source), source)


def _fill(spoilt: Spoilt, where: AnyArray, grey: float, rng: np.random.Generator) -> Spoilt:
    """Cover some pixels."""
    cover = (grey + _TEXTURE * rng.standard_normal(where.shape)).round().clip(1, 254)
    image = np.where(where, cover, spoilt.image).astype(np.uint8)
    return Spoilt(image, np.where(where, np.nan, spoilt.source).astype(np.float32))


def _line(shape: ShapeYX, rng: np.random.Generator) -> tuple[Float32Array, Float32Array]:
    """Signed distance (y, x) from a line through the middle part, within 20° of the y axis, and its normal (2,)."""
    angle = math.radians(rng.uniform(-20, 20))
    normal = np.array([math.sin(angle), math.cos(angle)], dtype=np.float32)
    middle = np.array([shape[0] / 2, shape[1] * rng.uniform(0.38, 0.62)], dtype=np.float32)
    distance = np.einsum("cyx,c->yx", _positions(shape) - middle[:, None, None], normal)
    return distance, normal


def _fold(band: float, move: tuple[float, float]) -> Spoil:
    def spoil(image: AnyArray, rng: np.random.Generator) -> Spoilt:
        shape = (image.shape[0], image.shape[1])
        distance, _ = _line(shape, rng)
        sign = rng.choice([-1.0, 1.0])
        source = _positions(shape)
        source += np.array([sign * move[0], move[1]], dtype=np.float32)[:, None, None] * (distance > 0)
        return _fill(_moved(image, source), np.abs(distance) < band / 2, DARK, rng)

    return spoil


def _crack(image: AnyArray, rng: np.random.Generator) -> Spoilt:
    shape = (image.shape[0], image.shape[1])
    distance, normal = _line(shape, rng)
    source = _positions(shape) - normal[:, None, None] * 20.0 * np.sign(distance)
    return _fill(_moved(image, source), np.abs(distance) < 20.0, BRIGHT, rng)


def _seam(image: AnyArray, rng: np.random.Generator) -> Spoilt:
    shape = (image.shape[0], image.shape[1])
    distance, _ = _line(shape, rng)
    shift = np.array([7.0, 12.0], dtype=np.float32) * rng.choice([-1.0, 1.0], size=2)
    return _moved(image, (_positions(shape) + shift[:, None, None] * (distance > 0)).astype(np.float32))


def _half_missing(image: AnyArray, rng: np.random.Generator) -> Spoilt:
    shape = (image.shape[0], image.shape[1])
    half = _positions(shape)[rng.integers(2)] < shape[0] / 2
    gone = half if rng.integers(2) else ~half
    return Spoilt(np.where(gone, 0, image), np.where(gone, np.nan, _positions(shape)).astype(np.float32))


def _dirt(image: AnyArray, rng: np.random.Generator) -> Spoilt:
    shape = (image.shape[0], image.shape[1])
    positions, dirty = _positions(shape), np.zeros(shape, dtype=bool)
    for _ in range(6):
        centre = rng.uniform(0.1, 0.9, size=2) * shape
        radius = rng.uniform(0.05, 0.12) * shape[1] / 2
        around = positions - centre[:, None, None]
        angle = np.arctan2(around[0], around[1])
        wobble = 1 + 0.2 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(5 * angle + rng.uniform(0, 6))
        dirty |= np.hypot(*around) < radius * wobble
    return _fill(Spoilt(image, positions), dirty, DARK, rng)


def _turn(degrees: float) -> Spoil:
    def spoil(image: AnyArray, rng: np.random.Generator) -> Spoilt:
        exact = degrees % 90 == 0
        angle = math.radians(degrees if exact else degrees * rng.choice([-1.0, 1.0]))
        return _linear(image, np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]))

    return spoil


def _linear(image: AnyArray, matrix: AnyArray) -> Spoilt:
    """Pull by a linear map about the middle."""
    shape = (image.shape[0], image.shape[1])
    middle = np.array(shape, dtype=np.float32)[:, None, None] / 2
    source = np.einsum("ij,jyx->iyx", matrix, _positions(shape) - middle) + middle
    return _moved(image, source.astype(np.float32))


def _mirrored(image: AnyArray, rng: np.random.Generator) -> Spoilt:
    return _linear(image, np.diag([1.0, -1.0]))


def _scaled(image: AnyArray, rng: np.random.Generator) -> Spoilt:
    return _linear(image, np.eye(2) / 1.08)


def _shifted(image: AnyArray, rng: np.random.Generator) -> Spoilt:
    shape = (image.shape[0], image.shape[1])
    source = _positions(shape)
    source[1] += 0.3 * shape[1] * rng.choice([-1.0, 1.0])
    return _moved(image, source)


def _greys(change: Callable[[AnyArray], AnyArray]) -> Spoil:
    """Change grey values alone; empty pixels stay empty."""

    def spoil(image: AnyArray, rng: np.random.Generator) -> Spoilt:
        changed = np.where(image > 0, change(image.astype(np.float32)).round().clip(1, 255), 0)
        return Spoilt(changed.astype(np.uint8), _positions((image.shape[0], image.shape[1])))

    return spoil


def _faint(image: AnyArray) -> AnyArray:
    mean = image[image > 0].mean() if (image > 0).any() else 0.0
    return mean + 0.12 * (image - mean)


def _nothing(made: Callable[[AnyArray, np.random.Generator], AnyArray]) -> Spoil:
    def spoil(image: AnyArray, rng: np.random.Generator) -> Spoilt:
        unknown = np.full((2, *image.shape), np.nan, dtype=np.float32)
        return Spoilt(made(image, rng).astype(np.uint8), unknown)

    return spoil


SPOIL: dict[str, Spoil] = {
    "fold_large": _fold(100.0, (25.0, 70.0)),
    "fold_mild": _fold(50.0, (8.0, 25.0)),
    "crack": _crack,
    "seam": _seam,
    "half_missing": _half_missing,
    "dirt": _dirt,
    "black": _nothing(lambda image, _: np.zeros_like(image)),
    "noise": _nothing(lambda image, rng: rng.integers(1, 255, size=image.shape)),
    "inverted": _greys(lambda image: 255.0 - image),
    "blurred": _greys(lambda image: gaussian_filter(image, 5.0)),
    "faint": _greys(_faint),
    "turn180": _turn(180.0),
    "turn90": _turn(90.0),
    "turn40": _turn(40.0),
    "mirrored": _mirrored,
    "scale8": _scaled,
    "shift30": _shifted,
}
"""Kinds that need nothing but the section itself."""
