"""Imaging of a section of tissue: stain, grain, blur, shot noise, contrast."""

from functools import lru_cache

import numpy as np

from ssem_dask.evaluation.phantom.organelles import bump, draw_mitochondria, draw_vesicles
from ssem_dask.evaluation.phantom.phantom_config import PhantomConfig
from ssem_dask.evaluation.phantom.randomness import hashed, mix, uniform
from ssem_dask.evaluation.phantom.tile import MARGIN, SIZE, Tissue
from ssem_dask.types import AnyArray, Float32Array

_GRAIN_STREAM, _STAIN_STREAM, _SECTION_STREAM, _SHOT_STREAM = 500, 520, 540, 560
_ROUNDING_NM = 6.0
_BANK_PX = 1024
_BANK_PIXEL_NM = 2.5
"""Pixel of the grain, which is looked up without interpolation and so is finer than the image."""


def image_of_tissue(config: PhantomConfig, tissue: Tissue) -> AnyArray:
    """Return the image of a tile `(SIZE, SIZE)` uint8; only its core is unaffected by the tile's border."""
    image = _stained(config, tissue)
    draw_vesicles(config, tissue, image)
    draw_mitochondria(config, tissue, image)
    _draw_membranes(config, tissue, image)
    image = _exposed(config, tissue, image)
    levels: AnyArray = np.clip(image * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
    return levels


def _stained(config: PhantomConfig, tissue: Tissue) -> Float32Array:
    """Return the cytoplasm with its grain, whose brightness depends on the neurite."""
    label, seed = tissue.neurites.label, config.seed
    dark = uniform(seed, _STAIN_STREAM, label) < 0.05
    light = np.where(dark, 0.43, 0.735) + 0.14 * (uniform(seed, _STAIN_STREAM + 1, label) - 0.5)
    grain = (0.65 + 0.7 * uniform(seed, _STAIN_STREAM + 2, label)) * config.texture
    image: Float32Array = light.astype(np.float32)[tissue.winner] + 0.05 * tissue.shade
    contrast = grain.astype(np.float32)[tissue.winner] * (1.0 + 0.25 * tissue.shade)
    image -= contrast * _grain(config, tissue)
    return image


def _grain(config: PhantomConfig, tissue: Tissue) -> Float32Array:
    """Return the grain of the cytoplasm `(SIZE, SIZE)`, half shared with the previous section, half with the next."""
    bank = _grain_bank(config.seed)
    row = _bank_index(tissue.y, tissue.centre[0])
    column = _bank_index(tissue.x, tissue.centre[1])
    total = np.zeros(row.shape, dtype=np.float32)
    for layer, weight in ((tissue.z, 0.8), (tissue.z + 1, 0.6)):
        offset = hashed(config.seed, _GRAIN_STREAM, layer, [0, 1]).astype(np.int32) & (_BANK_PX - 1)
        index = ((row + offset[0]) & (_BANK_PX - 1)) * np.int32(_BANK_PX)
        index += (column + offset[1]) & (_BANK_PX - 1)
        total += np.float32(weight) * bank[index]
    return total


def _bank_index(position: Float32Array, centre: float) -> np.ndarray:
    """Return the bank row or column of each position, before wrapping."""
    whole = int(centre // _BANK_PIXEL_NM)
    offset = np.float32(centre / _BANK_PIXEL_NM - whole)
    index: np.ndarray = np.floor(position / _BANK_PIXEL_NM + offset).astype(np.int32)
    index += whole & (_BANK_PX - 1)
    return index


@lru_cache(maxsize=4)
def _grain_bank(seed: int) -> Float32Array:
    """Return a periodic plane of dark grains of 20 to 40 nm, flattened; mean about 0.07, no value below 0."""
    rows = hashed(seed, _GRAIN_STREAM + 1, np.arange(_BANK_PX))
    columns = hashed(seed, _GRAIN_STREAM + 2, np.arange(_BANK_PX))
    white = mix(rows[:, None] ^ columns[None, :]).astype(np.float64) * 2.0**-32 - 0.5
    fy, fx = np.fft.fftfreq(_BANK_PX, _BANK_PIXEL_NM), np.fft.rfftfreq(_BANK_PX, _BANK_PIXEL_NM)
    frequency = np.hypot(fy[:, None], fx[None, :])
    spectrum = np.fft.rfft2(white)

    def filtered(sigma: float) -> AnyArray:
        smooth = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * sigma * frequency) ** 2), (_BANK_PX, _BANK_PX))
        return np.asarray(smooth / smooth.std())

    fine, coarse = filtered(5.5), filtered(30.0)
    grains = 0.42 * np.tanh(0.8 * np.maximum(fine + 0.4 * coarse - 0.3, 0.0))
    bank = grains.astype(np.float32).reshape(-1)
    bank.flags.writeable = False
    return bank


def _draw_membranes(config: PhantomConfig, tissue: Tissue, image: Float32Array) -> None:
    """Draw two dark membranes with a lighter cleft; oblique ones are wide and gray, heavily stained ones thick."""
    # Membranes have rounded corners, unlike the partition of the plane.
    border = _blurred(tissue.border, sigma=_ROUNDING_NM / config.pixel_size)
    obliqueness = np.clip(0.7 * tissue.shade, -0.6, 1.6)
    membrane = bump((border - 7.0) / (11.0 + 8.0 * obliqueness))
    near = border < 7.0
    membrane = np.where(near, np.maximum(membrane, 0.86), membrane)
    membrane *= 0.70 - 0.14 * np.maximum(obliqueness, 0.0)
    membrane += 0.22 * bump(border / (38.0 + 12.0 * obliqueness))
    image *= 1.0 - np.minimum(membrane, 0.88)
    image += 0.02


def _exposed(config: PhantomConfig, tissue: Tissue, image: Float32Array) -> Float32Array:
    """Apply blur, shot noise, and the contrast and brightness of the section."""
    seed, z = config.seed, tissue.z
    sigma = min(config.blur / config.pixel_size, 1.5)
    image = _blurred(image, sigma=sigma)
    if config.noise:
        rows = hashed(seed, _SHOT_STREAM, z, tissue.start[0] + np.arange(SIZE))
        columns = hashed(seed, _SHOT_STREAM + 1, z, tissue.start[1] + np.arange(SIZE))
        bits = mix(rows[:, None] ^ columns[None, :])
        # The sum of two 16-bit numbers is triangular; after the detector's blur it is close to normal.
        shot = (bits & np.uint32(0xFFFF)).astype(np.float32) + (bits >> np.uint32(16)).astype(np.float32)
        shot = (shot - 65535.0) * np.float32(6.0**0.5 / 65536.0)
        shot *= np.sqrt(np.maximum(image, 0.02)) * np.float32(0.185 * config.noise * 5.0 / config.pixel_size)
        image = image + _blurred(shot, sigma=0.65)
    normal = np.float32(12.0**0.5) * (uniform(seed, _SECTION_STREAM, z, [0, 1, 2, 3]) - 0.5)
    contrast = 1.0 + config.section_contrast * normal[0]
    return np.asarray((image - 0.5) * contrast + 0.5 + config.section_brightness * normal[1], dtype=np.float32)


def _blurred(image: Float32Array, *, sigma: float) -> Float32Array:
    """Apply a Gaussian blur of at most `MARGIN // 2` px on each side; the outermost pixels are repeated."""
    if sigma <= 0:
        return image
    reach = max(1, min(MARGIN // 2, int(np.ceil(2.5 * sigma))))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(image, pad, mode="edge")
        total = np.zeros_like(image)
        for tap, weight in enumerate(kernel):
            total += weight * (padded[tap : tap + SIZE] if axis == 0 else padded[:, tap : tap + SIZE])
        image = total
    return image
