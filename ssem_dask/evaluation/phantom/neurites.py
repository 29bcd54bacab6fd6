"""The neurites near a part of one section, as capsules in the plane.

Three calibres have three jittered lattices. Large neurites run through the whole volume. The others exist for a hashed
range of depth, after which another one takes their position. Half of the smaller ones are branches: they have the label
of a large neurite, leave its axis and move to their own position over about a micrometre of depth.
"""

from dataclasses import dataclass, fields

import numpy as np

from ssem_dask.evaluation.phantom.phantom_config import PhantomConfig
from ssem_dask.evaluation.phantom.randomness import UInt32Array, hashed, knots_at, mix, uniform
from ssem_dask.types import Float32Array, Float64Array

_STREAM = 200
_WANDER_DEPTH_NM = (650.0, 650.0, 450.0, 900.0, 500.0)
"""Knot distances along z of the changes of y, x, radius, angle and length."""
_END_SHRINKAGE_NM = 400.0
"""Amount by which a neurite shrinks at the ends of its life, enough to vanish between its neighbours."""


@dataclass(frozen=True, slots=True)
class _Calibre:
    """One lattice of neurites, lengths in nm."""

    period: float
    radius: tuple[float, float]
    half_length: float
    reach: float
    life: float
    """Depth after which another neurite takes the position; 0: never."""
    taper: float


_CALIBRES = (
    _Calibre(period=950.0, radius=(40.0, 470.0), half_length=500.0, reach=2000.0, life=0.0, taper=0.0),
    _Calibre(period=430.0, radius=(30.0, 190.0), half_length=260.0, reach=800.0, life=5000.0, taper=350.0),
    _Calibre(period=210.0, radius=(-60.0, 75.0), half_length=120.0, reach=420.0, life=2500.0, taper=200.0),
)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Lattice cells of one calibre."""

    calibre: int
    """Index of the calibre."""
    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True, slots=True)
class Neurites:
    """Capsules of one section, in nm. A point belongs to that with the least distance to its segment minus radius."""

    y: Float32Array
    x: Float32Array
    direction_y: Float32Array
    direction_x: Float32Array
    half_length: Float32Array
    radius: Float32Array
    label: UInt32Array
    owner: UInt32Array
    """Hash of the capsule, which branches do not share."""

    def select(self, index: np.ndarray) -> "Neurites":
        """Return the capsules at `index`."""
        return Neurites(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def neurites_near(config: PhantomConfig, *, z: float, low: Float64Array, high: Float64Array) -> Neurites:
    """Return all capsules that can matter in the rectangle from `low` to `high` (y, x), nm.

    `z` is the depth in nm, multiplied by the speed at which outlines change.
    """
    parts = [_calibre_near(config, index, z=z, low=low, high=high) for index in range(len(_CALIBRES))]
    return Neurites(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Neurites)})


def _calibre_near(config: PhantomConfig, index: int, *, z: float, low: Float64Array, high: Float64Array) -> Neurites:
    calibre = _CALIBRES[index]
    period = calibre.period * config.calibre
    first = np.floor((low - calibre.reach * config.calibre) / period).astype(np.int64)
    last = np.floor((high + calibre.reach * config.calibre) / period).astype(np.int64)
    rows, columns = (
        a.reshape(-1)
        for a in np.meshgrid(np.arange(first[0], last[0] + 1), np.arange(first[1], last[1] + 1), indexing="ij")
    )
    return _capsules(config, _Cells(index, rows, columns), z=z)


def _capsules(config: PhantomConfig, cells: _Cells, *, z: float) -> Neurites:
    """Return the capsules of lattice cells `(n,)`."""
    rows, columns = cells.rows, cells.columns
    calibre, seed, stream = _CALIBRES[cells.calibre], config.seed, _STREAM + 20 * cells.calibre
    scale = np.float32(config.calibre)
    epoch = np.zeros(rows.shape, dtype=np.int64)
    age = remaining = np.full(rows.shape, np.inf, dtype=np.float32)
    if calibre.life:
        # The lives at one position begin at (e + u) * life, with u hashed per position.
        phase = z / calibre.life - uniform(seed, stream + 2, rows, columns).astype(np.float64)
        epoch = np.floor(phase).astype(np.int64)
        age = ((phase - epoch) * calibre.life).astype(np.float32)
        remaining = np.float32(calibre.life) - age
    keys = (rows, columns, epoch)
    chance = uniform(seed, stream, np.arange(6)[:, None], *keys)
    z_periods = np.array(_WANDER_DEPTH_NM)[:, None]
    wander = knots_at(seed, stream + 1, np.arange(len(_WANDER_DEPTH_NM))[:, None], *keys, z=z, z_period=z_periods)

    y = ((rows + 0.5 + 0.9 * (chance[0] - 0.5)) * calibre.period * config.calibre).astype(np.float64)
    x = ((columns + 0.5 + 0.9 * (chance[1] - 0.5)) * calibre.period * config.calibre).astype(np.float64)
    y += 0.09 * calibre.period * wander[0]
    x += 0.09 * calibre.period * wander[1]
    smallest, largest = calibre.radius
    radius = scale * (smallest + (largest - smallest) * chance[2] ** 2)
    radius += scale * 0.12 * np.float32(calibre.period) * wander[2]
    label = _label(cells, epoch)
    if calibre.life:
        ends = _ramp(1.0 - remaining / calibre.taper) + _ramp(1.0 - age / calibre.taper) * (chance[3] >= 0.5)
        radius -= _END_SHRINKAGE_NM * ends
        y, x, label = _branched(config, cells, z=z, y=y, x=x, label=label, age=age, branch=chance[3] < 0.5)
    angle = (chance[4] + 0.08 * wander[3]) * np.float32(2 * np.pi)
    length = scale * calibre.half_length * chance[5] ** 2 * (1.0 + 0.2 * wander[4])
    return Neurites(
        y=y,
        x=x,
        direction_y=np.sin(angle),
        direction_x=np.cos(angle),
        half_length=np.maximum(length, 0.0).astype(np.float32),
        radius=radius.astype(np.float32),
        label=label,
        owner=hashed(seed, stream + 9, *keys),
    )


def _branched(
    config: PhantomConfig,
    cells: _Cells,
    *,
    z: float,
    y: Float64Array,
    x: Float64Array,
    label: UInt32Array,
    age: Float32Array,
    branch: np.ndarray,
) -> tuple[Float64Array, Float64Array, UInt32Array]:
    """Give branches the label of the nearest large neurite's lattice cell, and let them start at its position."""
    period = _CALIBRES[cells.calibre].period / _CALIBRES[0].period
    rows = np.floor((cells.rows + 0.5) * period).astype(np.int64)
    columns = np.floor((cells.columns + 0.5) * period).astype(np.int64)
    parent = _capsules(config, _Cells(0, rows, columns), z=z)
    pull = np.where(branch, _ramp(1.0 - age / 1000.0), 0.0)
    y = y + pull * (parent.y - y)
    x = x + pull * (parent.x - x)
    return y, x, np.where(branch, parent.label, label)


def _ramp(share: Float32Array) -> Float32Array:
    """Return the smoothstep function: 0 below 0, 1 above 1, smooth between."""
    t = np.clip(share, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)


def _label(cells: _Cells, epoch: np.ndarray) -> UInt32Array:
    """Return a label per lattice cell and life: unique within 4096 cells along an axis and 64 lives; never 0."""
    packed = (cells.calibre + 1) << 30 | (epoch & 0x3F) << 24 | (cells.rows & 0xFFF) << 12 | (cells.columns & 0xFFF)
    return mix(packed.astype(np.uint32))


def partition(
    neurites: Neurites, *, y: Float32Array, x: Float32Array, centre: Float64Array
) -> tuple[np.ndarray, Float32Array]:
    """Return the neurite at each position, and the distance to its border.

    Args:
        neurites: candidates.
        y, x: positions `(blocks, pixels)` relative to `centre`, nm; the pixels of a block are near each other.
        centre: (y, x), nm.

    Returns:
        Index of the nearest capsule `(blocks, pixels)`, and half the distance by which the nearest capsule of another
        label is farther: about the distance to the membrane, nm.
    """
    cy = (neurites.y - centre[0]).astype(np.float32)
    cx = (neurites.x - centre[1]).astype(np.float32)
    order, counts = _candidates(neurites, cy=cy, cx=cx, y=y, x=x)
    _, small = np.unique(neurites.label, return_inverse=True)
    # One number holds the index of a capsule (low half) and of its label (high half).
    code = small.astype(np.int32) << 16 | np.arange(len(small), dtype=np.int32)
    far = np.float32(1e9)
    first, second = np.full(y.shape, far, dtype=np.float32), np.full(y.shape, far, dtype=np.float32)
    winner = np.full(y.shape, -1, dtype=np.int32)
    by_count = np.argsort(-counts, kind="stable")
    y, x = y[by_count], x[by_count]
    scratch = [np.empty_like(y) for _ in range(4)]
    for slot in range(int(counts.max())):
        n = int(np.count_nonzero(counts > slot))
        pick = order[by_count[:n], slot][:, None]
        dy, dx, along, part = (a[:n] for a in scratch)
        ty, tx, half = neurites.direction_y[pick], neurites.direction_x[pick], neurites.half_length[pick]
        np.subtract(y[:n], cy[pick], out=dy)
        np.subtract(x[:n], cx[pick], out=dx)
        np.multiply(dy, ty, out=along)
        along += np.multiply(dx, tx, out=part)
        np.minimum(along, half, out=along)
        np.maximum(along, -half, out=along)
        dy -= np.multiply(along, ty, out=part)
        dx -= np.multiply(along, tx, out=part)
        dy *= dy
        dx *= dx
        dy += dx
        distance = np.sqrt(dy, out=dy)
        distance -= neurites.radius[pick]
        # Masked writes would take ten times as long. -1 is all ones, so `better` is a bit mask.
        better = -(distance < first[:n]).astype(np.int32)
        np.multiply((winner[:n] >> 16) == small[pick], far, out=part)
        # The loser of the old and the new one is a candidate for second, unless both are the same neurite.
        loser = np.maximum(distance, first[:n], out=dx)
        loser += part
        np.minimum(second[:n], loser, out=second[:n])
        np.minimum(first[:n], distance, out=first[:n])
        better &= winner[:n] ^ code[pick]
        winner[:n] ^= better
    winner &= 0xFFFF
    inverse_order = np.empty_like(by_count)
    inverse_order[by_count] = np.arange(len(by_count))
    return winner[inverse_order], (0.5 * (second - first))[inverse_order]


def _candidates(
    neurites: Neurites, *, cy: Float32Array, cx: Float32Array, y: Float32Array, x: Float32Array
) -> tuple[np.ndarray, np.ndarray]:
    """Return per block the capsules `(blocks, most)` that can be nearest or second nearest, and their number."""
    my, mx = 0.5 * (y.min(1) + y.max(1)), 0.5 * (x.min(1) + x.max(1))
    block_radius = 0.5 * np.hypot(y.max(1) - y.min(1), x.max(1) - x.min(1))
    dy, dx = my[:, None] - cy, mx[:, None] - cx
    along = np.clip(dy * neurites.direction_y + dx * neurites.direction_x, -neurites.half_length, neurites.half_length)
    distance = np.hypot(dy - along * neurites.direction_y, dx - along * neurites.direction_x) - neurites.radius
    nearest = distance.argmin(axis=1)
    other = neurites.label != neurites.label[nearest][:, None]
    second = np.min(distance, axis=1, where=other, initial=np.float32(1e9))
    # A capsule's distance changes by at most `block_radius` from the block's middle to its pixels.
    possible = distance <= (second + 2.0 * block_radius)[:, None]
    counts = np.count_nonzero(possible, axis=1)
    block, capsule = np.nonzero(possible)
    order = np.zeros((len(my), int(counts.max())), dtype=np.int64)
    order[block, np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)] = capsule
    return order, counts
