"""Registration of a window that checks its own result: pairs that fail are searched wider once, then given up.

The wide search cross-correlates the two whole windows, at any shift that leaves a quarter of them in common, and
registers from the best shift. A pair that fails again becomes unknown with confidence 0, which composition bridges. If
only few of its nodes were found, these few stay: each was judged on its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssem_dask.registration.coarse_alignment.phase import fixed_spectra, moving_spectra, score_candidates
from ssem_dask.registration.gauss_newton.gauss_newton_window import SEARCH_RANGE_PX
from ssem_dask.registration.methods import RegisterConfig, register_window
from ssem_dask.registration.pair_check import POOL_FACTOR, check_pairs, flatten_background, prepare_check
from ssem_dask.registration.registration_method import PairFields, PairRequest, WindowImages

_MIN_OVERLAP = 0.25


@dataclass(frozen=True, slots=True)
class PairFault:
    """A pair that did not pass its check."""

    k: int
    """Distance of the two sections."""
    z: int
    """Index of the fixed section in the window."""
    reason: str
    recovered: bool
    """Whether the wide search found the pair."""


@dataclass(frozen=True, slots=True)
class CheckedPairs:
    """Pair fields of a window, and the pairs that did not pass their check at first."""

    pairs: PairFields
    faults: list[PairFault]


def register_checked(
    window: WindowImages, request: PairRequest, *, config: RegisterConfig, device: torch.device | str
) -> CheckedPairs:
    """Register a window, and check every pair of it; arguments and errors are those of `register_window`."""
    registered = register_window(window, request, config=config, device=device)
    if not request.pairs:
        return CheckedPairs(registered, [])
    fields, confidence = registered.fields, registered.confidence
    images, valid = window.images.to(fields.device), window.valid.to(fields.device)
    check = prepare_check(images, valid=valid, image=window.grid, nodes=request.nodes, untied=window.untied)
    rows = [(z - other - 1, z - request.core.start) for z, other in request.pairs]
    checks = check_pairs(
        torch.stack([fields[row] for row in rows]),
        pairs=request.pairs,
        check=check,
        search_range=SEARCH_RANGE_PX * window.grid.spacing,
    )
    faults = []
    for (z, other), row, defect in zip(request.pairs, rows, checks, strict=True):
        if defect is None:
            continue
        if (z, other) in window.points:
            # A wide search knows nothing of the points, and would find again what they contradict.
            faults.append(PairFault(z - other, z, defect.reason, recovered=False))
            continue
        pair = WindowImages(images=images[[other, z]], valid=valid[[other, z]], grid=window.grid)
        wide = _wide_search(pair, request, config=config, device=device)
        if wide is not None:
            whole_window = max(window.grid.shape) * window.grid.spacing
            (second,) = check_pairs(wide.fields[0], pairs=[(z, other)], check=check, search_range=whole_window)
            if second is not None:
                wide = None
        faults.append(PairFault(z - other, z, defect.reason, recovered=wide is not None))
        if wide is not None:
            fields[row], confidence[row] = wide.fields[0, 0], wide.confidence[0, 0]
        elif not defect.keeps_nodes:
            fields[row], confidence[row] = torch.nan, 0.0
    return CheckedPairs(PairFields(fields, confidence), faults)


def _wide_search(
    pair: WindowImages, request: PairRequest, *, config: RegisterConfig, device: torch.device | str
) -> PairFields | None:
    """Register a pair (moving, fixed) from the best shift of the whole windows; None if no shift is possible."""
    shift = _best_shift(fixed=pair.images[1], moving=pair.images[0], valid=(pair.valid[1], pair.valid[0]))
    if shift is None:
        return None
    shifted = WindowImages(
        images=torch.stack([_shift(pair.images[0], shift), pair.images[1]]),
        valid=torch.stack([_shift(pair.valid[0], shift), pair.valid[1]]),
        grid=pair.grid,
    )
    only_pair = PairRequest(nodes=request.nodes, core=range(1, 2), neighbours=1)
    registered = register_window(shifted, only_pair, config=config, device=device)
    # Tissue at p in the shifted section is at p + shift in the section itself.
    offset = registered.fields.new_tensor(shift)[:, None, None] * pair.grid.spacing
    return PairFields(registered.fields + offset, registered.confidence)


def _best_shift(*, fixed: Tensor, moving: Tensor, valid: tuple[Tensor, Tensor]) -> tuple[int, int] | None:
    """Find the shift s, px of the image, for which moving(p + s) resembles fixed(p) most."""
    a, a_mask = (image.cpu() for image in flatten_background(fixed, mask=valid[0]))
    b, b_mask = (image.cpu() for image in flatten_background(moving, mask=valid[1]))
    if not a_mask.any() or not b_mask.any():
        return None
    shape = a.shape[0], a.shape[1]
    max_shift = shape[0] // 2, shape[1] // 2
    fixed_side = fixed_spectra(a, mask=a_mask, max_shift=max_shift)
    moving_side = moving_spectra(b, mask=b_mask, angles=torch.zeros(1), max_shift=max_shift)
    score, enough = score_candidates(
        fixed_side, moving_side, shape=shape, max_shift=max_shift, min_overlap=_MIN_OVERLAP
    )
    score = torch.where(enough, score, torch.full_like(score, -torch.inf))[0]
    if not torch.isfinite(score).any():
        return None
    best = int(score.argmax())
    row, column = best // score.shape[1], best % score.shape[1]
    return (row - max_shift[0]) * POOL_FACTOR, (column - max_shift[1]) * POOL_FACTOR


def _shift(image: Tensor, shift: tuple[int, int]) -> Tensor:
    """Compute image(p + shift), 0 (False) outside."""
    out = torch.zeros_like(image)
    target, source = [], []
    for s, n in zip(shift, image.shape, strict=True):
        target.append(slice(max(0, -s), min(n, n - s)))
        source.append(slice(max(0, s), min(n, n + s)))
    out[tuple(target)] = image[tuple(source)]
    return out
