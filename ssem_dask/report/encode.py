"""Pictures as data URIs, so that a page needs no file beside it."""

import base64
import io

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from ssem_dask.types import AnyArray

_LOSSLESS = 1 << 17
"""Pixels up to which a picture is kept exactly; larger ones are worth fewer bytes."""
_QUALITY = 72


def gray_uri(image: NDArray[np.uint8]) -> str:
    """A gray picture (y, x): exact where it is small, JPEG where it is large."""
    return exact_uri(image) if image.size <= _LOSSLESS else _uri(image, "JPEG")


def jpeg_uri(image: NDArray[np.uint8]) -> str:
    """A gray (y, x) or colour (y, x, 3) picture as JPEG."""
    return _uri(image, "JPEG")


def exact_uri(image: NDArray[np.uint8]) -> str:
    """A gray (y, x) or colour (y, x, 3) picture as PNG: every value is kept."""
    return _uri(image, "PNG")


def stretched(image: AnyArray, *, low: float, high: float) -> NDArray[np.uint8]:
    """Intensities `low` … `high` as 0 … 255."""
    scaled = (image.astype(np.float32) - low) / max(high - low, 1e-6) * 255.0
    return np.asarray(scaled.round().clip(0, 255), dtype=np.uint8)


def limits(image: AnyArray) -> tuple[float, float]:
    """The 0.5th and 99.5th percentile of what is not 0 (0 is unknown)."""
    shown = image[image != 0]
    if shown.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(shown, [0.5, 99.5])
    return float(low), float(high)


def palette(levels: int) -> list[str]:
    """`levels` colours of cividis, dark to light: it reads the same with and without colour vision deficiency."""
    colours = colormaps["cividis"](np.linspace(0, 1, levels))[:, :3]
    return ["#" + "".join(f"{round(c * 255):02x}" for c in colour) for colour in colours]


def coloured(values: AnyArray) -> NDArray[np.uint8]:
    """Values 0 … 1 (y, x) by the same palette (y, x, 3); unknown (NaN) is gray."""
    rgb = (colormaps["cividis"](np.nan_to_num(values))[..., :3] * 255).round().astype(np.uint8)
    rgb[~np.isfinite(values)] = 128
    return np.asarray(rgb, dtype=np.uint8)


def _uri(image: NDArray[np.uint8], kind: str) -> str:
    stream = io.BytesIO()
    options = {"quality": _QUALITY} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(np.ascontiguousarray(image)).save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
