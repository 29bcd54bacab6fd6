"""Channels in files of their own: `BSD_001.tif` beside `SE2_001.tif`, `s1_c0.tif` beside `s1_c1.tif`, or in folders.

Taken as one series, they would be sections of twice the number, in an order that no tissue has. So a folder that holds
as many files of one kind of name as of another, with the same numbers, is a source with channels.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.channels import listed
from ssem_dask.storage.formats.section_order import natural_order
from ssem_dask.units import shortened

ChannelFiles: TypeAlias = dict[str, list[str]]
"""Files of each channel in order of z, by the name of the channel."""

_CHANNEL_WORDS = frozenset({"c", "ch", "chan", "channel", "w", "wavelength", "det", "detector"})
_TILE_WORDS = frozenset({"tile", "r", "row", "col", "column", "x", "y", "mosaic"})
_TILE = re.compile(r"\d+_\d+(?:_\d+)?\.\w+")
"""Row, column and perhaps level in the name of a tile of CATMAID or Deep Zoom."""
_FEWEST_SECTIONS = 2
_MOST_CHANNELS = 16
_TOKEN = re.compile(r"\d+|\D+")
_LETTERS = re.compile(r"([a-z]+)[ _=-]?$")


def channel_files(url: str, files: Sequence[str]) -> ChannelFiles:
    """Find the channels among the image files of a folder; {} if each file is a section.

    Args:
        url: of the folder, for the message.
        files: names of its images.

    Raises:
        SourceError: the names are those of tiles, or channels lack sections.
    """
    return _by_words(url, files) or _by_numbers(url, files)


def channel_folders(url: str, folders: dict[str, list[str]]) -> ChannelFiles:
    """Find the channels among folders of images; {} if they are something else.

    Args:
        url: of the folder that holds them, for the message.
        folders: names of the images in each.

    Raises:
        SourceError: each folder holds one image, so it is a section; or they hold different numbers of images.
    """
    counts = {len(files) for files in folders.values()}
    if counts == {1} and len(folders) > 1:
        name = next(iter(folders.values()))[0].rpartition("/")[2]
        names = {files[0].rpartition("/")[2] for files in folders.values()}
        pattern = location.join(url, "*", name if len(names) == 1 else f"*.{name.rpartition('.')[2]}")
        raise SourceError(
            f"{url}: holds {len(folders)} folders with one image each; if each is a section, give the pattern "
            f"'{pattern}'."
        )
    if not folders:
        return {}
    tiles = [file for files in folders.values() for file in files if _TILE.fullmatch(_base(file))]
    if len(folders) > 1 and len(tiles) == sum(map(len, folders.values())) and all(name.isdecimal() for name in folders):
        raise SourceError(_tiles_message(url, tiles))
    if len(folders) < 2 or len(folders) > _MOST_CHANNELS or len(counts) != 1:
        shown = shortened([f"{name} ({len(files)})" for name, files in folders.items()], limit=5)
        raise SourceError(f"{url}: holds no images itself, but its folders do: {shown}; name one of them.")
    return {name: natural_order(files) for name, files in folders.items()}


def several_series(url: str, channels: Sequence[str]) -> str:
    """Return the message for a folder with channels of which none was chosen."""
    return (
        f"{url}: holds {len(channels)} images of each section: {listed(channels)}; choose one with --channel, import "
        "all with --channels all, or give the order with --list if each image is a section of its own."
    )


def _by_words(url: str, files: Sequence[str]) -> ChannelFiles:
    """Find names of several forms that have the same numbers; SourceError if some of them lack a few."""
    groups: dict[tuple[str, ...], list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    for file in files:
        tokens = _tokens(file)
        form = tuple("#" if token.isdigit() else token for token in tokens)
        groups[form].append((file, tuple(int(token) for token in tokens if token.isdigit())))
    # Names that differ in signs, dots or copies alone, such as z-1 and z1, are of one series.
    spelled = {re.sub(r"[^a-z]", "", "".join(form)) for form in groups}
    if len(groups) < 2 or len(groups) > _MOST_CHANNELS or len(spelled) < len(groups):
        return {}
    found: ChannelFiles = {}
    sequences: list[set[int]] = []
    examples = [group[0][0] for group in groups.values()]
    for group in groups.values():
        columns = list(zip(*(numbers for _, numbers in group), strict=True))
        varying = [column for column in columns if len({*column}) > 1]
        if len(group) < _FEWEST_SECTIONS or len(varying) != 1:
            return {}
        sequences.append({*varying[0]})
        found[_difference(group[0][0], examples)] = natural_order([file for file, _ in group])
    common = set.intersection(*sequences)
    if len(found) < len(groups) or 2 * len(common) < max(map(len, sequences)):
        return {}
    if any(numbers != common for numbers in sequences):
        counts = ", ".join(f"{len(files)} like {_base(files[0])}" for files in found.values())
        raise SourceError(
            f"{url}: holds images of the same sections under several names ({counts}), but not all of each; complete "
            "them, name those of one kind with a pattern, or give the order with --list if each is a section."
        )
    return found


def _by_numbers(url: str, files: Sequence[str]) -> ChannelFiles:
    """Find names of one form with a number that counts channels; SourceError if one counts tiles."""
    split = [_tokens(file) for file in files]
    forms = {tuple("#" if token.isdigit() else token for token in tokens) for tokens in split}
    if len(forms) != 1:
        return {}
    places = [i for i, token in enumerate(split[0]) if token.isdigit()]
    values = {i: {int(tokens[i]) for tokens in split} for i in places}
    varying = [i for i in places if len(values[i]) > 1]
    combinations = {tuple(int(tokens[i]) for i in varying) for tokens in split}
    full = 1
    for i in varying:
        full *= len(values[i])
    if len(varying) < 2 or len(combinations) != len(files) or full != len(files):
        return {}
    words = {i: _word_before(split[0], i) for i in varying}
    if any(word in _TILE_WORDS for word in words.values()):
        raise SourceError(_tiles_message(url, files))
    counting = [i for i in varying if words[i] in _CHANNEL_WORDS]
    if len(counting) != 1 or len(varying) != 2 or len(values[counting[0]]) > _MOST_CHANNELS:
        return {}
    found: ChannelFiles = defaultdict(list)
    for file, tokens in zip(files, split, strict=True):
        found[f"{words[counting[0]]}{tokens[counting[0]]}"].append(file)
    return {name: natural_order(found[name]) for name in natural_order(list(found))}


def _tiles_message(url: str, files: Sequence[str]) -> str:
    return (
        f"{url}: holds tiles of sections ({shortened([_base(file) for file in files], limit=3)}), but a section is "
        "one image; stitch them first, or give the order with --list if each image is a section of its own."
    )


def _tokens(file: str) -> list[str]:
    """Split the name of a file into numbers and texts, without its suffix."""
    return _TOKEN.findall(_base(file).casefold().rpartition(".")[0])


def _base(file: str) -> str:
    return file.rpartition("/")[2]


def _word_before(tokens: Sequence[str], place: int) -> str:
    match = _LETTERS.search(tokens[place - 1]) if place else None
    return match[1] if match else ""


def _difference(name: str, examples: Sequence[str]) -> str:
    """Return the part of a name that other names of its section do not have: `BSD` of `s001_BSD.tif`."""
    words = re.split(r"[ _.-]+", _base(name))
    others = [re.split(r"[ _.-]+", _base(example).casefold()) for example in examples if example != name]
    own = [word for word in words if not word.isdigit() and not all(word.casefold() in other for other in others)]
    return "_".join(own) or _base(name)
