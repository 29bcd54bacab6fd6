"""Registration of a window that checks its own result: what fails is tried again with a wider search, then given up.

The wider search lays the whole windows of the two sections on each other by correlation, at any shift that leaves a
quarter of them in common, and registers from there. A pair that fails again becomes unknown with confidence 0, which
composition bridges; where only few nodes were found, these few stay, each of which was judged on its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.registration.coarse_alignment.phase import scores, still_spectra, turned_spectra
from ssem_dask.registration.gauss_newton.gauss_newton_window import SEARCH_RANGE
from ssem_dask.registration.methods import RegisterConfig, register_window
from ssem_dask.registration.pair_check import POOLED, UNMATCHED, faults_of, flattened, looks_of
from ssem_dask.registration.pairs import PairFields

_LEAST_OVERLAP = 0.25


@dataclass(frozen=True, slots=True)
class Fault:
    """A pair that did not pass."""

    k: int
    z: int
    """Index in the window of the fixed section."""
    reason: str
    mended: bool
    """Whether the wider search found it."""


def gated_window(
    images: Tensor,
    *,
    valid: Tensor,
    grid: Grid,
    nodes: Grid,
    core: range,
    neighbours: int,
    config: RegisterConfig,
    device: torch.device | str,
    tears: Tensor | None = None,
) -> tuple[PairFields, list[Fault]]:
    """Register a window, and check every pair of it; arguments and errors as of `register_window`."""
    found = register_window(
        images,
        valid=valid,
        grid=grid,
        nodes=nodes,
        core=core,
        neighbours=neighbours,
        config=config,
        device=device,
        tears=tears,
    )
    fields, confidence = found.fields, found.confidence
    pairs = [(z, z - k) for k in range(1, neighbours + 1) for z in core if z >= k]
    if not pairs:
        return found, []
    images, valid = images.to(fields.device), valid.to(fields.device)
    looks = looks_of(images, valid=valid, image=grid, nodes=nodes)
    found_of = torch.stack([fields[z - other - 1, z - core.start] for z, other in pairs])
    reasons = faults_of(found_of, pairs=pairs, looks=looks, nodes=nodes, reach=SEARCH_RANGE * grid.spacing)
    faults = []
    for (z, other), reason in zip(pairs, reasons, strict=True):
        if not reason:
            continue
        at = z - other - 1, z - core.start
        wider = _wider(images[[other, z]], valid[[other, z]], grid, nodes, config, device)
        far = max(grid.shape) * grid.spacing
        mended = (
            wider is not None
            and not faults_of(wider.fields[0], pairs=[(z, other)], looks=looks, nodes=nodes, reach=far)[0]
        )
        faults.append(Fault(z - other, z, reason, mended))
        if mended:
            assert wider is not None
            fields[at], confidence[at] = wider.fields[0, 0], wider.confidence[0, 0]
        elif not reason.endswith(UNMATCHED):
            fields[at], confidence[at] = torch.nan, 0.0
    return PairFields(fields, confidence), faults


def _wider(
    images: Tensor, valid: Tensor, grid: Grid, nodes: Grid, config: RegisterConfig, device: torch.device | str
) -> PairFields | None:
    """The pair (moving, fixed) registered from the best shift of the whole windows; None where none stands out."""
    shift = _best_shift(fixed=images[1], moving=images[0], valid=(valid[1], valid[0]))
    if shift is None:
        return None
    moved, mask = _shifted(images[0], shift), _shifted(valid[0], shift)
    found = register_window(
        torch.stack([moved, images[1]]),
        valid=torch.stack([mask, valid[1]]),
        grid=grid,
        nodes=nodes,
        core=range(1, 2),
        neighbours=1,
        config=config,
        device=device,
    )
    # What lies at p in the shifted section lies at p + shift in the section itself.
    offset = found.fields.new_tensor(shift)[:, None, None] * grid.spacing
    return PairFields(found.fields + offset, found.confidence)


def _best_shift(*, fixed: Tensor, moving: Tensor, valid: tuple[Tensor, Tensor]) -> tuple[int, int] | None:
    """The shift s, px of the image, for which moving(p + s) resembles fixed(p) most."""
    a, a_mask = (of.cpu() for of in flattened(fixed, mask=valid[0]))
    b, b_mask = (of.cpu() for of in flattened(moving, mask=valid[1]))
    if not a_mask.any() or not b_mask.any():
        return None
    shape = a.shape[0], a.shape[1]
    reach = shape[0] // 2, shape[1] // 2
    still = still_spectra(a, mask=a_mask, reach=reach)
    turned = turned_spectra(b, mask=b_mask, angles=torch.zeros(1), reach=reach)
    score, enough = scores(still, turned, shape=shape, reach=reach, min_overlap=_LEAST_OVERLAP)
    score = torch.where(enough, score, torch.full_like(score, -torch.inf))[0]
    if not torch.isfinite(score).any():
        return None
    best = int(score.argmax())
    return (best // score.shape[1] - reach[0]) * POOLED, (best % score.shape[1] - reach[1]) * POOLED


def _shifted(image: Tensor, shift: tuple[int, int]) -> Tensor:
    """image(p + shift), 0 (False) where that lies outside."""
    out = torch.zeros_like(image)
    target, source = [], []
    for s, n in zip(shift, image.shape, strict=True):
        target.append(slice(max(0, -s), min(n, n - s)))
        source.append(slice(max(0, s), min(n, n + s)))
    out[tuple(target)] = image[tuple(source)]
    return out
