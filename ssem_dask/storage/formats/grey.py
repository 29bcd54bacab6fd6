"""Grey values of images: what tags, palettes, channels and orientation make of stored values.

This is the only place that decides what stored values mean; every format hands over its tags. Grey is what a viewer
would show. If that is colour, the image is refused. Values of labels are ids, so palettes and inversion do not apply to
them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage.channels import channel_options
from ssem_dask.types import AnyArray

_ORIENTATIONS = range(1, 9)
_EXPORT = "convert it to grey"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueTags:
    """Tags that change what the stored values of an image mean."""

    channels: int = 1
    """Samples per pixel."""
    inverted: bool = False
    """Whether 0 is white."""
    bits: int | None = None
    """Bits per sample; None for all bits of the type."""
    palette: AnyArray | None = None
    """Colours (entry, 3) of a palette, as uint8 or uint16; None if there is no palette."""
    orientation: int = 1
    """Orientation as in TIFF and EXIF: 1 is upright, 5 to 8 swap rows and columns."""
    separate: bool = False
    """Whether the channels are stored one after the other, as planes."""

    @property
    def plain(self) -> bool:
        """Whether stored values are the grey values."""
        return self.channels == 1 and not self.inverted and self.palette is None and self.orientation == 1

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the shape (y, x) of the upright image."""
        return (width, height) if self.orientation >= 5 else (height, width)

    def dtype(self, stored: np.dtype[Any], *, labels: bool) -> np.dtype[Any]:
        """Return the type of the grey values."""
        return stored if self.palette is None or labels else self.palette.dtype


def grey_palette(colours: AnyArray, where: str) -> AnyArray:
    """Return a 16-bit palette (entry, 3) with as many bits as it needs.

    Raises:
        SourceError: it has another shape.
    """
    if colours.ndim != 2 or colours.shape[1] != 3:
        raise SourceError(f"{where}: its palette has shape {colours.shape}, it is damaged; export it again.")
    if colours.dtype == np.uint8:
        return colours
    if colours.max(initial=0) < 256:  # some writers store 8 bits without scaling them to 16
        return colours.astype(np.uint8)
    eight = (colours >> 8).astype(np.uint8)
    scaled = eight.astype(np.uint16) * 257
    return eight if np.array_equal(scaled, colours) or not np.any(colours & 255) else colours.astype(np.uint16)


def grey_values(values: AnyArray, tags: ValueTags, where: str, *, labels: bool, channel: int | None) -> AnyArray:
    """Return the grey values (y, x) of a decoded image, upright.

    Args:
        values: (y, x), or (y, x, channel) if there are several channels.
        tags: what the file says about the values.
        where: the image, for messages.
        labels: values are ids.
        channel: channel that the user chose; None to take equal channels as one.

    Raises:
        SourceError: the image is coloured or transparent, or there is no such channel.
    """
    channels = values.shape[2] if values.ndim == 3 else 1
    check_channel(where, channel, channels)
    if values.ndim == 3:
        if channel is None:
            others = (values[..., i] for i in range(1, channels))
            if not channels_agree(values[..., 0], others, count=channels):
                raise SourceError(colour_message(where, channels, separate=tags.separate))
        values = values[..., channel or 0]
    if tags.palette is not None and not labels:
        values = _through_palette(values, tags.palette, where)
    if tags.inverted and not labels:
        values = _inverted(values, tags.bits, where)
    return _upright(values, tags.orientation)


def check_channel(where: str, channel: int | None, channels: int) -> None:
    """Raise SourceError if a chosen channel is not among those of an image; None: none was chosen."""
    if channel is not None and not 0 <= channel < channels:
        raise SourceError(f"{where}: --channel {channel} is not among its {channels} channels; count from 0.")


def channels_agree(first: AnyArray, others: Iterable[AnyArray], *, count: int) -> bool:
    """Return whether channels show one grey image: they are equal, or the last of 2 or 4 is an opaque alpha channel.

    Args:
        first: values of channel 0.
        others: values of the other channels, in order.
        count: number of channels.
    """
    for number, other in enumerate(others, start=1):
        if np.array_equal(first, other):
            continue
        alpha = number == count - 1 and count in (2, 4)
        if not (alpha and _opaque(other)):
            return False
    return True


def colour_message(where: str, channels: int, *, separate: bool = False) -> str:
    """Return the error message for an image whose channels differ."""
    if separate or channels > 4:
        # What tifffile makes of 3 or 4 sections, if the caller does not say that they are grey.
        return (
            f"{where}: its {channels} planes are stored as {channels} channels of one page; if they are sections, "
            "save them "
            f"again as grey pages (tifffile: photometric='minisblack'), else {channel_options(channels)}."
        )
    kind = "transparent pixels" if channels == 2 else "colour (RGB or the like)"
    return (
        f"{where}: has {channels} channels that differ, {kind}, but a section has one grey channel; {_EXPORT}, "
        f"{channel_options(channels)}."
    )


def orientation_of(value: Any) -> int:
    """Return the orientation that a tag has; 1 for values that the standard does not define."""
    return int(value) if value in _ORIENTATIONS else 1


def _opaque(alpha: AnyArray) -> bool:
    return alpha.dtype.kind == "u" and bool(np.all(alpha == np.iinfo(alpha.dtype).max))


def _through_palette(values: AnyArray, palette: AnyArray, where: str) -> AnyArray:
    if not (np.array_equal(palette[:, 0], palette[:, 1]) and np.array_equal(palette[:, 0], palette[:, 2])):
        used = palette[np.unique(values[values < len(palette)])]
        if not (np.array_equal(used[:, 0], used[:, 1]) and np.array_equal(used[:, 0], used[:, 2])):
            raise SourceError(f"{where}: its palette has colours (3 channels), but a section is grey; {_EXPORT}.")
    if values.max(initial=0) >= len(palette):
        raise SourceError(f"{where}: has values beyond its palette of {len(palette)} entries; export it again.")
    return palette[:, 0][values]


def _inverted(values: AnyArray, bits: int | None, where: str) -> AnyArray:
    if values.dtype.kind == "b":
        return ~values
    if values.dtype.kind != "u":
        raise SourceError(f"{where}: 0 is white in it and its values are {values.dtype}; export it with 0 as black.")
    highest = np.iinfo(values.dtype).max if bits is None else (1 << bits) - 1
    return np.asarray(values.dtype.type(highest) - values)


def _upright(values: AnyArray, orientation: int) -> AnyArray:
    if orientation >= 5:
        values = values.T
    # After the transposition of 5 to 8: 2 mirrors columns, 3 turns by 180°, 4 mirrors rows; 5 is done.
    mirror = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(values, mirror) if mirror else values
