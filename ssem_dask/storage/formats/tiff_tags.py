"""Tags of a TIFF file, and a check that the file is complete.

The plain resolution tags are not read, because most writers set them to 72 dpi. OME-XML and ImageJ metadata carry units
and are read.
"""

import re
from typing import Any

import numpy as np
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.source import length_in_nm


def grey_dtype(page: Any, where: str) -> np.dtype[Any]:
    """Return the type of a page in native byte order; SourceError if the page is not one grey image."""
    if page.samplesperpixel != 1:
        raise SourceError(
            f"{where}: has {page.samplesperpixel} channels (RGB or the like), but a section has one grey channel; "
            "convert it to grey."
        )
    if page.dtype is None:
        raise SourceError(f"{where}: its sample type is unknown; export it as 8 or 16 bit grey.")
    dtype: np.dtype[Any] = np.dtype(page.dtype)
    return dtype.newbyteorder("=")


def check_whole(tiff: tifffile.TiffFile, where: str) -> None:
    """Raise SourceError if the tags point beyond the end of the file: readers fill missing parts with zeros."""
    size = tiff.filehandle.size
    for page in tiff.pages:
        ends = (a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False))
        end = max(ends, default=0)
        if end > size:
            raise SourceError(
                f"{where}: the TIFF is truncated, it has {size} bytes where its tags ask for {end}; copy it again."
            )


def sizes(tiff: tifffile.TiffFile) -> tuple[float | None, float | None]:
    """Return (pixel size, section thickness) in nm, each None if the file does not contain it."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_length(tiff.ome_metadata, "X"), _ome_length(tiff.ome_metadata, "Z")
    metadata = tiff.imagej_metadata
    if tiff.is_imagej and metadata:
        unit = str(metadata.get("unit", ""))
        tag = tiff.pages.first.tags.get("XResolution")
        pixels, per = tag.value if tag is not None else (0, 1)
        pixel_size = length_in_nm(per / pixels, unit=unit) if pixels else None
        return pixel_size, length_in_nm(float(metadata.get("spacing", 0)), unit=unit)
    return None, None


def _ome_length(xml: str, axis: str) -> float | None:
    value = re.search(rf'PhysicalSize{axis}="([^"]+)"', xml)
    unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', xml)
    return length_in_nm(float(value[1]), unit=unit[1] if unit else "µm") if value else None
