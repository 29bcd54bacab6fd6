"""What was fitted, in words and in numbers that mean something to the owner of the tissue."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssem_dask.composition.separation import Variances
from ssem_dask.composition.spectra import bands_of
from ssem_dask.types import ShapeYX

ALL_REMOVED = "Neighbours were made to match, as was asked for: natural motion is removed with the distortion."

_NOTHING = 0.05
"""px rms."""


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


def _rms(variance: float) -> float:
    return round(float(variance**0.5), 4)
