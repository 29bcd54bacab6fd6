"""Mode `relax`, the default: undo distortion, leave natural motion alone.

Two levels, each with statistics fitted to the data (`separation`): whole-section affines (`affine_sections`), found
again from the pair fields since these know them better than thumbnails; then what is left, per spatial frequency, on
the nodes (`relax_solve`).

Frames: p_kz takes x in section z to x + p_kz(x) in section z-k, both relative to the coarse affines A_z. The new affines
are A_z ∘ C_z, and the result is a_z = C_z ∘ (id + e_z), relative to A_z. Seen from the new affines a pair is
q_kz = C_{z-k}⁻¹ ∘ p_kz ∘ C_z, and what lay between the sections in all is, wherever e_z already leads,

    T_kz(x) = q_kz(x + e_z(x)) + e_{z-k}(x) - e_{z-k}(x + n_kz(x)),

with n_kz the natural motion that e leaves. The affine part of each field is taken out before it is sampled, and added
in closed form, so that clamping at the border costs nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssem_dask.composition.affine_sections import AffineSeparation, enough_pairs, separate_affines
from ssem_dask.composition.relax_solve import Solution, solve
from ssem_dask.composition.separation import SequenceModel, Variances
from ssem_dask.composition.smooth import fill_unknown
from ssem_dask.composition.spectra import Bands, bands_of, to_spectrum
from ssem_dask.field.affine import IDENTITY, apply_affine, compose_affine, fit_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample, sample_known
from ssem_dask.types import ConfigBase, Float64Array


class RelaxConfig(ConfigBase):
    """Separation of distortion from natural motion."""

    neighbours: int = Field(default=3, ge=1)
    """Pairs up to this distance in z are used."""
    rounds: int = Field(default=4, ge=1)
    """How often the pair fields are sampled anew where the solution leads."""
    iterations: int = Field(default=10, ge=1)
    """Steps of conjugate gradients per round."""
    outlier: float = Field(default=2.4, gt=0)
    """Robust standard deviations at which an observation has lost half of its weight."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted."""

    affine: dict[str, Variances]
    bands: tuple[tuple[float, Variances], ...]
    """(shortest wavelength in px, variances per coefficient in px²), coarse to fine."""


@dataclass(frozen=True, slots=True)
class RelaxResult:
    """Fields of the sections and what they rest on."""

    fields: Tensor
    """`(Z, 2, y, x)` relative to the coarse affines, no NaN."""
    natural: Tensor
    """`(Z, 2, y, x)`: natural motion from z to z-1 on the aligned nodes, without its affine part."""
    fitted: Fitted
    flagged: Tensor
    """`(Z, y, x)`: True where nothing was observed."""


def relax(
    pairs: Tensor, confidence: Tensor, *, coarse: Float64Array, spacing: float, config: RelaxConfig
) -> RelaxResult:
    """Compose."""
    steps = min(config.neighbours, pairs.shape[0])
    pairs, confidence = pairs[:steps], confidence[:steps]
    grid = Grid((pairs.shape[-2], pairs.shape[-1]), spacing)
    shape_px = (grid.shape[0] * spacing, grid.shape[1] * spacing)
    weights = _weights(pairs, confidence)
    split = _split(pairs, weights, grid=grid)
    turn = _turn(split, weights, coarse=coarse, shape_px=shape_px)
    elastic, natural, bands, fitted = _elastic(split, weights, turn=turn, grid=grid, config=config)
    positions = grid.positions()
    fields = torch.stack(
        [
            (apply_affine(c, (positions + e).double()) - positions.double()).float()
            for c, e in zip(turn, elastic, strict=True)
        ]
    )
    return RelaxResult(
        fields=fields,
        natural=natural,
        fitted=Fitted(
            affine={},
            bands=tuple((float(w * spacing), v) for w, v in zip(bands.wavelengths, fitted, strict=True)),
        ),
        flagged=torch.from_numpy(~_spoken(weights)),
    )


def _spoken(weights: Float64Array) -> Float64Array:
    out = (weights > 0).any(axis=0)
    for k in range(1, len(weights) + 1):
        out[:-k] |= weights[k - 1, k:] > 0
    return out


def _weights(pairs: Tensor, confidence: Tensor) -> Float64Array:
    known = torch.isfinite(pairs).all(dim=2) & (confidence > 0)
    values = torch.where(known, torch.nan_to_num(confidence), torch.zeros_like(confidence)).double().numpy()
    near = values[0][values[0] > 0]
    typical = float(np.median(near)) if near.size else 1.0
    return np.where(values > 0, np.clip(values / typical, 0.003, 2.0), 0.0)


@dataclass(frozen=True, slots=True)
class _Split:
    """Pair fields in two parts."""

    affine: Float64Array
    """`(K, Z, 2, 3)` full map."""
    rest: Tensor
    """`(K, Z, 2, y, x)`, NaN unknown."""


def _split(pairs: Tensor, weights: Float64Array, *, grid: Grid) -> _Split:
    positions = grid.positions().double()
    points = positions.reshape(2, -1).T.numpy()
    affine = np.full((*pairs.shape[:2], 2, 3), np.nan)
    rest = torch.full_like(pairs, torch.nan)
    for k, z in np.ndindex(*pairs.shape[:2]):
        w = weights[k, z].ravel()
        known = w > 0
        if known.sum() < max(16, 0.02 * known.size):
            continue
        target = points[known] + pairs[k, z].reshape(2, -1).T.double().numpy()[known]
        robust = np.ones(int(known.sum()))
        for _ in range(3):
            found = fit_affine(positions=points[known], targets=target, weights=w[known] * robust)
            miss = np.linalg.norm(points[known] @ found[:, :2].T + found[:, 2] - target, axis=1)
            robust = 1 / (1 + (miss / (2.4 * max(float(np.median(miss)), 1e-3))) ** 2)
        affine[k, z] = found
        rest[k, z] = pairs[k, z] - (apply_affine(found, positions) - positions).float()
    return _Split(affine, rest)


def _turn(split: _Split, weights: Float64Array, *, coarse: Float64Array, shape_px: tuple[float, float]) -> Float64Array:
    """C."""
    steps, count = split.affine.shape[:2]
    source = np.full_like(split.affine, np.nan)
    for k, z in np.ndindex(steps, count):
        if np.isfinite(split.affine[k, z]).all():
            inner = compose_affine(outer=split.affine[k, z], inner=invert_affine(coarse[z]))
            source[k, z] = compose_affine(outer=coarse[z - k - 1], inner=inner)
    believed = np.where(np.isfinite(split.affine).all(axis=(2, 3)), 1.0, 0.0)
    if not enough_pairs(believed):
        return np.broadcast_to(IDENTITY, (count, 2, 3))
    found = separate_affines(source, believed, shape_yx=shape_px)
    import os
    if os.environ.get("DBG"):
        for k, v in found.fitted.items():
            print("   ", k, "D %.2f m %.2f r %.2f e %.3f" % (v.distortion**.5, v.motion**.5, v.correlation, v.noise**.5))
    return np.stack([compose_affine(outer=invert_affine(a), inner=b) for a, b in zip(coarse, found.sections)])


def _elastic(split, weights, *, turn, grid, config):
    steps, count = weights.shape[:2]
    e = torch.zeros(count, 2, *grid.shape)
    n = torch.zeros(steps, count, 2, *grid.shape)
    bands = bands_of(grid.shape)
    expected = None
    robust = np.ones_like(weights)
    fitted = None
    solution = None
    import os
    for round_ in range(config.rounds):
        total, n, known = _total(split, turn=turn, e=e, n=n, grid=grid)
        now = weights * known * robust
        total = _without_affine(total, now, grid=grid)
        filled = _fill(total, known, expected)
        fitted = _fit(filled, now, bands=bands, start=fitted)
        solution = solve(filled, now, bands=bands, fitted=fitted, iterations=config.iterations)
        expected = solution.expected
        e = torch.from_numpy(solution.distortion).float()
        robust = _robust(total - expected, weights * known, outlier=config.outlier)
        if os.environ.get("DBG"):
            res = np.linalg.norm(total - expected, axis=2)
            print(round_, "res", [float(np.median(res[k][(now[k] > 0)])) for k in range(steps)], "e rms", float(e.std()))
            for w, v in zip(bands.wavelengths, fitted):
                print("   %5.0f px D %.2f m %.2f r %.2f e %.3f" % (w * grid.spacing, v.distortion**.5, v.motion**.5, v.correlation, v.noise**.5))
    return e, torch.from_numpy(solution.motion).float(), bands, fitted


def _total(split, *, turn, e, n, grid):
    steps, count = split.affine.shape[:2]
    positions = grid.positions()
    total = torch.zeros_like(split.rest)
    motion = torch.zeros_like(split.rest)
    known = np.zeros((steps, count, *grid.shape), dtype=bool)
    for k, z in np.ndindex(steps, count):
        if not np.isfinite(split.affine[k, z]).all():
            continue
        m = z - k - 1
        start = apply_affine(turn[z], (positions + e[z]).double())
        rest = sample_known(split.rest[k, z], grid=grid, positions=start.float())
        rest = torch.where(grid.contains(start.float()), rest, torch.full_like(rest, torch.nan))
        there = torch.isfinite(rest).all(dim=0)
        rest = torch.nan_to_num(rest)
        end = apply_affine(split.affine[k, z], start) + rest
        q = (apply_affine(invert_affine(turn[m]), end) - positions).float()  # q - x: x + q is where it ends
        back = n[k, z]
        for _ in range(3):
            back = q - sample(e[m], grid=grid, positions=positions + back, kind="bilinear")
        motion[k, z] = back
        total[k, z] = back + e[m] - e[z]
        known[k, z] = there.numpy()
    return total.double().numpy(), motion, known


def _without_affine(total, weights, *, grid):
    points = grid.positions().double().reshape(2, -1).T.numpy()
    design = np.column_stack([(points - points.mean(0)) / grid.spacing / max(grid.shape), np.ones(len(points))])
    out = total.copy()
    for k, z in np.ndindex(*total.shape[:2]):
        w = weights[k, z].ravel()
        if (w > 0).sum() < 16:
            continue
        root = np.sqrt(w)[:, None]
        values = total[k, z].reshape(2, -1).T
        found, *_ = np.linalg.lstsq(design * root, values * root, rcond=None)
        out[k, z] = (values - design @ found).T.reshape(out[k, z].shape)
    return out


def _fill(total, known, expected):
    if expected is not None:
        return np.where(known[:, :, None], total, expected)
    out = np.empty_like(total)
    for k, z in np.ndindex(*known.shape[:2]):
        values = torch.from_numpy(np.where(known[k, z], total[k, z], np.nan))
        out[k, z] = fill_unknown(values).numpy()
    return out


def _fit(filled, weights, *, bands, start):
    plane = weights.mean(axis=(2, 3))
    model = SequenceModel(np.where(plane > 1e-6, plane, 0.0))
    spectrum = to_spectrum(filled)
    i, j = np.indices(bands.index.shape)
    shape_bearing = i + j > 1  # the others hold what the affine level has taken
    out = []
    for b in range(bands.count):
        part = spectrum[..., (bands.index == b) & shape_bearing].reshape(*plane.shape, -1)
        step = max(1, part.shape[-1] // 48)
        out.append(model.fit(part[..., ::step], start=start[b] if start else None))
    return out


def _robust(residual, weights, *, outlier):
    out = np.ones_like(weights)
    for k in range(len(weights)):
        length = np.linalg.norm(residual[k], axis=1)
        seen = weights[k] > 0
        if seen.any():
            scale = max(float(np.median(length[seen])) / 1.18, 1e-3)
            out[k] = 1 / (1 + (length / (outlier * scale)) ** 2)
    return out
