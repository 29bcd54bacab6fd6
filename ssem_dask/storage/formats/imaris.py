"""Images in the HDF5 files of Imaris: an array per level, time point and channel, padded to whole chunks.

Size and lengths are attributes that hold text as arrays of single characters.
Layout: https://imaris.oxinst.com/support/imaris-file-format
"""

import re
from typing import Any

from ssem_dask.errors import SourceError
from ssem_dask.storage.lengths import Length
from ssem_dask.types import AnyArray, ShapeZYX

IMARIS_IMAGE = re.compile(r"DataSet/ResolutionLevel (?P<level>\d+)/TimePoint (?P<time>\d+)/Channel (?P<setup>\d+)/Data")
"""Path of an image."""
_INFO = "DataSetInfo/Image"
_AXES = "xyz"  # ExtMin0 and ExtMax0 are of x
_DEFAULT_UNIT = "um"


class Cropped:
    """A padded array that can be sliced as if it had no padding."""

    def __init__(self, array: Any, shape: ShapeZYX) -> None:
        self._array, self.shape = array, shape

    def __getitem__(self, index: tuple[slice, ...]) -> AnyArray:
        """Return the values of a part of the image."""
        inside = tuple(slice(*part.indices(extent)) for part, extent in zip(index, self.shape, strict=True))
        values: AnyArray = self._array[inside]
        return values


def image_shape(dataset: Any, where: str) -> ShapeZYX:
    """Return the shape (z, y, x) of the image in a padded dataset.

    Raises:
        SourceError: the attributes of its channel give none, or one that is larger than the dataset.
    """
    channel = dataset.parent.attrs
    texts = [_text(channel.get(f"ImageSize{axis}")) for axis in "ZYX"]
    if not all(text.isdecimal() for text in texts):
        raise SourceError(f"{where}: its channel has no ImageSizeX, Y and Z, without which padding is not known.")
    z, y, x = map(int, texts)
    if any(extent > stored for extent, stored in zip((z, y, x), dataset.shape, strict=True)):
        raise SourceError(f"{where}: announces an image of {(z, y, x)}, but {dataset.shape} are there; copy it again.")
    return z, y, x


def image_lengths(file: Any, shape: ShapeZYX) -> dict[str, Length]:
    """Return the lengths of a voxel along z, y and x, which follow from the ends of the whole image."""
    attributes = file[_INFO].attrs if _INFO in file else {}
    unit = _text(attributes.get("Unit")) or _DEFAULT_UNIT
    lengths: dict[str, Length] = {}
    for number, (axis, extent) in enumerate(zip(_AXES, shape[::-1], strict=True)):
        try:
            first, last = (float(_text(attributes.get(f"{end}{number}"))) for end in ("ExtMin", "ExtMax"))
        except ValueError:
            continue
        if extent:
            lengths[axis] = ((last - first) / extent, unit)
    return lengths


def _text(value: Any) -> str:
    """Return an attribute of Imaris, an array of single characters, as text; "" if it is none."""
    if value is None:
        return ""
    if isinstance(value, str | bytes):
        value = [value]
    parts = [part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in value]
    return "".join(parts).strip("\0 ")
