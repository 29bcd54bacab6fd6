"""Pictures as `data:` URIs, so that a page is one file."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssem_dask.types import AnyArray

_LOSSLESS_PIXELS = 1 << 17
"""Largest picture that is stored losslessly; larger ones become JPEG."""
_JPEG_QUALITY = 72


def gray_uri(image: NDArray[np.uint8]) -> str:
    """Return a gray picture (y, x): lossless if it is small, otherwise JPEG."""
    return exact_uri(image) if image.size <= _LOSSLESS_PIXELS else _uri(image, "JPEG")


def jpeg_uri(image: NDArray[np.uint8]) -> str:
    """Return a gray (y, x) or colour (y, x, 3) picture as JPEG."""
    return _uri(image, "JPEG")


def exact_uri(image: NDArray[np.uint8]) -> str:
    """Return a gray (y, x) or colour (y, x, 3) picture as PNG, which keeps every value."""
    return _uri(image, "PNG")


def palette(levels: int) -> list[str]:
    """Return `levels` colours of cividis, dark to light, readable with and without colour vision deficiency.

    Colour map: Nuñez, Anderton & Renslow 2018, https://doi.org/10.1371/journal.pone.0199239.
    """
    from matplotlib import colormaps  # slow to import, and not needed by those who only read a report's data

    colours = colormaps["cividis"](np.linspace(0, 1, levels))[:, :3]
    return ["#" + "".join(f"{round(c * 255):02x}" for c in colour) for colour in colours]


def colourise(values: AnyArray) -> NDArray[np.uint8]:
    """Return values 0 … 1 (y, x) in colours of the same palette (y, x, 3); unknown (NaN) is gray."""
    from matplotlib import colormaps

    rgb = (colormaps["cividis"](np.nan_to_num(values))[..., :3] * 255).round().astype(np.uint8)
    rgb[~np.isfinite(values)] = 128
    return np.asarray(rgb, dtype=np.uint8)


def _uri(image: NDArray[np.uint8], kind: str) -> str:
    stream = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(np.ascontiguousarray(image)).save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
