"""Phase correlation of neighbouring sections, the oldest method there is: a shift per section, and nothing else."""

import numpy as np

TITLE = "shift by phase correlation"


def align(images: "np.ndarray", *, pixel_size: float, section_thickness: float) -> "np.ndarray":
    """Return a matrix per section: its shift against the one before, added up."""
    maps = np.tile(np.eye(3), (len(images), 1, 1))
    for z in range(1, len(images)):
        maps[z, :2, 2] = maps[z - 1, :2, 2] + _shift(fixed=images[z - 1], moving=images[z])
    return maps


def _shift(*, fixed: "np.ndarray", moving: "np.ndarray") -> "np.ndarray":
    """Return (x, y): what is at p in the fixed section is at p + shift in the moving one."""
    a, b = (np.fft.rfft2(_tapered(image)) for image in (fixed, moving))
    product = b * a.conj()
    peak = np.fft.irfft2(product / np.maximum(np.abs(product), 1e-9), s=fixed.shape)
    y, x = np.unravel_index(np.argmax(peak), peak.shape)
    wrapped = [int(i) - n if i > n // 2 else int(i) for i, n in zip((y, x), fixed.shape, strict=True)]
    return np.array(wrapped[::-1], dtype=np.float64)


def _tapered(image: "np.ndarray") -> "np.ndarray":
    """Return an image without its mean, faded out to its border."""
    rows, columns = (np.hanning(n) for n in image.shape)
    return (image - image.mean()) * rows[:, None] * columns
