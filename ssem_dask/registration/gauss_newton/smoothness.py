"""Choice of the smoothness length L from the data, by whether shorter lengths add distortion or tissue.

The fields of neighbours (k = 1) are found with several lengths. Going from one length to the next shorter one adds
Δ_z to the field of each section. Along z distortion and tissue differ (docs/decisions/0006): a distorted section is
displaced against both its neighbours, with opposite sign, so what it adds has the autocorrelation -½ at lag 1 and 0
from lag 2 on. The motion of tissue, and of outlines that the fields follow, extends over several sections. If the
autocorrelation of the latter is r per section, the share of distortion in Δ is

    q = 2 (ρ₂ / r - ρ₁),

and it is also low if Δ is noise of the matching. If q rises above a limit, distortion is about to be lost: L is chosen
somewhat below the length at which that happens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.registration.encoders.encoder import encoder_on
from ssem_dask.registration.gauss_newton.encoded_sections import encode_sections
from ssem_dask.registration.gauss_newton.solver import (
    DEFAULT_SMOOTHNESS,
    GaussNewtonConfig,
    NodeFields,
    PairBatch,
    feature_pyramid,
    register_pairs,
)
from ssem_dask.registration.registration_method import WindowImages
from ssem_dask.units import plural

LEAST_SECTIONS = 6
"""Fewer sections in a row give too few products at lag 2."""

_LENGTHS = tuple(16.0 * 2.0 ** (i / 2) for i in range(1, 4))  # px of the working image, tried for k = 1
# r: an upper bound, so that q is a lower one; 0.7 to 0.85 were measured on FIB-SEM and VNC.
_NATURAL_AUTOCORRELATION = 0.9
_DISTORTION_LIMIT = 0.3  # q above which distortion is lost: undeformed sections stay below it (docs/decisions/0006)
# L over the length at which distortion is lost: in several passes fields follow somewhat finer deformations.
_LENGTH_FACTOR = 0.8
_CHOICE_RANGE = (20.0, 24.0)  # px: outside no measured deformation was followed much better
_BORDER = 64.0  # px at the border of a window, whose fields are supported from one side only
_MAX_RELATIVE_LENGTH = 2.0  # over the median length of Δ; longer vectors are outliers and are shortened
_LEAST_NODES = 16  # known nodes per section, on average; with fewer the autocorrelation is noise


@dataclass(frozen=True, slots=True)
class LengthStep:
    """Difference between the fields of two smoothness lengths, in one window."""

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
        """q: share of distortion in the difference."""
        return 2.0 * (self.lag2 / _NATURAL_AUTOCORRELATION - self.lag1)


@dataclass(frozen=True, slots=True)
class SmoothnessChoice:
    """The smoothness length that was chosen, and why."""

    smoothness: tuple[float, ...]
    """Value of `GaussNewtonConfig.smoothness`: one length for all neighbours, or the default."""
    reason: str


def probe_window(
    window: WindowImages, *, config: GaussNewtonConfig, device: torch.device | str
) -> tuple[LengthStep, ...]:
    """Compare the lengths in one window.

    Args:
        window: coarse-aligned consecutive sections.
        config: the solver's parameters; its smoothness and passes are not used.
        device: torch device to work on.

    Returns:
        A step between each two lengths, shortest first; empty if the window shows too little.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    sections, grid = len(window.images), window.grid
    if sections < LEAST_SECTIONS:
        return ()
    encoder = encoder_on(config.encoder, digest=config.encoder_digest, device=device)
    with torch.inference_mode():
        finest = encode_sections(window, encoder=encoder, device=device)
        pyramid = feature_pyramid(finest, levels=max(config.levels) + 1)
        index = torch.arange(sections, device=finest.features.device)
        fixed, moving = ([level.select(side) for level in pyramid] for side in (index[1:], index[:-1]))
        # Neighbours only: the autocorrelations of the module's docstring are those of k = 1.
        batch = PairBatch(fixed=fixed, moving=moving, image_grid=grid)
        # Passes would follow deformations finer than the length, and blur the difference between lengths.
        one_pass = config.model_copy(update={"passes": 1})
        fields: list[NodeFields] = [
            register_pairs(batch, start=None, smoothness=length, config=one_pass).fields for length in _LENGTHS
        ]
        nodes = fields[0].nodes
        inner = _inner(nodes, image=grid)
        positions = nodes.positions(finest.features.device).expand(sections, -1, -1, -1)
        shown = sample_batch(finest.valid[:, None], grid=finest.grid, positions=positions)[:, 0] > 0.5
        known = (shown[1:] & shown[:-1])[:, inner[0], inner[1]]
        if int(known.sum()) < _LEAST_NODES * len(known):
            return ()
        values = [field.values[:, :, inner[0], inner[1]] / grid.spacing for field in fields]
        return tuple(
            measure_step(values[i] - values[i + 1], known=known, shorter=_LENGTHS[i], longer=_LENGTHS[i + 1])
            for i in range(len(_LENGTHS) - 1)
        )


def choose_smoothness(windows: Sequence[Sequence[LengthStep]], *, pixel_size: float) -> SmoothnessChoice:
    """Choose the length by the median over windows.

    Args:
        windows: results of `probe_window`; empty ones are left out.
        pixel_size: nm per px of the working image, for the reason.
    """
    probed = [steps for steps in windows if steps]
    if not probed:
        return SmoothnessChoice(
            (DEFAULT_SMOOTHNESS,),
            f"{_lengths(DEFAULT_SMOOTHNESS, pixel_size)}, the default: the volume shows no {LEAST_SECTIONS} "
            "consecutive sections of tissue to choose it from",
        )
    shares = [float(np.median([steps[i].distortion for steps in probed])) for i in range(len(probed[0]))]
    middles = [math.sqrt(step.shorter * step.longer) for step in probed[0]]
    # Distortion is lost at the first length whose added part is mainly distortion.
    lost = _crossing(middles, shares)
    chosen = min(max(_LENGTH_FACTOR * lost, _CHOICE_RANGE[0]), _CHOICE_RANGE[1])
    table = ", ".join(f"{share:.2f} at {middle:.0f} px" for share, middle in zip(shares, middles, strict=True))
    return SmoothnessChoice(
        (round(chosen, 1),),
        f"{_lengths(chosen, pixel_size)}, from {plural(len(probed), 'window')}: of what finer fields "
        f"add, the share that is distortion is {table} (above {_DISTORTION_LIMIT} it must not be lost)",
    )


def _lengths(smoothness: float, pixel_size: float) -> str:
    return f"smoothness {smoothness:.0f} px = {smoothness * pixel_size:.0f} nm"


def _crossing(middles: Sequence[float], shares: Sequence[float]) -> float:
    """Interpolate the length at which the share first reaches the limit; infinite if it never does."""
    for i, share in enumerate(shares):
        if share < _DISTORTION_LIMIT:
            continue
        if i == 0:
            return middles[0]
        along = (_DISTORTION_LIMIT - shares[i - 1]) / (share - shares[i - 1])
        return float(middles[i - 1] * (middles[i] / middles[i - 1]) ** along)
    return math.inf


def _inner(nodes: Grid, *, image: Grid) -> tuple[slice, slice]:
    """Select the nodes that are at least `_BORDER` inside the image."""
    ranges = []
    for axis in (0, 1):
        at = nodes.origin[axis] + (np.arange(nodes.shape[axis]) + 0.5) * nodes.spacing - image.origin[axis]
        border = _BORDER * image.spacing
        inside = np.flatnonzero((at >= border) & (at <= image.shape[axis] * image.spacing - border))
        ranges.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    return ranges[0], ranges[1]


def measure_step(
    added: Float[Tensor, "z 2 y x"], *, known: Bool[Tensor, "z y x"], shorter: float, longer: float
) -> LengthStep:
    """Compute the autocorrelation of Δ along z where it is known; outliers are shortened."""
    length = torch.linalg.vector_norm(added, dim=1)
    median = length[known].median()
    limit = (_MAX_RELATIVE_LENGTH * median).clamp(min=1e-6)
    clipped = added * (limit / length.clamp(min=limit))[:, None] * known[:, None]

    def product(lag: int) -> float:
        both = (known[lag:] & known[: len(known) - lag]).double().sum()
        return float((clipped[lag:] * clipped[: len(clipped) - lag]).double().sum() / both.clamp(min=1.0))

    power = max(product(0), 1e-12)
    return LengthStep(
        shorter=round(shorter, 1),
        longer=round(longer, 1),
        added=round(float(median), 4),
        lag1=round(product(1) / power, 4),
        lag2=round(product(2) / power, 4),
    )
