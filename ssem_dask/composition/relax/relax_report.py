"""Reports of what was fitted: typed records in units that mean something to the owner of the tissue, and sentences.

The records are stored as JSON (`quality/relax.json`); `to_json` and `from_json` are the only places that know its keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from ssem_dask.composition.lost_tissue import LostTissue
from ssem_dask.composition.relax.spectra import Bands
from ssem_dask.composition.separation.affine_log import rms_radius
from ssem_dask.composition.separation.anchored import DriftResult
from ssem_dask.composition.separation.jumps import Jump
from ssem_dask.composition.separation.sequence import Variances
from ssem_dask.types import Float64Array, ShapeYX
from ssem_dask.units import plural, shortened

ALL_REMOVED = "Neighbours were made to match, as requested: natural motion is removed with the distortion."
TOO_FEW = "Too few sections to separate distortion from natural motion (8 are needed): neighbours were made to match."

_NOTICEABLE_PX = 0.05
"""Distortion, px rms, below which sections count as undistorted."""
_NAMED_JUMPS, _NAMED_LANDMARKS = 8, 10
"""Jumps and landmarks that a sentence names; the others are in the record."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MotionStatistics:
    """Standard deviations as rms displacements over the section, px."""

    distortion_px: float
    motion_px: float
    erratic_px: float
    noise_px: float
    correlation_sections: float
    """Sections over which the correlation of natural motion falls to 1/e."""

    @classmethod
    def of(cls, variances: Variances, *, share: float = 1.0) -> "MotionStatistics":
        """Return the statistics of variances.

        Args:
            variances: px².
            share: mean square displacement over the section per unit of variance.
        """
        return cls(
            distortion_px=_rms(variances.distortion * share),
            motion_px=_rms(variances.motion * share),
            erratic_px=_rms(variances.erratic * share),
            noise_px=_rms(variances.noise * share),
            correlation_sections=round(correlation_length(variances.correlation), 2),
        )

    def to_json(self) -> Json:
        """Return the record as stored."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BandRecord:
    """Statistics of one band of spatial frequencies."""

    wavelength_nm: float
    """Shortest wavelength of the band."""
    statistics: MotionStatistics

    def to_json(self) -> Json:
        """Return the record as stored."""
        return {"wavelength_nm": self.wavelength_nm, **self.statistics.to_json()}


@dataclass(frozen=True, slots=True)
class Displacement:
    """Parameters of `affine_log` in units that can be seen, without the shears."""

    shift_y_px: float
    shift_x_px: float
    rotation_degrees: float
    scale: float
    """Relative change of size."""

    @classmethod
    def of(cls, parameters: Float[Float64Array, "6"], *, shape_yx: ShapeYX) -> "Displacement":
        """Convert parameters, px rms over the section."""
        rho = rms_radius(shape_yx)
        return cls(
            shift_y_px=round(float(parameters[0]), 2),
            shift_x_px=round(float(parameters[1]), 2),
            rotation_degrees=round(float(np.rad2deg(parameters[2] / rho)), 3),
            scale=round(float(parameters[3] / rho), 5),
        )

    def to_json(self) -> Json:
        """Return the record as stored."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class JumpRecord:
    """A jump that was undone."""

    z: int
    displacement: Displacement
    """Displacement of the sections from z on against those before."""
    surprise: float
    """Squared size in units of its variance as natural motion, see `jumps.Jump`."""

    @classmethod
    def of(cls, jump: Jump, *, shape_yx: ShapeYX) -> "JumpRecord":
        """Convert a jump; s takes z to z-1, but what the user sees is where the later sections are."""
        return cls(jump.z, Displacement.of(-jump.step, shape_yx=shape_yx), round(jump.surprise, 1))

    def parameters(self, *, shape_yx: ShapeYX) -> Float64Array:
        """Return the displacement, parameters of `affine_log`, px, as far as the record has them: without shear."""
        moved, rho = self.displacement, rms_radius(shape_yx)
        return np.array(
            [moved.shift_y_px, moved.shift_x_px, np.deg2rad(moved.rotation_degrees) * rho, moved.scale * rho, 0.0, 0.0]
        )

    def to_json(self) -> Json:
        """Return the record as stored."""
        return {"z": self.z, **self.displacement.to_json(), "surprise": self.surprise}

    @classmethod
    def from_json(cls, record: Json) -> "JumpRecord":
        """Read a stored record."""
        displacement = {key: record[key] for key in Displacement.__slots__}
        return cls(record["z"], Displacement(**displacement), record["surprise"])


@dataclass(frozen=True, slots=True)
class SlabRecord:
    """A slab: how it is displaced against the one before, and what was lost between the two."""

    start: int
    stop: int
    certainty: float
    """P(displaced) of its sections, by themselves."""
    displacement: Displacement | None
    """Displacement as a whole against the one before, undone; None for the first, and if nothing joins them."""
    lost: LostTissue | None
    """Tissue that was lost before it; None for the first, and if its faces cannot be compared."""

    @property
    def is_remarkable(self) -> bool:
        """Whether tissue was lost before it, or nothing joins it to the slab before."""
        return self.displacement is None or (self.lost is not None and self.lost.is_certain)

    def to_json(self) -> Json:
        """Return the record as stored."""
        return {
            "start": self.start,
            "stop": self.stop,
            "certainty": round(self.certainty, 4),
            "displacement": None if self.displacement is None else self.displacement.to_json(),
            "lost_sections": None if self.lost is None else self.lost.sections,
            "lost_sd": None if self.lost is None else self.lost.sd,
        }

    @classmethod
    def from_json(cls, record: Json) -> "SlabRecord":
        """Read a stored record."""
        moved, lost = record["displacement"], record["lost_sections"]
        return cls(
            record["start"],
            record["stop"],
            record["certainty"],
            None if moved is None else Displacement(**moved),
            None if lost is None else LostTissue(lost, record["lost_sd"]),
        )


@dataclass(frozen=True, slots=True)
class DriftRecord:
    """The drift that was undone, and how well the anchors agree with it."""

    drift: Displacement
    """Range of the drift over the volume."""
    shares: dict[str, float]
    """Share of what passes for motion that is drift, for each group of parameters."""
    frame: list[list[float]] | None
    """Affine map reference → aligned."""
    landmarks: int
    """Number of landmarks."""
    landmark_error_px: float | None
    """Median distance of the landmarks from where they should be."""
    landmark_outliers: list[int]
    """Landmarks, from 0, that contradict the others."""
    far_pairs: int
    """Number of far pairs."""
    far_outliers: int
    """Number of far pairs that contradict the others."""

    @classmethod
    def of(cls, result: DriftResult, *, shape_yx: ShapeYX) -> "DriftRecord":
        """Convert a result."""
        extent = np.ptp(result.drift, axis=0) if len(result.drift) else np.zeros(6)
        errors = result.landmark_errors
        return cls(
            drift=Displacement.of(extent, shape_yx=shape_yx),
            shares=result.shares,
            frame=None if result.frame is None else [[float(v) for v in row] for row in result.frame],
            landmarks=len(errors),
            landmark_error_px=round(float(np.median(errors)), 2) if len(errors) else None,
            landmark_outliers=[int(n) for n in result.landmark_outliers],
            far_pairs=result.far_pairs,
            far_outliers=result.far_outliers,
        )

    def to_json(self) -> Json:
        """Return the record as stored."""
        return {
            "slow": self.drift.to_json(),
            "shares": self.shares,
            "frame": self.frame,
            "landmarks": self.landmarks,
            "landmark_error_px": self.landmark_error_px,
            "doubted": self.landmark_outliers,
            "far_pairs": self.far_pairs,
            "far_pairs_doubted": self.far_outliers,
        }

    @classmethod
    def from_json(cls, record: Json) -> "DriftRecord":
        """Read a stored record."""
        return cls(
            drift=Displacement(**record["slow"]),
            shares=record["shares"],
            frame=record["frame"],
            landmarks=record["landmarks"],
            landmark_error_px=record["landmark_error_px"],
            landmark_outliers=record["doubted"],
            far_pairs=record["far_pairs"],
            far_outliers=record["far_pairs_doubted"],
        )


@dataclass(frozen=True, slots=True)
class AffineReport:
    """Findings about the sections' affines."""

    statistics: dict[str, MotionStatistics]
    """Statistics of each group of parameters; empty if there were too few sections."""
    evidence: float
    """Log posterior ratio of distortion against none."""
    certainty: float
    """Calibrated score read as P(displaced)."""
    jumps: tuple[JumpRecord, ...]
    drift: DriftRecord | None
    """Drift that was undone; None without anchors."""
    variances: dict[str, Variances] = field(default_factory=dict)
    """Fitted variances of each group of parameters, px²; empty as well in runs of earlier versions."""
    slabs: tuple[SlabRecord, ...] = ()
    """Slabs, if `[slabs]` names borders."""

    def to_json(self) -> Json:
        """Return the record as stored."""
        slabs = {"slabs": [slab.to_json() for slab in self.slabs]} if self.slabs else {}
        return {
            **slabs,
            "variances": {name: asdict(fitted) for name, fitted in self.variances.items()},
            "affine": {name: statistics.to_json() for name, statistics in self.statistics.items()},
            "evidence": self.evidence,
            "certainty": self.certainty,
            "jumps": [jump.to_json() for jump in self.jumps],
            "reference": None if self.drift is None else self.drift.to_json(),
        }

    @classmethod
    def from_json(cls, record: Json) -> "AffineReport":
        """Read a stored record."""
        drift = record["reference"]
        return cls(
            statistics={name: MotionStatistics(**values) for name, values in record["affine"].items()},
            evidence=record["evidence"],
            certainty=record["certainty"],
            jumps=tuple(JumpRecord.from_json(jump) for jump in record["jumps"]),
            drift=None if drift is None else DriftRecord.from_json(drift),
            variances={name: Variances(**values) for name, values in record.get("variances", {}).items()},
            slabs=tuple(SlabRecord.from_json(slab) for slab in record.get("slabs", [])),
        )


@dataclass(frozen=True, slots=True)
class RelaxReport:
    """Everything that composition by `relax` found out (`quality/relax.json`)."""

    summary: str
    """The findings, in sentences."""
    pixel_size: float
    """nm per mip-0 px."""
    section_thickness: float
    """nm."""
    affine: AffineReport
    bands: tuple[BandRecord, ...]
    variances: dict[str, list[Variances]]
    """Fitted variances of the bands, px² per coefficient, by the name of the fit."""
    slab_variances: dict[str, list[list[Variances]]] = field(default_factory=dict)
    """Fitted variances of each slab by itself; an empty list if it has too few sections."""

    def to_json(self) -> Json:
        """Return the record as stored."""
        affine = self.affine.to_json()
        slabs = [
            {**slab, **{name: [asdict(v) for v in each[i]] for name, each in self.slab_variances.items()}}
            for i, slab in enumerate(affine.get("slabs", []))
        ]
        return {
            **({"slabs": slabs} if slabs else {}),
            "summary": self.summary,
            "pixel_size": self.pixel_size,
            "section_thickness": self.section_thickness,
            "affine": affine["affine"],
            "bands": [band.to_json() for band in self.bands],
            "evidence": round(self.affine.evidence, 2),
            "certainty": round(self.affine.certainty, 4),
            "jumps": affine["jumps"],
            "reference": affine["reference"],
            **{name: [asdict(v) for v in fitted] for name, fitted in self.variances.items()},
        }


def correlation_length(correlation: float) -> float:
    """Return the number of sections over which the correlation of natural motion falls to 1/e."""
    return float(-1.0 / np.log(correlation))


def band_records(
    variances: Sequence[Variances], *, shape: ShapeYX, spacing: float, pixel_size: float
) -> list[BandRecord]:
    """Return one record per band.

    Args:
        variances: of each band, per coefficient, px².
        shape: nodes (y, x).
        spacing: mip-0 px between nodes.
        pixel_size: nm per mip-0 px.
    """
    bands = Bands.of(shape)
    records = []
    for band, fitted in enumerate(variances):
        # Both components of every coefficient of the band, spread over the nodes (the transform is orthonormal).
        share = 2.0 * np.count_nonzero(bands.index == band) / (shape[0] * shape[1])
        wavelength = round(float(bands.wavelengths[band] * spacing * pixel_size), 1)
        records.append(BandRecord(wavelength, MotionStatistics.of(fitted, share=share)))
    return records


def describe_motion(bands: Sequence[BandRecord], *, affine: Mapping[str, MotionStatistics], thickness: float) -> str:
    """Return one sentence about distortion and natural motion.

    Args:
        bands: statistics of the elastic part.
        affine: statistics of each group of affine parameters.
        thickness: nm per section.
    """
    if not bands:
        return TOO_FEW
    distortion = np.hypot.reduce([band.statistics.distortion_px for band in bands])
    motion = np.hypot.reduce([band.statistics.motion_px for band in bands])
    displaced = np.hypot.reduce([group.distortion_px for group in affine.values()]) if affine else 0.0
    # The correlation length of the band that moves most.
    length = max(bands, key=lambda band: band.statistics.motion_px).statistics.correlation_sections
    kept = (
        f"natural motion {motion:.1f} px rms from section to section, kept (correlation length {length:.1f} sections, "
        f"{length * thickness / 1000:.2g} µm)."
    )
    if max(distortion, displaced) < _NOTICEABLE_PX:
        return f"Sections are not displaced or distorted one by one, and stay as they are; {kept}"
    return f"Sections displaced by {displaced:.1f} px rms and distorted by {distortion:.1f} px rms, undone; {kept}"


def describe_jumps(jumps: Sequence[JumpRecord]) -> list[str]:
    """Return a sentence about the jumps; none if there are no jumps."""
    if not jumps:
        return []
    named = (
        f"{jump.z} ({jump.displacement.shift_y_px:+.1f}, {jump.displacement.shift_x_px:+.1f} px, "
        f"{jump.displacement.rotation_degrees:+.2f}°, scale {100 * jump.displacement.scale:+.2f} %)"
        for jump in jumps
    )
    list_of_jumps = shortened(named, limit=_NAMED_JUMPS, separator="; ")
    return [f"All sections from here on were displaced against those before, which was undone: {list_of_jumps}."]


def describe_slabs(slabs: Sequence[SlabRecord], *, thickness: float) -> list[str]:
    """Return sentences about slabs; none if there are none.

    Args:
        slabs: all of them.
        thickness: nm per section.
    """
    if not slabs:
        return []
    moved = (
        f"{slab.start} ({slab.displacement.shift_y_px:+.1f}, {slab.displacement.shift_x_px:+.1f} px, "
        f"{slab.displacement.rotation_degrees:+.2f}°, scale {100 * slab.displacement.scale:+.2f} %)"
        for slab in slabs
        if slab.displacement is not None
    )
    lines = [
        f"{len(slabs)} slabs, each by itself; displaced as a whole against the one before, which was undone, from "
        f"section {shortened(moved, limit=_NAMED_JUMPS, separator='; ') or 'none'}."
    ]
    apart = [str(slab.start) for slab in slabs[1:] if slab.displacement is None]
    if apart:
        lines.append(f"Nothing joins the slabs before section {shortened(apart, limit=_NAMED_JUMPS)}.")
    lost = (
        f"{slab.lost.sections:.1f} ± {slab.lost.sd:.1f} sections ({slab.lost.sections * thickness:.0f} nm) before "
        f"section {slab.start}"
        for slab in slabs
        if slab.lost is not None and slab.lost.is_certain
    )
    named = shortened(lost, limit=_NAMED_JUMPS, separator="; ")
    if named:
        lines.append(f"Tissue that was lost between slabs: {named}.")
    return lines


def describe_drift(record: DriftRecord | None) -> list[str]:
    """Return sentences about the drift; none without anchors."""
    if record is None:
        return []
    drift = record.drift
    undone = (
        f"Slow distortion undone: {np.hypot(drift.shift_y_px, drift.shift_x_px):.1f} px, "
        f"{drift.rotation_degrees:.2f}°, {100 * drift.scale:.2f} % over the volume."
    )
    outliers = record.landmark_outliers
    if not outliers:
        return [undone]
    rows = shortened((n + 1 for n in outliers), limit=_NAMED_LANDMARKS)
    landmarks = plural(len(outliers), "landmark")
    return [undone, f"Down-weighted {landmarks} inconsistent with the rest (rows of the file): {rows}."]


def _rms(variance: float) -> float:
    """Return the standard deviation, rounded."""
    return round(float(variance**0.5), 4)
