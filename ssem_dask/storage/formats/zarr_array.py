"""Zarr v2 or v3: an array (z, y, x), or the finest level of an OME-Zarr image; leading axes of extent 1 are dropped."""

from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.formats.source import SourceInfo, decoding
from ssem_dask.storage.volume import refuse_unfinished_import
from ssem_dask.types import AnyArray


class ZarrSource:
    """One Zarr array."""

    def __init__(self, url: str) -> None:
        """Open the array, or level 0 of the image group.

        Raises:
            SourceError: nothing is there, it cannot be reached, or it does not hold one volume (z, y, x).
        """
        self._url = url
        attributes = arrays.group_attributes(url)
        pixel_size, thickness = None, None
        if attributes is None:
            self._array = arrays.open_array(url, mode="r")
            axes = tuple(str(name) for name in getattr(self._array.metadata, "dimension_names", None) or ()) or None
        else:
            _check_group(url, attributes)
            image = ngff.parse_multiscale(attributes, where=url)
            self._array = arrays.open_array(location.join_below(url, image.paths[0]), mode="r")
            axes = image.axes
            if axes[-3:] == ngff.AXES:
                pixel_size, thickness = image.scale_of("x"), image.scale_of("z")
                if image.scale_of("y") != pixel_size:
                    pixel_size = None  # not square: the user must give it
        shape = self._array.shape
        ordered = axes is None or len(axes) != len(shape) or axes[-3:] == ngff.AXES or "None" in axes
        if len(shape) < 3 or not ordered or any(extent != 1 for extent in shape[:-3]):
            raise SourceError(
                f"{url}: has shape {shape}" + (f" and axes {', '.join(axes)}" if axes else "") + ", but a volume has "
                "z, y, x and one channel; write it in that form."
            )
        self._lead: tuple[int, ...] = (0,) * (len(shape) - 3)
        self.info = SourceInfo(
            shape=(shape[-3], shape[-2], shape[-1]),
            dtype=np.dtype(self._array.dtype).newbyteorder("="),
            pixel_size=pixel_size,
            section_thickness=thickness,
        )

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`."""
        with decoding(f"{self._url} sections {z_start} to {z_stop - 1}"), fused_codecs():
            index: tuple[int | slice, ...] = (*self._lead, slice(z_start, z_stop), slice(y_start, y_stop), slice(None))
            return np.asarray(self._array[index], dtype=self.info.dtype)

    def close(self) -> None:
        """Do nothing: no file is open."""


def _check_group(url: str, attributes: dict[str, Any]) -> None:
    refuse_unfinished_import(url, attributes)
    if not ngff.is_image(attributes):
        inside = ", ".join(name for name in location.list_names(url) if not name.startswith((".z", "zarr.json")))
        raise SourceError(f"{url}: a Zarr group, not a volume; name an array in it: {inside or 'it is empty'}.")
