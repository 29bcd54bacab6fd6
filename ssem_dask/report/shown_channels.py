"""Channels of an image as viewers show them: each is a layer of its own."""

from ssem_dask.storage.volume import Volume


def ordered_channels(volume: Volume) -> list[Volume]:
    """Return the channels of an image, the registered one last, so that it is on top; [] if it has no axis c."""
    if not volume.info.channels:
        return []
    registered = volume.info.channel or 0
    return sorted(volume.each_channel, key=lambda channel: channel.info.channel == registered)


def channel_name(channel: Volume) -> str:
    """Return the name of a channel; that of the image if it has no axis c."""
    number, names = channel.info.channel or 0, channel.info.channels
    if not names:
        return channel.url.rstrip("/").rpartition("/")[2]
    return names[number] if names[number] and names.count(names[number]) == 1 else f"channel {number} {names[number]}"
