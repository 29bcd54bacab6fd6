"""What was fitted, in words and in numbers that mean something to the owner of the tissue."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssem_dask.composition.relax.spectra import bands_of
from ssem_dask.composition.separation.affine_log import radius
from ssem_dask.composition.separation.anchored import SlowFound
from ssem_dask.composition.separation.jumps import Break
from ssem_dask.composition.separation.sequence import Variances
from ssem_dask.types import Float64Array, ShapeYX
from ssem_dask.units import plural, shortened

ALL_REMOVED = "Neighbours were made to match, as was asked for: natural motion is removed with the distortion."

_NOTHING = 0.05
"""px rms."""
_JUMPS_SHOWN = 8
_LANDMARKS_SHOWN = 10


def correlation_length(correlation: float) -> float:
    """Sections over which natural motion falls to 1/e of its correlation."""
    return float(-1.0 / np.log(correlation))


def band_records(fitted: Sequence[Variances], *, shape: ShapeYX, spacing: float, pixel: float) -> list[dict[str, Any]]:
    """One record per band: root-mean-square lengths of displacements over the section, px, and what they belong to.

    Args:
        fitted: variances of each band, per coefficient, px².
        shape: nodes (y, x).
        spacing: mip-0 px between nodes.
        pixel: nm per mip-0 px.
    """
    bands = bands_of(shape)
    records = []
    for b, variances in enumerate(fitted):
        # Both components of every coefficient of the band, spread over the nodes (the transform is orthonormal).
        share = 2.0 * np.count_nonzero(bands.index == b) / (shape[0] * shape[1])
        records.append(
            {
                "wavelength_nm": round(float(bands.wavelengths[b] * spacing * pixel), 1),
                "distortion_px": _rms(variances.distortion * share),
                "motion_px": _rms(variances.motion * share),
                "erratic_px": _rms(variances.erratic * share),
                "noise_px": _rms(variances.noise * share),
                "correlation_sections": round(correlation_length(variances.correlation), 2),
            }
        )
    return records


def affine_records(fitted: dict[str, Variances]) -> dict[str, dict[str, float]]:
    """One record per group of affine parameters: standard deviations as rms displacements over the section, px."""
    return {
        name: {
            "distortion_px": _rms(v.distortion),
            "motion_px": _rms(v.motion),
            "erratic_px": _rms(v.erratic),
            "noise_px": _rms(v.noise),
            "correlation_sections": round(correlation_length(v.correlation), 2),
        }
        for name, v in fitted.items()
    }


def in_words(records: Sequence[dict[str, Any]], *, affine: dict[str, dict[str, float]], thickness: float) -> str:
    """One line for the user.

    Args:
        records: of `band_records`.
        affine: of `affine_records`.
        thickness: nm per section.
    """
    if not records:
        return "Too few sections to tell distortion from natural motion (8 are needed): neighbours were made to match."
    distortion, motion = (np.hypot.reduce([r[key] for r in records]) for key in ("distortion_px", "motion_px"))
    displaced = np.hypot.reduce([r["distortion_px"] for r in affine.values()]) if affine else 0.0
    main = max(records, key=lambda r: float(r["motion_px"]))
    length = main["correlation_sections"]
    kept = (
        f"natural motion {motion:.1f} px rms from section to section, kept (correlation length {length:.1f} sections, "
        f"{length * thickness / 1000:.2g} µm)."
    )
    if max(distortion, displaced) < _NOTHING:
        return f"Sections are not displaced or distorted one by one, and stay as they are; {kept}"
    return f"Sections displaced by {displaced:.1f} px rms and distorted by {distortion:.1f} px rms, undone; {kept}"


def jump_records(breaks: Sequence[Break], *, shape_yx: ShapeYX) -> list[dict[str, Any]]:
    """One record per jump: how the sections from z on lay against those before, in px, degrees and shares.

    Args:
        breaks: that were undone.
        shape_yx: section, mip-0 px.
    """
    records = []
    for b in breaks:
        moved = -b.jump  # s takes z to z-1; what the user sees is where the later sections lie
        records.append({"z": b.z, **_as_seen(moved, shape_yx), "surprise": round(b.surprise, 1)})
    return records


def jumps_in_words(records: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for the user; none where there are no jumps."""
    if not records:
        return []
    jumps = [
        f"{r['z']} ({r['shift_y_px']:+.1f}, {r['shift_x_px']:+.1f} px, {r['rotation_degrees']:+.2f}°, scale "
        f"{100 * r['scale']:+.2f} %)"
        for r in records
    ]
    named = shortened(jumps, limit=_JUMPS_SHOWN, separator="; ")
    return [f"All sections from here on were displaced against those before, which was undone: {named}."]


def slow_record(found: SlowFound, *, shape_yx: ShapeYX) -> dict[str, Any]:
    """What was pinned by a reference, and how well it fits."""
    slow = found.slow
    wander = np.ptp(slow, axis=0) if len(slow) else np.zeros(6)
    return {
        "slow": _as_seen(wander, shape_yx),
        "shares": found.shares,
        "frame": None if found.frame is None else [[float(v) for v in row] for row in found.frame],
        "landmarks": len(found.misses),
        "landmark_error_px": round(float(np.median(found.misses)), 2) if len(found.misses) else None,
        "doubted": [int(n) for n in found.doubted],
        "far_pairs": found.far,
        "far_pairs_doubted": found.far_doubted,
    }


def slow_in_words(record: dict[str, Any] | None) -> list[str]:
    """A sentence for the user; none where nothing was pinned."""
    if record is None:
        return []
    slow = record["slow"]
    told = (
        f"Slow distortion undone: {np.hypot(slow['shift_y_px'], slow['shift_x_px']):.1f} px, "
        f"{slow['rotation_degrees']:.2f}°, {100 * slow['scale']:.2f} % over the volume."
    )
    doubted = record["doubted"]
    if not doubted:
        return [told]
    rows = shortened([n + 1 for n in doubted], limit=_LANDMARKS_SHOWN)
    landmarks = plural(len(doubted), "landmark")
    return [told, f"Down-weighted {landmarks} inconsistent with the rest (rows of the file): {rows}."]


def _as_seen(parameters: Float64Array, shape_yx: ShapeYX) -> dict[str, float]:
    """Parameters of `affine_log`, px rms over the section, as px, degrees and a share."""
    rho = radius(shape_yx)
    return {
        "shift_y_px": round(float(parameters[0]), 2),
        "shift_x_px": round(float(parameters[1]), 2),
        "rotation_degrees": round(float(np.rad2deg(parameters[2] / rho)), 3),
        "scale": round(float(parameters[3] / rho), 5),
    }


def _rms(variance: float) -> float:
    return round(float(variance**0.5), 4)
