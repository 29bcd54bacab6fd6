"""Whether the aligned volume is compressed: what a sample of the source says.

Electron micrographs that were stored as they came from the detector are nearly noise. Then compression takes most of
the CPU time of reading and writing, and saves next to nothing.
"""

import itertools
import math

import numpy as np
from numcodecs import Zstd

from ssem_dask.errors import SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

LEAST_SAVING = 0.1
"""Share of the bytes that compression must save. One core compresses 200 to 500 MB per second, so below this a second
of CPU time saves less than 20 to 50 MB."""
_LEVEL = 3
_SIDE_PX = 256
_CHEAP_PIXELS = 2048 * 2048
"""Pixels of a chunk's section up to which many chunks are read."""
_PLACES = (0.25, 0.5, 0.75)
"""Where the sample is taken, as shares of the extent: in all sections of the middle chunk."""


def choose_codec(config: RenderStageConfig, source: Volume, *, recorded: str | None) -> tuple[RenderStageConfig, str]:
    """Choose how the aligned volume is compressed, if the user left it open.

    Args:
        config: table of stage render.
        source: the source.
        recorded: choice of the run that is at the output, which stays; None: there is no run.

    Returns:
        The table, and a line on the choice; an empty one if there was nothing to choose.
    """
    if config.codec != "auto":
        return config, ""
    if recorded is not None:
        return config.model_copy(update={"codec": recorded}), f'render.codec = "{recorded}": as this run has it'
    saving = sampled_saving(source)
    if saving is None:
        return config.model_copy(update={"codec": "zstd"}), 'render.codec = "zstd": a sample of the source is blank'
    codec = "zstd" if saving >= LEAST_SAVING else "none"
    return (
        config.model_copy(update={"codec": codec}),
        f'render.codec = "{codec}": zstd saves {100 * saving:.0f} % of a sample of the source',
    )


def sampled_saving(source: Volume) -> float | None:
    """Return the share of bytes that zstd saves in a sample of some places; None if nothing is to be seen there.

    A place that cannot be read is left out: the tasks that need it will report it.
    """
    z, y, x = source.info.shape
    _, down, right = source.chunk(0)
    # Of large chunks few are read, since each is decoded as a whole.
    is_cheap = down * right <= _CHEAP_PIXELS
    depth = min(8 if is_cheap else 1, z)
    first = (z - depth) // 2
    places = itertools.product(_PLACES, _PLACES) if is_cheap else zip(_PLACES, _PLACES, strict=True)
    stored, kept = 0, 0
    codec = Zstd(level=_LEVEL)
    for share_y, share_x in places:
        top, left = (_start(n, share) for n, share in ((y, share_y), (x, share_x)))
        box = Box((first, top, left), (first + depth, min(top + _SIDE_PX, y), min(left + _SIDE_PX, x)))
        try:
            pixels = source.read(box)
        except SourceError:
            continue
        if not _is_blank(pixels):
            stored += pixels.nbytes
            kept += len(codec.encode(np.ascontiguousarray(pixels)))
    return 1 - kept / stored if stored else None


def _start(extent: int, share: float) -> int:
    """Return the first pixel of a sample along an axis."""
    return max(0, min(math.floor(extent * share) - _SIDE_PX // 2, extent - _SIDE_PX))


def _is_blank(pixels: AnyArray) -> bool:
    return bool((pixels == pixels.flat[0]).all())
