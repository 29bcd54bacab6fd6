"""Maps of the sections of a volume, aligned → source, in whatever form they were written.

- a run, or a field array like `fields/section` (`field_array`)
- a scene of OME-Zarr 0.6: from its image `aligned` to its image `source`, or from input to output of its only
  transformation
- a folder with one NRRD file per section (ITK): aligned → source, or its folder `to_source`

A file of affine maps is no such thing: see `storage.affine_file`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property, lru_cache

import numpy as np

from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.storage import arrays, location
from ssem_dask.storage.affine_file import AffineFile, read_affine_file
from ssem_dask.storage.fields import open_field
from ssem_dask.storage.foreign_fields.nrrd_file import nrrd_files, read_nrrd
from ssem_dask.storage.foreign_fields.scene import Scene, SystemId, is_scene, open_scene
from ssem_dask.storage.foreign_fields.transformations import VectorField
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import Float64Array

_FIELD = "fields/section"
_TO_SOURCE = "to_source"
_POINTS = 8
"""Points along each side of a section to which its affine map is fitted."""
_OFF_SECTION = 0.25
"""Sections by which a map may move a point along z: more is no rounding, and warping stays within sections."""


class SectionMaps(ABC):
    """Maps of points of one section at a time, mip-0 px (C3), aligned → source."""

    def __init__(self, url: str, info: VolumeInfo) -> None:
        """Open the maps at `url` for a volume."""
        self.url, self.info = url, info

    @abstractmethod
    def source_positions(self, z: int, aligned: Float64Array) -> Float64Array:
        """Return where points `(n, 2)` of section z are in the source; NaN if that is unknown."""

    @property
    def sections(self) -> Iterable[int]:
        """Sections that have a map."""
        return range(self.info.shape[0])


def open_section_maps(url: str, *, info: VolumeInfo) -> SectionMaps:
    """Open maps in any form.

    Args:
        url: of a run, a field array, a scene, or a folder of NRRD files.
        info: volume whose sections they are of.

    Raises:
        SourceError: nothing of this kind is there, or its shape or units do not fit.
        ConventionError: a field array carries other conventions.
    """
    attributes = arrays.group_attributes(url)
    if is_scene(attributes):
        return _SceneMaps(url, info)
    if attributes is not None:
        url = location.join(url, _FIELD)
    if arrays.is_node(url):
        return _ArrayMaps(url, info)
    return _NrrdMaps(url, info)


def read_initial_affines(url: str, *, info: VolumeInfo, digest: str | None) -> AffineFile:
    """Read one affine map per section from a file of affine maps, or fit them to fields in any form.

    Args:
        url: path or URL.
        info: volume whose sections they are of.
        digest: SHA-256 that the content must have; None accepts any.

    Raises:
        SourceError: nothing is there, or it does not fit the volume.
        ConfigError: another digest, or malformed content; see `read_affine_file`.
    """
    with location.reading(url):
        is_file = location.file_size(url) is not None
    if is_file:
        return read_affine_file(url, sections=info.shape[0], digest=digest)
    if digest is None:
        return _fitted_affines(url, info)
    fitted = _checked_affines(url, info, digest)
    if fitted.digest != digest.lower():
        raise ConfigError(
            f"Initial affines {url}: the sha256 of the maps that fit its fields is {fitted.digest}, but {digest} is "
            "wanted; they changed after the run was planned, or coarse.initial_digest belongs to others."
        )
    return fitted


@lru_cache(maxsize=4)
def _checked_affines(url: str, info: VolumeInfo, digest: str) -> AffineFile:
    """Fit the affine maps; kept, since many tasks of one process ask for those of the same digest."""
    del digest
    return _fitted_affines(url, info)


def _fitted_affines(url: str, info: VolumeInfo) -> AffineFile:
    maps = open_section_maps(url, info=info)
    height, width = info.shape[1:]
    at = (np.arange(_POINTS) + 0.5) / _POINTS
    y, x = np.meshgrid(at * height, at * width, indexing="ij")
    aligned = np.column_stack([y.ravel(), x.ravel()])
    affines = np.full((info.shape[0], 2, 3), np.nan)
    for z in maps.sections:
        source = maps.source_positions(z, aligned)
        known = np.isfinite(source).all(axis=1)
        if known.sum() >= 3:
            design = np.column_stack([aligned[known], np.ones(int(known.sum()))])
            affines[z] = np.linalg.lstsq(design, source[known], rcond=None)[0].T
    if np.isnan(affines).all():
        raise SourceError(f"{url}: every field is unknown (NaN); leave it out.")
    return AffineFile(affines=affines, digest=hashlib.sha256(np.round(affines, 6).tobytes()).hexdigest())


class _ArrayMaps(SectionMaps):
    """Fields like `fields/section`."""

    def __init__(self, url: str, info: VolumeInfo) -> None:
        super().__init__(url, info)
        self._array, self._frame = open_field(url)
        if self._array.ndim != 4 or self._array.shape[0] != info.shape[0]:
            raise SourceError(
                f"{url}: shape {self._array.shape}, but wanted is (z, 2, y, x) with one field for each of the volume's "
                f"{info.shape[0]} sections; write NaN where there is none."
            )

        # A section is mapped window by window.
        self._plane = lru_cache(maxsize=2)(lambda z: _extended(np.asarray(self._array[z], dtype=np.float64)))

    def source_positions(self, z: int, aligned: Float64Array) -> Float64Array:
        spacing = float(self._frame.spacing)
        field = VectorField(
            array=self._plane(z),
            component=0,
            scale=np.array([spacing, spacing]),
            origin=np.array([-spacing / 2, -spacing / 2]),  # of the node that was added
            nearest=False,
        )
        return aligned + field.at(aligned)


def _extended(plane: Float64Array) -> Float64Array:
    """Add a node on each side of a field `(2, y, x)`, which continues it as `field.border.extrapolated` does."""
    for axis in (1, 2):
        count = plane.shape[axis]
        sides = []
        for last, inner in ((0, 1), (-1, -2)):
            edge, beside = (np.take(plane, [index % count], axis=axis) for index in (last, inner))
            sides.append(np.where(np.isfinite(beside), 2.0 * edge - beside, edge))
        plane = np.concatenate([sides[0], plane, sides[1]], axis=axis)
    return plane


class _SceneMaps(SectionMaps):
    """A scene in lengths, from pixel centres."""

    def __init__(self, url: str, info: VolumeInfo) -> None:
        super().__init__(url, info)
        self._scene = open_scene(url)
        self._start, self._end = _ends(self._scene)
        for system in (self._start, self._end):
            if len(self._scene.axes(system)) != 3:
                raise SourceError(f"{url}: coordinate systems must have the axes z, y, x; write 3D ones.")
        self._mapping = self._scene.mapping(self._start, self._end)

    @cached_property
    def _steps(self) -> tuple[Float64Array, Float64Array]:
        """Length of a section and of a px in both systems."""
        pixel = np.array([self.info.section_thickness, self.info.pixel_size, self.info.pixel_size])
        start, end = (pixel / np.array(self._scene.units_nm(system)) for system in (self._start, self._end))
        return start, end

    def source_positions(self, z: int, aligned: Float64Array) -> Float64Array:
        start, end = self._steps
        points = np.column_stack([np.full(len(aligned), float(z)), aligned - 0.5])
        moved = self._mapping.forward(points * start) / end
        off = np.abs(moved[:, 0] - z)
        if bool((off > _OFF_SECTION).any()):
            raise SourceError(
                f"{self.url}: moves points of section {z} by up to {np.nanmax(off):.3g} sections along z, but sections "
                "are warped each within itself; give a transformation without a z component."
            )
        return np.asarray(moved[:, 1:] + 0.5)


class _NrrdMaps(SectionMaps):
    """One file per section, in nm, from pixel centres."""

    def __init__(self, url: str, info: VolumeInfo) -> None:
        super().__init__(url, info)
        names = location.list_names(url) if location.exists(url) else []
        if not names:
            raise SourceError(
                f"{url}: no fields are there; give a run, a field array, a scene of OME-Zarr 0.6 or a folder of NRRD "
                "files."
            )
        self._files = nrrd_files(location.join(url, _TO_SOURCE) if _TO_SOURCE in names else url)
        self._read = lru_cache(maxsize=2)(read_nrrd)
        beyond = [z for z in self._files if z >= info.shape[0]]
        if beyond:
            raise SourceError(
                f"{url}: has a file for section {beyond[0]}, but the volume's sections are 0 to {info.shape[0] - 1}; "
                "number the files from 0."
            )

    @property
    def sections(self) -> Iterable[int]:
        return sorted(self._files)

    def source_positions(self, z: int, aligned: Float64Array) -> Float64Array:
        if z not in self._files:
            return np.full_like(aligned, np.nan)
        nm = (aligned - 0.5) * self.info.pixel_size
        return np.asarray((nm + self._read(self._files[z]).at(nm)) / self.info.pixel_size + 0.5)


def _ends(scene: Scene) -> tuple[SystemId, SystemId]:
    """Return the systems of the aligned volume and of the source.

    Raises:
        SourceError: neither names nor the number of transformations says which they are.
    """
    named = {name: [s for s in scene.edges if name in (s[0] or s[1],)] for name in ("aligned", "source")}
    if all(len(systems) == 1 for systems in named.values()):
        return named["aligned"][0], named["source"][0]
    if len(scene.written) == 1:
        return scene.written[0]
    raise SourceError(
        f"{scene.url}: it is unclear which of its images is the aligned one; name them 'aligned' and 'source'."
    )
