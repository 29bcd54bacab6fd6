"""Opaque regions: wide parts of a section that are darker or brighter than its neighbours are anywhere.

A fold, a lump of dirt or the resin in a crack shows no tissue, but its rim is the strongest edge of the image. Where
the tissue beside it is bland, that edge would pull a pair field by many pixels. Unlike damage (`damage`), an opaque
region is not found by what the neighbours show at its place, so tissue is hardly ever taken for one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from ssem_dask.image.pooling import pool
from ssem_dask.types import Float32Array, Float64Array

_POOL_FACTOR = 4  # px that become one
_REACH = 3  # sections on either side that are neighbours
_SHARES = (0.01, 0.1, 0.25, 0.75, 0.9, 0.99)
"""Shares of the tissue that are below the levels of a profile; the first and the last level are its range."""
_OPAQUE_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7)
_UNLIKE = 0.4  # levels by which a profile differs from its neighbours' at least if a part is opaque; tissue: 0.2
_CLEARLY = 0.6  # share of that difference that may be left without the opaque part
_MARGIN = 0.15  # of that range, beyond which no tissue is
_LEAST_SIDE = 4  # pooled px, side of the smallest square that counts
_GROWN = 2  # pooled px around a region that belong to it: its blurred rim
_SAMPLES_SIDE = 256  # pooled px of a section from which levels are taken, along either axis
_LEAST_KNOWN = 4096  # of these; smaller windows may show one kind of tissue only
_MOST = 0.5  # share of the section; more is another kind of image, of which registration decides


@dataclass(frozen=True, slots=True)
class _Section:
    """A pooled section."""

    values: Float[Tensor, "h w"]
    known: Bool[Tensor, "h w"]
    sample: Float32Array
    """Some of the known values."""


@dataclass(frozen=True, slots=True)
class _Profile:
    """How the grey values of a section are distributed."""

    middle: float
    """Their median: level 0."""
    unit: float
    """Their median deviation from it: level 1."""
    levels: Float64Array
    """Levels below which `_SHARES` of the values are."""


def find_opaque_regions(images: Float[Tensor, "z y x"], *, valid: Bool[Tensor, "z y x"]) -> Bool[Tensor, "z y x"]:
    """Find the opaque regions of consecutive sections.

    Args:
        images: coarse-aligned sections, any intensity unit; sections may differ in brightness and contrast.
        valid: False where there is no tissue.

    Returns:
        True in opaque regions and up to 12 px around them, where `valid`.
    """
    sections = [_pooled(image, mask) for image, mask in zip(images, valid, strict=True)]
    profiles = [_profile(section.sample) if section.sample.size >= _LEAST_KNOWN else None for section in sections]
    opaque = torch.zeros_like(valid)
    for z, section in enumerate(sections):
        near = [p.levels for i, p in enumerate(profiles) if p is not None and 0 < abs(i - z) <= _REACH]
        if near and profiles[z] is not None:
            found = _beyond(section, usual=np.median(near, axis=0))
            if found is not None:
                wide = found.repeat_interleave(_POOL_FACTOR, 0).repeat_interleave(_POOL_FACTOR, 1)
                opaque[z] = wide[: opaque.shape[1], : opaque.shape[2]]
    return opaque & valid


def _pooled(image: Tensor, mask: Tensor) -> _Section:
    share = pool(mask.float(), _POOL_FACTOR)
    values = pool(image * mask, _POOL_FACTOR) / share.clamp(min=1e-6)
    known = share > 0.5
    steps = tuple(slice(None, None, max(1, n // _SAMPLES_SIDE)) for n in values.shape)
    return _Section(values, known, values[steps][known[steps]].cpu().numpy())


def _profile(sample: Float32Array) -> _Profile:
    middle = float(np.median(sample))
    unit = max(float(np.median(np.abs(sample - middle))), 1e-6)
    return _Profile(middle, unit, np.asarray((np.quantile(sample, _SHARES) - middle) / unit))


def _tissue_profile(sample: Float32Array, usual: Float64Array) -> _Profile:
    """Return the profile of a sample, or without a dark or bright share if that is clearly more like the usual one.

    A wide fold shifts median and deviation so much that it would seem to be in their range.
    """
    ordered = np.sort(sample)
    profiles = [_profile(ordered)]
    if float(np.abs(profiles[0].levels - usual).max()) < _UNLIKE:
        return profiles[0]
    for share in _OPAQUE_SHARES:
        count = int(share * ordered.size)
        profiles += [_profile(ordered[count:]), _profile(ordered[: ordered.size - count])]
    unlike = [float(np.abs(profile.levels - usual).max()) for profile in profiles]
    best = int(np.argmin(unlike))
    return profiles[best] if unlike[best] < _CLEARLY * unlike[0] else profiles[0]


def _beyond(section: _Section, *, usual: Float64Array) -> Bool[Tensor, "h w"] | None:
    """Return where a section is outside the range of its neighbours' levels, in wide regions and a rim around these."""
    values, known = section.values, section.known
    if min(values.shape) < _LEAST_SIDE:
        return None
    tissue, low, high = _tissue_profile(section.sample, usual), usual[0], usual[-1]
    margin = _MARGIN * (high - low)
    sides = (
        values < tissue.middle + float(low - margin) * tissue.unit,
        values > tissue.middle + float(high + margin) * tissue.unit,
    )
    squares = torch.stack([avg_pool2d((known & side).float()[None], _LEAST_SIDE, stride=1)[0] for side in sides]) >= 1.0
    found = squares.any(dim=0)
    if not found.any():
        return None
    rim = _LEAST_SIDE - 1 + _GROWN
    grown = max_pool2d(pad(found.float()[None], [rim] * 4), _LEAST_SIDE + 2 * _GROWN, stride=1)[0] > 0
    return None if (grown & known).sum() > _MOST * known.sum() else grown
