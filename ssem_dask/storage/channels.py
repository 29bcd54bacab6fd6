"""Channels of an image: detectors (BSE, SE2), stains, colours of the same sections.

An image with channels has the axes (c, z, y, x), with one channel per chunk and shard. Every stage reads (z, y, x):
one channel of it. `register` is the channel from which an alignment is computed; all channels are warped.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ssem_dask.errors import SourceError

ChannelChoice: TypeAlias = int | str
"""Number of a channel, from 0, or its name."""

CHANNELS_KEY = "ssem_dask_channels"
"""Group attribute of an image with channels: {"register": number of the channel to align by, or None}."""
_COLOURS = ("FFFFFF", "FF0000", "00FF00", "0000FF", "FF00FF", "00FFFF", "FFFF00")


def register_attribute(names: Sequence[str], *, register: int | None) -> dict[str, Any]:
    """Return the group attributes that keep which channel to align by; {} if there are no channels."""
    return {CHANNELS_KEY: {"register": register}} if names else {}


def omero(names: Sequence[str], *, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the omero metadata of channels: their names, and the colours and windows that the format requires."""
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (0, 1)
    window = {"min": float(low), "max": float(high), "start": float(low), "end": float(high)}
    return {
        "channels": [
            {
                **({"label": name} if name else {}),
                "color": _COLOURS[number % len(_COLOURS)],
                "window": window,
                "active": True,
            }
            for number, name in enumerate(names)
        ]
    }


def channel_names(attributes: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the omero labels of an image's channels; empty strings if it does not name them.

    Args:
        attributes: of the image group.
        count: number of channels.
    """
    ome = attributes.get("ome")
    block = (ome if isinstance(ome, Mapping) else attributes).get("omero") or attributes.get("omero")
    channels = block.get("channels") if isinstance(block, Mapping) else None
    if not isinstance(channels, list) or len(channels) != count:
        return ("",) * count
    labels = [channel.get("label") if isinstance(channel, Mapping) else None for channel in channels]
    return tuple(label.strip() if isinstance(label, str) else "" for label in labels)


def unnamed_channels(count: int) -> tuple[str, ...]:
    """Return the names of channels that have none; () for one channel."""
    return ("",) * count if count > 1 else ()


def registered_channel(attributes: Mapping[str, Any], count: int) -> int | None:
    """Return the channel that an image says to align by; None if it has only one, or says nothing."""
    record = attributes.get(CHANNELS_KEY)
    register = record.get("register") if isinstance(record, Mapping) else None
    if isinstance(register, int) and 0 <= register < count:
        return register
    return 0 if count == 1 else None


def find_channel(where: str, wanted: ChannelChoice, names: Sequence[str]) -> int:
    """Return the number of a channel that the user gave by number or name.

    Args:
        where: the image, for the message.
        wanted: number or name; case does not matter.
        names: of all channels.

    Raises:
        SourceError: there is no such channel, or several have this name.
    """
    text = str(wanted).strip()
    matches = [number for number, name in enumerate(names) if name and name.casefold() == text.casefold()]
    if len(matches) == 1:
        return matches[0]
    if not matches and text.isdecimal() and int(text) < len(names):
        return int(text)
    problem = "is the name of several of them; give its number" if matches else "is none of them"
    has = f"channels {listed(names)}" if len(names) > 1 else "one channel"
    raise SourceError(f"{where}: has {has}, and --channel {text} {problem}.")


def listed(names: Sequence[str]) -> str:
    """Return channels for a message: `0 (BSE), 1 (SE2)`."""
    return ", ".join(f"{number} ({name})" if name else str(number) for number, name in enumerate(names))


def channel_options(count: int) -> str:
    """Return what the user can do about a source with several channels, for the end of a message."""
    return f"choose one with --channel 0 to {count - 1}, or import all of them with --channels all"


def several_channels(where: str, names: Sequence[str]) -> str:
    """Return the message for an image of which one channel must be chosen."""
    return (
        f"{where}: has {len(names)} channels: {listed(names)}; choose the one to align by with --channel, all of them "
        "are then warped."
    )
