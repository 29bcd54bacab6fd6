"""Axes of a stored array: which of them are z, y and x, and what becomes of the others.

This is the only place that decides about axes; every format hands over the stored shape and the names it has.

- Further axes of extent 1 are dropped. Time points and channels are chosen by the user; of several none is preferred.
- Named axes are honoured in any order: reading transposes, so nothing is copied twice.
- Equal channels (a grey image that was saved as RGB) count as one. Reading compares them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage.channels import channel_options
from ssem_dask.storage.formats.grey import channels_agree
from ssem_dask.types import AnyArray, ShapeZYX
from ssem_dask.units import plural

_KINDS = {
    "z": ("z", "depth", "slice", "section", "plane"),
    "y": ("y", "row", "height"),
    "x": ("x", "col", "column", "width"),
    "c": ("c", "s", "ch", "channel", "sample", "band", "wavelength", "color", "colour", "rgb", "rgba"),
    "t": ("t", "time", "timepoint", "frame"),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_NO_NAME = re.compile(r"(?:none|\?|i|q|)|(?:dim|axis|d|phony_dim|d?im)[_ ]?\d+")
"""Names that say nothing: those of tools that number axes, and tifffile's for unknown ones."""
_MOST_COLOURS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisOrder:
    """Where z, y and x are among the axes of a stored array."""

    where: str
    """The array, for messages."""
    shape: ShapeZYX
    zyx: tuple[int | None, int, int]
    """Stored axis of z, y and x; z is None for a single section."""
    fixed: tuple[tuple[int, int], ...]
    """Axis and index of every other axis of which one index is read."""
    channel_axis: int | None = None
    """Axis of channels that must be equal; None if one was chosen or there is one."""
    stored_channel_axis: int | None = None
    """Axis of channels, whether one was chosen or not."""
    channel: int = 0
    """Channel that was chosen."""
    channels: int = 1
    """Extent of `channel_axis`."""
    stored_channels: int = 1
    """Channels that the array has, also if one of them was chosen."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""

    def read(self, array: Any, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """Read a band (z, y, x) of an array that can be sliced.

        Raises:
            SourceError: channels that must be equal differ.
        """
        rows = slice(y_start, y_stop)
        values = self._band(array, slice(z_start, z_stop), rows, channel=self.channel)
        others = (self._band(array, slice(z_start, z_stop), rows, channel=i) for i in range(1, self.channels))
        if self.channel_axis is not None and not channels_agree(values, others, count=self.channels):
            raise SourceError(
                f"{self.where}: its {self.channels} channels differ (sections {z_start} to {z_stop - 1}), but a "
                f"volume has one; {channel_options(self.channels)}."
            )
        return values

    def read_channels(
        self, array: Any, numbers: Sequence[int], *, z_start: int, z_stop: int, y_start: int, y_stop: int
    ) -> list[AnyArray]:
        """Read a band (z, y, x) of several channels: at once, if they are next to each other."""
        rows, sections = slice(y_start, y_stop), slice(z_start, z_stop)
        first, last = min(numbers), max(numbers)
        axis = self.stored_channel_axis
        if axis is None or last - first >= len(numbers):
            return [self._band(array, sections, rows, channel=number) for number in numbers]
        values = self._band(array, sections, rows, channel=slice(first, last + 1))
        return [values[number - first] for number in numbers]

    def planes(self, extents: Sequence[int], channels: Sequence[int] | None = None) -> list[list[int]]:
        """Return the numbers of the planes of each channel, in order of z.

        Args:
            extents: of the axes before y and x; planes are counted in their order.
            channels: numbers of the channels; None for the chosen one, or all that must be equal.
        """
        numbers = np.arange(int(np.prod(extents, dtype=int))).reshape(*extents, 1, 1)
        bands = [
            self._band(numbers, slice(None), slice(None), channel=i)
            for i in (channels or ([self.channel] if self.channel_axis is None else range(self.channels)))
        ]
        return [band[:, 0, 0].tolist() for band in bands]

    def check_channels(self, array: Any) -> None:
        """Raise SourceError if channels that must be equal differ in the first section."""
        if self.channel_axis is not None and 0 not in self.shape:
            self.read(array, z_start=0, z_stop=1, y_start=0, y_stop=self.shape[1])

    def _band(self, array: Any, z: slice, y: slice, *, channel: int | slice) -> AnyArray:
        """Return a band (z, y, x) of a channel, or (c, z, y, x) of a slice of channels."""
        z_axis, y_axis, x_axis = self.zyx
        index: list[slice | int] = [slice(None)] * len(array.shape)
        if z_axis is not None:
            index[z_axis] = z
        index[y_axis] = y
        for axis, at in self.fixed:
            index[axis] = at
        if self.stored_channel_axis is not None:
            index[self.stored_channel_axis] = channel
        values = np.asarray(array[tuple(index)])
        kept = [axis for axis, part in enumerate(index) if isinstance(part, slice)]
        order = [self.stored_channel_axis, z_axis, y_axis, x_axis]
        values = values.transpose([kept.index(axis) for axis in order if axis is not None and axis in kept])
        return np.expand_dims(values, -3) if z_axis is None else values


def order_axes(
    where: str,
    shape: Sequence[int],
    *,
    names: Sequence[Any] | None,
    channel: int | None = None,
    time: int | None = None,
) -> AxisOrder:
    """Find z, y and x among the axes of a stored array.

    Args:
        where: the array, for messages.
        shape: stored extents.
        names: stored name of each axis; None, or names that say nothing, if the format has none.
        channel: index that the user chose; None if no channel was chosen.
        time: index of the time point that the user chose.

    Raises:
        SourceError: the axes do not make one volume, or a choice is out of range.
    """
    kinds = _kinds(where, shape, names)
    if kinds is None:
        kinds = _kinds_by_position(where, shape, channel=channel, time=time)
    notes: list[str] = []
    if "z" not in kinds or shape[kinds.index("z")] == 1:
        _take_other_axis_for_z(where, kinds, shape, notes, channel=channel, time=time)
    fixed: dict[int, int] = {}
    channel_axis = None
    for kind, at, option, word in (("t", time, "--time", "time points"), ("c", channel, "--channel", "channels")):
        axis = kinds.index(kind) if kind in kinds else None
        extent = 1 if axis is None else shape[axis]
        if at is not None and not 0 <= at < extent:
            raise SourceError(
                f"{where}: has {plural(extent, word[:-1])}, so {option} {at} is none of them; count from 0."
            )
        if axis is None:
            continue
        if at is None and extent > 1:
            if kind == "c" and extent <= _MOST_COLOURS:
                channel_axis = axis  # grey values saved as RGB, perhaps: reading compares
                continue
            choice = channel_options(extent) if kind == "c" else f"choose with {option} 0 to {extent - 1}"
            raise SourceError(f"{where}: has {extent} {word}, but a volume has one; {choice}.")
        if kind == "t":
            fixed[axis] = at or 0
    fixed.update({axis: 0 for axis, kind in enumerate(kinds) if kind == "1"})
    z = kinds.index("z") if "z" in kinds else None
    y, x = kinds.index("y"), kinds.index("x")
    return AxisOrder(
        where=where,
        shape=(1 if z is None else shape[z], shape[y], shape[x]),
        zyx=(z, y, x),
        fixed=tuple(sorted(fixed.items())),
        channel_axis=channel_axis,
        stored_channel_axis=kinds.index("c") if "c" in kinds else None,
        channel=channel or 0,
        channels=1 if channel_axis is None else shape[channel_axis],
        stored_channels=shape[kinds.index("c")] if "c" in kinds else 1,
        notes=tuple(notes),
    )


def axis_kind(name: Any) -> str | None:
    """Return `z`, `y`, `x`, `c` or `t` for the name of an axis; None for any other name."""
    text = str(name).strip().casefold()
    return _KIND_OF.get(text, _KIND_OF.get(text.removesuffix("s")))


def _kinds(where: str, shape: Sequence[int], names: Sequence[Any] | None) -> list[str] | None:
    """Return the kind of each axis, `1` for others of extent 1; None if the names say nothing."""
    if names is None or len(names) != len(shape) or any(_NO_NAME.fullmatch(str(n).strip().casefold()) for n in names):
        return None
    kinds = [axis_kind(name) or ("1" if extent == 1 else "?") for name, extent in zip(names, shape, strict=True)]
    known = [kind for kind in kinds if kind != "1"]
    if "?" in known or len({*known}) != len(known) or "y" not in known or "x" not in known:
        raise SourceError(
            f"{where}: has shape {tuple(shape)} and axes {', '.join(map(str, names))}, but a volume has z, y, x and "
            "one "
            "channel; write it in that form."
        )
    return kinds


def _kinds_by_position(where: str, shape: Sequence[int], *, channel: int | None, time: int | None) -> list[str]:
    """Take the last three axes longer than 1 for z, y, x; with a fourth one only if the user chooses along it."""
    kinds = ["1"] * len(shape)
    kept = list(range(len(shape)))
    while len(kept) > 3:  # first the outer axes of extent 1, so that a section of one row stays one
        if shape[kept[0]] == 1:
            kept = kept[1:]
        elif shape[kept[-1]] == 1:
            kept = kept[:-1]
        else:
            inner = [axis for axis in kept if shape[axis] == 1]
            if not inner:
                break
            kept.remove(inner[0])
    if len(kept) == 4:
        colours_last = shape[kept[3]] <= _MOST_COLOURS < shape[kept[0]]
        further = kept.pop(3 if colours_last else 0)
        if not colours_last and (channel is None) == (time is None):
            raise SourceError(
                f"{where}: has shape {tuple(shape)}, and its {shape[further]} volumes may be channels or time points; "
                f"choose one with --channel or --time 0 to {shape[further] - 1}."
            )
        kinds[further] = "c" if colours_last or channel is not None else "t"
    if len(kept) != 3:
        raise SourceError(
            f"{where}: has shape {tuple(shape)}, but a volume has three axes: z, y, x; write it in that form."
        )
    for axis, kind in zip(kept, "zyx", strict=True):
        kinds[axis] = kind
    return kinds


def _take_other_axis_for_z(
    where: str, kinds: list[str], shape: Sequence[int], notes: list[str], *, channel: int | None, time: int | None
) -> None:
    """Take a lone axis of channels or time points for z: many programs count sections along one of these."""
    candidates = [axis for axis, kind in enumerate(kinds) if kind in ("c", "t") and shape[axis] > 1]
    if len(candidates) != 1 or channel is not None or time is not None:
        return
    axis = candidates[0]
    word = "channels" if kinds[axis] == "c" else "time points"
    notes.append(f"{where}: its {shape[axis]} {word} are taken as sections, since it has no other axis for them.")
    kinds[:] = ["1" if kind == "z" else kind for kind in kinds]
    kinds[axis] = "z"
