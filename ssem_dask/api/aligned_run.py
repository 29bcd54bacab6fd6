"""A finished alignment, as it is used from Python."""

from typing import Any

from ssem_dask.api.lazy_arrays import lazy_warp, lazy_zarr
from ssem_dask.api.sources import ArrayLike, Place, url_of
from ssem_dask.driver.notebook_html import as_html, middle_section
from ssem_dask.driver.run_status import run_status
from ssem_dask.errors import SourceError
from ssem_dask.field.interpolate import Interpolation
from ssem_dask.geometry.box import Box
from ssem_dask.shown import without_secrets
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.storage import arrays, location
from ssem_dask.storage.array_volume import array_volume, is_array
from ssem_dask.storage.volume import Volume
from ssem_dask.volumes import alignment
from ssem_dask.volumes.point_files import MappedFiles, Unit, map_point_files


class Alignment(alignment.Alignment):
    """The result of a run: fields, aligned pixels, and a way to warp other volumes and map points.

    Fields pull: `aligned(p) = source(p + field(p))`, in mip-0 px, (y, x). Pixel i covers [i, i + 1).

    Examples:
        >>> import ssem_dask
        >>> alignment = ssem_dask.open_alignment("aligned.zarr")
        >>> alignment.aligned.shape
        (10, 160, 160)
        >>> alignment.field(3).shape  # dy, dx on nodes every alignment.spacing px
        (2, 10, 10)
        >>> points = alignment.map_points([[3, 80.5, 70.5]], to="source")
        >>> points.shape
        (1, 3)
        >>> text = "1 2 70.5 80.5 3 1 -1"  # a skeleton of one node: number, type, x, y, z, radius, parent
        >>> _ = open("skeleton.swc", "w").write(text)
        >>> alignment.map_file("skeleton.swc", "skeleton-source.swc", to="source", unit="px")
        MappedFiles(files=1, points=1, unknown=0)
        >>> warped = alignment.warp("volume.zarr", z=3)
        >>> bool((warped == alignment.aligned[3].compute()).all())
        True
    """

    @property
    def aligned(self) -> Any:
        """The aligned pixels as a dask array (z, y, x), or (c, z, y, x); a block is read when it is computed.

        Raises:
            SourceError: there is no aligned volume yet.
        """
        url = location.join(self.url, ALIGNED)
        if arrays.group_attributes(url) is None:
            raise SourceError(f"{self.url}: this run has no aligned volume yet; call align again to finish it.")
        return lazy_zarr(arrays.open_array(location.join(url, "0"), mode="r"))

    def warp(
        self,
        volume: Volume | Place | ArrayLike,
        *,
        z: int | None = None,
        box: Box | None = None,
        kind: Interpolation | None = None,
        labels: bool = False,
        pixel_size: float | None = None,
    ) -> Any:
        """Warp another volume of the same sections, or one section of it, for example a segmentation.

        Args:
            volume: path, URL or array (z, y, x) of the source's sections. Its pixels may be larger or smaller.
            z: the section; None: all, as a dask array whose blocks are warped when they are computed.
            box: part of the section, mip 0 of the volume, its z is not used; None: all of it.
            kind: interpolation; None: that of the run's aligned volume.
            labels: the values are ids, each taken from the pixel that it points into.
            pixel_size: nm per pixel of the volume; None: as its metadata say; those of an array are the source's.

        Returns:
            `(y, x)` in the volume's type, 0 where unknown; without `z` a dask array `(z, y, x)`.

        Raises:
            SourceError: the volume does not cover the source's sections.
            ValueError: there is no section z.
        """
        opened = self._opened(volume, pixel_size)
        kind = kind or RenderStageConfig(**self.record.config.get("render", {})).interpolation
        if z is None:
            self.scale_of(opened, size_given=pixel_size is not None)  # refuses a volume of other sections now
            return lazy_warp(self, opened, labels=labels, kind=kind)
        return self.warp_section(opened, z=z, box=box, kind=kind, labels=labels)

    def map_file(self, source: Place, destination: Place, *, to: str, unit: Unit | None = None) -> MappedFiles:
        """Map skeletons or meshes, as the command `points` does.

        Args:
            source: path or URL: a file or folder of SWC or PLY, or a folder of neuroglancer-precomputed skeletons.
            destination: path or URL to write; a folder if the source is one.
            to: `aligned` or `source`, as in `map_points`.
            unit: `px` (z counts sections), `nm` or `um`; None for precomputed skeletons, which are in nm.

        Returns:
            How much was mapped, and how many points the alignment does not cover: they are left out.

        Raises:
            SsemDaskError: the source is damaged, a point is in no section, or the destination is occupied.
        """
        return map_point_files(self, url_of(source), url_of(destination), to=to, unit=unit)

    def __repr__(self) -> str:
        z, y, x = self.shape
        return (
            f"Alignment({self.url!r}: {self.state}, {z} sections of {y} × {x} px, field node every {self.spacing} px)"
        )

    def _repr_html_(self) -> str:
        z, y, x = self.shape
        lines = [f"Alignment {self.url}: {self.state}"]
        lines += [line for line in (run_status(self.url).verdict,) if line]
        size = self.record.pixel_size
        lines.append(f"{z} sections of {y} × {x} px of {size:g} nm; field node every {self.spacing} px")
        return as_html(lines, middle_section(self.url))

    def _opened(self, volume: Volume | Place | ArrayLike, pixel_size: float | None) -> Volume:
        if isinstance(volume, Volume):
            return volume
        thickness = self.record.section_thickness
        if is_array(volume):
            return array_volume(volume, pixel_size=pixel_size or self.record.pixel_size, section_thickness=thickness)
        url = without_secrets(url_of(volume))  # type: ignore[arg-type]
        if pixel_size is not None:
            return Volume.open(url, pixel_size=pixel_size, section_thickness=thickness)
        try:
            return Volume.open(url, section_thickness=thickness)
        except SourceError:
            return Volume.open(url, pixel_size=self.record.pixel_size, section_thickness=thickness)


def open_alignment(run: Place) -> Alignment:
    """Open the alignment that `align` wrote.

    Args:
        run: path or URL of the run.

    Raises:
        SourceError: there is no run, or it has no section fields yet.
        ConventionError: its fields carry other conventions.

    Examples:
        >>> import ssem_dask
        >>> ssem_dask.open_alignment("aligned.zarr")
        Alignment('aligned.zarr': complete, 10 sections of 160 × 160 px, field node every 16 px)
    """
    return Alignment(without_secrets(url_of(run)))
