"""The channels of a source that are imported together: detectors (BSE, SE2), stains, colours of the same sections.

A format reads several channels at once, so that a page or a chunk with all of them is decoded once. Channels with files
of their own are sources of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ssem_dask.errors import SourceError
from ssem_dask.storage.channels import ChannelChoice, find_channel, listed, several_channels
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.formats.source import ReadOptions, Source, SourceInfo
from ssem_dask.types import AnyArray

Channels = Literal["all"] | Sequence[ChannelChoice]
"""Channels to import: all, or some by number or name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSelection:
    """Channels of a source that are imported, as numbers that the source knows."""

    numbers: tuple[int | None, ...] = (None,)
    """Number of each channel; (None,) for a source of one channel, or of equal ones."""
    names: tuple[str, ...] = ()
    """Name of each, empty if it has none; () if the volume is to have no axis c."""
    register: int | None = None
    """Position among these of the channel to align by; None if none was chosen."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""


def select_channels(
    url: str, options: ReadOptions, *, channel: ChannelChoice | None, channels: Channels | None
) -> ChannelSelection:
    """Find out which channels of a source the user means.

    Args:
        url: of the source.
        options: other choices of the user.
        channel: without `channels` the only channel to import, else the one to align by; None if none was chosen.
        channels: channels to import; None for one, without an axis c.

    Raises:
        SourceError: the source cannot be opened, or has no such channel.
    """
    if channels is None and (channel is None or isinstance(channel, int)):
        return ChannelSelection(numbers=(channel,))
    probe = open_any_format(url, replace(options, channel=0))
    stored = probe.info.channels or ("",)
    probe.close()
    if channels is None:
        return ChannelSelection(numbers=(find_channel(url, channel or 0, stored),))
    wanted = range(len(stored)) if channels == "all" else channels
    numbers = tuple(find_channel(url, each, stored) for each in wanted)
    if len({*numbers}) != len(numbers) or not numbers:
        raise SourceError(f"{url}: --channels names a channel twice, or none; give each once, of {listed(stored)}.")
    register = None if channel is None else find_channel(url, channel, stored)
    if register is not None and register not in numbers:
        raise SourceError(
            f"{url}: --channel {channel} is to be aligned by, but is not among the channels {list(numbers)} of "
            "--channels; add it there."
        )
    if len(numbers) == 1:
        note = f"{url}: has one channel, which is imported as a volume without channels."
        return ChannelSelection(numbers=numbers, notes=() if len(stored) > 1 else (note,))
    names = tuple(stored[number] for number in numbers)
    return ChannelSelection(
        numbers=numbers,
        names=names,
        register=None if register is None else numbers.index(register),
        notes=() if register is not None else (several_channels(url, names),),
    )


class ChannelSet:
    """The channels of one volume, open for reading."""

    def __init__(self, url: str, options: ReadOptions, selection: ChannelSelection) -> None:
        """Open the source once, or every channel if each is a source of its own.

        Raises:
            SourceError: one cannot be opened, or has another shape or type than the first.
        """
        self.selection = selection
        self.sources: list[Source] = []
        try:
            for number in selection.numbers:
                self.sources.append(open_any_format(url, replace(options, channel=number)))
                if self.sources[0].info.is_read_together:
                    break
            first = self.sources[0].info
            for number, source in zip(selection.numbers, self.sources, strict=False):
                info = source.info
                if (info.shape, info.dtype) != (first.shape, first.dtype):
                    raise SourceError(
                        f"{url}: channel {number} has shape {info.shape} and type {info.dtype}, but channel "
                        f"{selection.numbers[0]} has {first.shape} and {first.dtype}; import them one by one, with "
                        "--channel."
                    )
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> SourceInfo:
        """Shape, type, sizes and remarks of the volume."""
        notes = dict.fromkeys(note for source in self.sources for note in source.info.notes)
        return replace(self.sources[0].info, notes=(*self.selection.notes, *notes))

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> list[AnyArray]:
        """Read a band (z, y, x) of each selected channel; see `Source.read`."""
        numbers = [number for number in self.selection.numbers if number is not None]
        band = {"z_start": z_start, "z_stop": z_stop, "y_start": y_start, "y_stop": y_stop}
        if len(self.sources) == len(self.selection.numbers):
            return [source.read(**band) for source in self.sources]
        return self.sources[0].read_channels(numbers, **band)

    def close(self) -> None:
        """Close all channels."""
        for source in self.sources:
            source.close()
