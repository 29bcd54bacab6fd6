"""The smoothness length L from the data: what shorter lengths add is asked whether it is distortion or tissue.

The fields of neighbours (k = 1) are found with several lengths. Going from one length to the next shorter one adds
Δ_z to the field of each section. Along z distortion and tissue differ (docs/decisions/0006): a distorted section is
displaced against both its neighbours, with opposite sign, so what it adds has the autocorrelation -½ at lag 1 and 0
from lag 2 on; the motion of tissue, and of outlines that the fields follow, goes on over several sections. With
autocorrelation r per section of the latter the share of distortion in Δ is

    q = 2 (ρ₂ / r - ρ₁),

and it is low where Δ is noise of the matching too. Where q rises above a limit, distortion is about to be lost: L is
somewhat less than the length at which that happens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.registration.encoders.encoder import encoder_on
from ssem_dask.registration.gauss_newton.gauss_newton_window import encoded_sections
from ssem_dask.registration.gauss_newton.solver import (
    DEFAULT_SMOOTHNESS,
    GaussNewtonConfig,
    NodeFields,
    feature_pyramid,
    register_pairs,
)
from ssem_dask.units import plural

LEAST_SECTIONS = 6
"""Fewer sections in a row give too few products at lag 2."""

_LENGTHS = tuple(16.0 * 2.0 ** (i / 2) for i in range(1, 4))  # px of the working image, tried for k = 1
_NATURAL = 0.9  # r, an upper bound (measured .7–.85 on FIB-SEM and VNC), so that q is a lower one
_DISTORTED = 0.3  # q from which on distortion is lost: undeformed sections stay below it (docs/decisions/0006)
_SHARE = 0.8  # L over the length at which distortion is lost: in several passes fields follow what is somewhat finer
_RANGE = (20.0, 24.0)  # px, of the choice: outside no measured deformation was followed much better
_BORDER = 64.0  # px at the border of a window, whose fields lean on one side only
_OUTLIER = 2.0  # times the median length of Δ
_LEAST_NODES = 16  # known nodes of a section, on average; fewer say nothing


@dataclass(frozen=True, slots=True)
class Step:
    """What fields of a shorter length add, in one window."""

    shorter: float
    """px of the working image."""
    longer: float
    added: float
    """Median length of Δ, px of the working image."""
    lag1: float
    """Autocorrelation of Δ along z."""
    lag2: float

    @property
    def distortion(self) -> float:
        """q: share of distortion in what is added."""
        return 2.0 * (self.lag2 / _NATURAL - self.lag1)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why."""

    smoothness: tuple[float, ...]
    """As in `GaussNewtonConfig`: one length for all neighbours, or the default."""
    reason: str


def probe_window(
    images: Tensor, *, valid: Tensor, grid: Grid, config: GaussNewtonConfig, device: torch.device | str
) -> tuple[Step, ...]:
    """Compare the lengths in one window.

    Args:
        images: `(z, y, x)` float32, coarse-aligned consecutive sections.
        valid: `(z, y, x)` bool, False where there is no tissue.
        grid: of the images' pixels, mip-0 px.
        config: of the solver; its smoothness and passes are not used.
        device: torch device to work on.

    Returns:
        A step between each two lengths, shortest first; empty where the window shows too little.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    if len(images) < LEAST_SECTIONS:
        return ()
    encoder = encoder_on(config.encoder, digest=config.encoder_digest, device=device)
    with torch.inference_mode():
        finest = encoded_sections(images, valid=valid, grid=grid, encoder=encoder, device=device)
        pyramid = feature_pyramid(finest, levels=max(config.levels) + 1)
        index = torch.arange(len(images), device=finest.features.device)
        fixed, moving = ([level.select(side) for level in pyramid] for side in (index[1:], index[:-1]))
        once = config.model_copy(update={"passes": 1})
        fields: list[NodeFields] = []
        for length in _LENGTHS:
            fields.append(
                register_pairs(fixed=fixed, moving=moving, image=grid, start=None, smoothness=length, config=once)
            )
        nodes = fields[0].nodes
        inner = _inner(nodes, image=grid)
        positions = nodes.positions(finest.features.device).expand(len(images), -1, -1, -1)
        shown = sample_batch(finest.valid[:, None], grid=finest.grid, positions=positions)[:, 0] > 0.5
        known = (shown[1:] & shown[:-1])[:, inner[0], inner[1]]
        if int(known.sum()) < _LEAST_NODES * len(known):
            return ()
        values = [field.values[:, :, inner[0], inner[1]] / grid.spacing for field in fields]
        return tuple(
            _step(values[i] - values[i + 1], known=known, shorter=_LENGTHS[i], longer=_LENGTHS[i + 1])
            for i in range(len(_LENGTHS) - 1)
        )


def choose_smoothness(windows: Sequence[Sequence[Step]], *, pixel_size: float) -> Choice:
    """Decide by the median over windows.

    Args:
        windows: what `probe_window` found in each; empty ones are left out.
        pixel_size: nm per px of the working image, for the sentence.
    """
    seen = [steps for steps in windows if steps]
    if not seen:
        return Choice(
            (DEFAULT_SMOOTHNESS,),
            f"{_lengths(DEFAULT_SMOOTHNESS, pixel_size)}, the default: the volume shows no {LEAST_SECTIONS} "
            "consecutive sections of tissue to choose it from",
        )
    shares = [float(np.median([steps[i].distortion for steps in seen])) for i in range(len(seen[0]))]
    middles = [math.sqrt(step.shorter * step.longer) for step in seen[0]]
    lost = _crossing(middles, shares)
    chosen = min(max(_SHARE * lost, _RANGE[0]), _RANGE[1])
    table = ", ".join(f"{share:.2f} at {middle:.0f} px" for share, middle in zip(shares, middles, strict=True))
    return Choice(
        (round(chosen, 1),),
        f"{_lengths(chosen, pixel_size)}, from {plural(len(seen), 'window')}: of what finer fields "
        f"add, the share that is distortion is {table} (above {_DISTORTED} it must not be lost)",
    )


def _lengths(smoothness: float, pixel_size: float) -> str:
    return f"smoothness {smoothness:.0f} px = {smoothness * pixel_size:.0f} nm"


def _crossing(middles: Sequence[float], shares: Sequence[float]) -> float:
    """The length at which the share first reaches the limit; infinite where it never does."""
    for i, share in enumerate(shares):
        if share < _DISTORTED:
            continue
        if i == 0:
            return middles[0]
        along = (_DISTORTED - shares[i - 1]) / (share - shares[i - 1])
        return float(middles[i - 1] * (middles[i] / middles[i - 1]) ** along)
    return math.inf


def _inner(nodes: Grid, *, image: Grid) -> tuple[slice, slice]:
    """The nodes that lie at least `_BORDER` inside the image."""
    ranges = []
    for axis in (0, 1):
        at = nodes.origin[axis] + (np.arange(nodes.shape[axis]) + 0.5) * nodes.spacing - image.origin[axis]
        border = _BORDER * image.spacing
        inside = np.flatnonzero((at >= border) & (at <= image.shape[axis] * image.spacing - border))
        ranges.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    return ranges[0], ranges[1]


def _step(added: Tensor, *, known: Tensor, shorter: float, longer: float) -> Step:
    """Autocorrelation along z of Δ `(z, 2, y, x)` where it is known `(z, y, x)`; outliers are shortened."""
    length = torch.linalg.vector_norm(added, dim=1)
    median = length[known].median()
    limit = (_OUTLIER * median).clamp(min=1e-6)
    clipped = added * (limit / length.clamp(min=limit))[:, None] * known[:, None]

    def product(lag: int) -> float:
        both = (known[lag:] & known[: len(known) - lag]).double().sum()
        return float((clipped[lag:] * clipped[: len(clipped) - lag]).double().sum() / both.clamp(min=1.0))

    power = max(product(0), 1e-12)
    return Step(
        shorter=round(shorter, 1),
        longer=round(longer, 1),
        added=round(float(median), 4),
        lag1=round(product(1) / power, 4),
        lag2=round(product(2) / power, 4),
    )
