"""Anchors that the user gives (`[compose.reference]`): read and checked, and converted to landmarks.

An affine map or a field of a section becomes n points spread over it. Each point has √n times the standard deviation of
the whole, so that a shift of the section is as certain as the user stated.
"""

import hashlib

import numpy as np
import torch

from ssem_dask.composition.separation.anchor_observations import Landmarks
from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.field.affine import apply_affine
from ssem_dask.stages.configs import ComposeStageConfig, ReferenceConfig
from ssem_dask.stages.job import Job
from ssem_dask.storage.foreign_fields.section_maps import open_section_maps, read_initial_affines
from ssem_dask.storage.landmark_file import read_landmark_file
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import Float64Array

TYPICAL = 100.0
"""nm: standard deviation of what is clicked in, or registered to, an X-ray or block-face image."""
LEAST_SECTIONS = 8
_POINTS = 4
"""Along a side of a section, of an affine map or a field."""
_FAR_RANGE = 4, 64


def resolve_compose(config: ComposeStageConfig, info: VolumeInfo) -> ComposeStageConfig:
    """Check everything that is given and pin its content: a changed file is a changed configuration.

    Raises:
        SourceError: something cannot be read.
        ConfigError: it does not fit the volume or the method.
        ConventionError: an array of fields does not say that it is one.
    """
    _check_jumps(config, sections=info.shape[0])
    _check_distances(config, sections=info.shape[0])
    if not config.reference.has_anchors:
        return config
    _check_method(config, "[compose.reference]")
    if info.shape[0] < LEAST_SECTIONS:
        raise ConfigError(
            f"[compose.reference] needs {LEAST_SECTIONS} sections to separate distortion from motion, but there are "
            f"{info.shape[0]}; give [coarse] initial instead, with one affine per section."
        )
    digest = _read(config.reference, info)[1]
    wanted = config.reference.digest
    if wanted is not None and wanted.lower() != digest:
        raise ConfigError(
            f"[compose.reference]: the sha256 of what is given is {digest}, but {wanted} is wanted; it was changed "
            "after the run was planned, or compose.reference.digest belongs to something else."
        )
    pinned = config.reference.model_copy(update={"digest": digest})
    return config.model_copy(update={"reference": pinned})


def landmarks_of(job: Job) -> Landmarks | None:
    """Return everything that the user gave as landmarks; None if nothing was given. Errors as in `resolve_compose`."""
    config = job.compose.reference
    if not config.has_anchors:
        return None
    landmarks, digest = _read(config, job.info)
    if config.digest is not None and digest != config.digest:
        raise ConfigError(
            "[compose.reference]: what is given was changed after the run was planned; plan it again, or put back what "
            f"was there (sha256 {config.digest})."
        )
    return landmarks


def _check_jumps(config: ComposeStageConfig, *, sections: int) -> None:
    outside = [z for z in config.relax.known_jumps if not 0 < z < sections]
    if outside:
        raise ConfigError(
            f"[compose.relax] known_jumps: no section precedes section {outside[0]} of {sections} to jump from; "
            f"give the first section after a jump, 1 to {sections - 1}."
        )
    if config.relax.known_jumps and config.relax.jumps == "keep":
        raise ConfigError(
            '[compose.relax] known_jumps names jumps, but jumps = "keep" leaves all in; leave one of them out.'
        )


def _check_distances(config: ComposeStageConfig, *, sections: int) -> None:
    if not config.far.distances:
        return
    _check_method(config, "[compose.far]")
    low, high = _FAR_RANGE
    wrong = [k for k in config.far.distances if not low <= k <= high]
    if wrong or len(set(config.far.distances)) < len(config.far.distances):
        raise ConfigError(
            f"[compose.far] distances = {list(config.far.distances)}: wanted are different numbers of sections from "
            f"{low} to {high}, for example [8, 16, 32]."
        )
    if min(config.far.distances) >= sections:
        raise ConfigError(
            f"[compose.far] distances = {list(config.far.distances)}: the volume has only {sections} sections; "
            "leave the table out."
        )


def _check_method(config: ComposeStageConfig, table: str) -> None:
    if config.method != "relax" or config.relax.natural_motion != "keep":
        raise ConfigError(
            f'{table} is used by [compose] method = "relax" with natural_motion = "keep" alone; choose these, or leave '
            "the table out."
        )


def _read(config: ReferenceConfig, info: VolumeInfo) -> tuple[Landmarks, str]:
    """Everything that is given, together, and its digest."""
    spread = config.standard_deviation or TYPICAL / info.pixel_size
    parts, digest = [], hashlib.sha256()
    if config.landmarks is not None:
        file = read_landmark_file(config.landmarks, sections=info.shape[0])
        scale = 1.0 if config.unit == "px" else 1.0 / info.pixel_size
        rows = file.rows.copy()
        rows[:, 1:] *= scale
        _check_inside(rows, info, config)
        digest.update(file.digest.encode())
        parts.append(
            _landmarks(rows[:, 0], rows[:, 1:3], rows[:, 3:5], np.where(np.isnan(rows[:, 5]), spread, rows[:, 5]))
        )
    if config.affines is not None:
        given = read_initial_affines(config.affines, info=info, digest=None)
        digest.update(given.digest.encode())
        parts.append(_of_affines(given.affines, info, spread))
    if config.fields is not None:
        found = _of_fields(config.fields, info, spread)
        for values in (found.z, found.source, found.reference):
            digest.update(np.ascontiguousarray(values).tobytes())
        parts.append(found)
    joined = (np.concatenate([getattr(p, name) for p in parts]) for name in ("z", "source", "reference", "spread"))
    return Landmarks(*joined), digest.hexdigest()


def _landmarks(z: Float64Array, source: Float64Array, reference: Float64Array, spread: Float64Array) -> Landmarks:
    return Landmarks(z.astype(np.intp), source, reference, np.asarray(spread, dtype=np.float64))


def _check_inside(rows: Float64Array, info: VolumeInfo, config: ReferenceConfig) -> None:
    height, width = info.shape[1:]
    outside = (rows[:, 1] < 0) | (rows[:, 1] > height) | (rows[:, 2] < 0) | (rows[:, 2] > width)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise ConfigError(
            f"Landmarks {config.landmarks}, row {first + 1}: ({rows[first, 1]:.6g}, {rows[first, 2]:.6g}) px is "
            f"outside the section of {height} × {width} px; check unit = {config.unit!r}, and that y comes before x."
        )


def _spread_points(height: float, width: float) -> Float64Array:
    """`(n, 2)` points spread evenly over a section."""
    at = (np.arange(_POINTS) + 0.5) / _POINTS
    y, x = np.meshgrid(at * height, at * width, indexing="ij")
    return np.column_stack([y.ravel(), x.ravel()])


def _of_affines(affines: Float64Array, info: VolumeInfo, spread: float) -> Landmarks:
    points = _spread_points(*info.shape[1:])
    known = np.flatnonzero(np.isfinite(affines).all(axis=(1, 2)))
    at = torch.from_numpy(points.T)
    source = np.concatenate([apply_affine(affines[z], at).numpy().T for z in known])
    n = len(points)
    everywhere = np.full(n * len(known), spread * n**0.5)
    return _landmarks(np.repeat(known, n), source, np.tile(points, (len(known), 1)), everywhere)


def _of_fields(url: str, info: VolumeInfo, spread: float) -> Landmarks:
    maps = open_section_maps(url, info=info)
    points = _spread_points(*info.shape[1:])
    z, source, reference, spreads = [], [], [], []
    for section in maps.sections:
        moved = maps.source_positions(section, points)
        known = np.isfinite(moved).all(axis=1)
        z.append(np.full(int(known.sum()), section))
        source.append(moved[known])
        reference.append(points[known])
        spreads.append(np.full(int(known.sum()), spread * max(int(known.sum()), 1) ** 0.5))
    if not any(len(part) for part in z):
        raise SourceError(f"[compose.reference] fields {url}: every field is unknown (NaN); leave it out.")
    return _landmarks(np.concatenate(z), *(np.concatenate(part) for part in (source, reference, spreads)))
