"""Check of a window's pairs as a whole, before anything is built on them.

Registration judges node by node (`confidence`): forward and backward must agree, nothing may fold, displacements stay
inside the search range. This module judges a pair as a whole, by what no single node shows: whether most of the tissue
was matched at all, whether the field is at the end of the search range, and whether the two sections resemble each
other after warping. The bounds are far from the values of sound pairs: they catch failures only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssem_dask.field.folding import jacobian_determinant
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.field.warp import sample_image
from ssem_dask.image.pooling import pool

POOL_FACTOR = 4
"""px of the working image per px that is compared."""

_LEAST_TISSUE = 0.05  # share of the nodes; below, there is nothing to judge
_LEAST_KNOWN = 0.1  # share of the nodes with tissue in both sections that must be known
_LEAST_KEPT = 0.02  # the same, below which known nodes are there by chance
_LEAST_KEPT_LIKENESS = 0.15  # correlation of the warped images at these nodes; unrelated sections reach 0.1
_MAX_FOLDED = 0.05  # share of the cells
_MAX_AT_END = 0.5  # share of the known nodes
_END_OF_RANGE = 0.9  # share of the search range beyond which a displacement is at its end
# Least product of the share of tissue that is known and the correlation of the warped images there. Unrelated sections
# that were made to match reach 0.07 (phantom, nerve cord at 4.6 nm, noise; windows of 384 and 512 px); neighbours show
# 0.43 and more, second neighbours 0.28, third ones 0.19.
_LEAST_LIKENESS = 0.1
# The same if coarse alignment has found one of the two sections to match no other, so that a match is less likely.
# Sections of another place reach 0.11 then (FIB-SEM), second neighbours of sound sections 0.28.
_LEAST_LIKENESS_UNTIED = 0.2
_LEAST_COMPARED = 1024  # pooled px; fewer resemble each other or not by chance
_BACKGROUND_SIDE = 9  # pooled px, side of the squares whose mean is subtracted
_BATCH = 8  # pairs at a time


@dataclass(frozen=True, slots=True)
class PairDefect:
    """The reason why a pair failed its check."""

    reason: str
    """A few words, for the user."""
    keeps_nodes: bool = False
    """Whether the known nodes may stay: too few of them were found, but each was judged on its own."""


@dataclass(frozen=True, slots=True)
class CheckImages:
    """Sections of a window, prepared to be compared."""

    images: Float[Tensor, "z h w"]
    """Pooled sections without their background, see `flatten_background`."""
    inside: Float[Tensor, "z h w"]
    """Masks of the images, 0 or 1."""
    grid: Grid
    """Grid of images and masks."""
    tissue: Bool[Tensor, "z ny nx"]
    """Nodes that are on tissue."""
    nodes: Grid
    """Grid of the fields that are checked."""
    untied: frozenset[int] = frozenset()
    """Sections that coarse alignment tied to no other."""


def prepare_check(
    images: Float[Tensor, "z y x"],
    *,
    valid: Bool[Tensor, "z y x"],
    image: Grid,
    nodes: Grid,
    untied: frozenset[int] = frozenset(),
) -> CheckImages:
    """Prepare sections to be checked, once for all pairs.

    Args:
        images: coarse-aligned sections, any intensity unit.
        valid: False where there is no tissue.
        image: grid of the images' pixels.
        nodes: grid of the fields.
        untied: sections that coarse alignment tied to no other; more is wanted of their pairs.
    """
    flattened, insides, tissue = [], [], []
    factor = max(1, round(nodes.spacing / image.spacing))
    positions = nodes.positions(images.device)
    for section, mask in zip(images, valid, strict=True):  # one by one: bounds memory
        pixels, inside = flatten_background(section, mask=mask)
        flattened.append(pixels)
        insides.append(inside.float())
        share = pool(mask.float(), factor)
        cells = Grid((share.shape[0], share.shape[1]), image.spacing * factor, image.origin)
        at_nodes, within = sample_image(share[None], grid=cells, positions=positions, kind="nearest")
        tissue.append(within & (at_nodes[0] > 0.5))
    grid = Grid((flattened[0].shape[0], flattened[0].shape[1]), image.spacing * POOL_FACTOR, image.origin)
    return CheckImages(torch.stack(flattened), torch.stack(insides), grid, torch.stack(tissue), nodes, untied)


def check_pairs(
    fields: Float[Tensor, "n 2 ny nx"], *, pairs: Sequence[tuple[int, int]], check: CheckImages, search_range: float
) -> list[PairDefect | None]:
    """Check pair fields; None for each sound pair.

    Args:
        fields: fields on `check.nodes`, mip-0 px; NaN is unknown.
        pairs: (fixed, moving) of each field: indices of sections.
        check: sections to compare.
        search_range: longest displacement that the search could find, mip-0 px.
    """
    defects = []
    for first in range(0, len(pairs), _BATCH):
        part = slice(first, first + _BATCH)
        index = torch.tensor(pairs[part], device=fields.device)
        measures = _measure(fields[part], fixed=index[:, 0], moving=index[:, 1], check=check, search_range=search_range)
        for pair, row in zip(pairs[part], measures.tolist(), strict=True):
            least = _LEAST_LIKENESS if check.untied.isdisjoint(pair) else _LEAST_LIKENESS_UNTIED
            defects.append(_judge(*row, least_likeness=least))
    return defects


def _measure(
    fields: Float[Tensor, "n 2 ny nx"],
    *,
    fixed: Int[Tensor, "n"],
    moving: Int[Tensor, "n"],
    check: CheckImages,
    search_range: float,
) -> Float[Tensor, "n 5"]:
    """Measure what `_judge` takes: shares of tissue, of known tissue, of folds, of nodes at the end; likeness."""
    shown = check.tissue[fixed] & check.tissue[moving]
    finite = torch.isfinite(fields).all(dim=1)
    known = finite & shown
    count = known.sum(dim=(1, 2))
    determinant = jacobian_determinant(fields, spacing=check.nodes.spacing)
    cells = torch.isfinite(determinant)
    folded = ((determinant <= 0) & cells).sum(dim=(1, 2)) / cells.sum(dim=(1, 2)).clamp(min=1)
    far = (torch.linalg.vector_norm(fields, dim=1) > _END_OF_RANGE * search_range) & known
    columns = [
        shown.double().mean(dim=(1, 2)),
        count / shown.sum(dim=(1, 2)).clamp(min=1),
        folded,
        far.sum(dim=(1, 2)) / count.clamp(min=1),
        _likeness(fields, finite=finite, fixed=fixed, moving=moving, check=check),
    ]
    return torch.stack([column.double() for column in columns], dim=1)


def _judge(
    tissue: float, known: float, folded: float, at_end: float, likeness: float, *, least_likeness: float
) -> PairDefect | None:
    """Name the first bound that a pair exceeds; the most informative one comes first. Likeness may be NaN: unknown."""
    if tissue < _LEAST_TISSUE:
        return None
    if known < _LEAST_KNOWN:
        # A section of noise or of another place matches by chance, and the matched places do not look alike.
        keeps = known >= _LEAST_KEPT and likeness >= _LEAST_KEPT_LIKENESS
        return PairDefect(f"{100 * known:.0f} % of the tissue matched", keeps_nodes=keeps)
    if folded > _MAX_FOLDED:
        return PairDefect("folded")
    if at_end > _MAX_AT_END:
        return PairDefect("at the end of the search range")
    if known * likeness < least_likeness:
        return PairDefect(f"sections unlike (correlation {likeness:.2f})")
    return None


def flatten_background(
    image: Float[Tensor, "y x"], *, mask: Bool[Tensor, "y x"]
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Pool an image by `POOL_FACTOR` and subtract its local mean; 0 off the tissue. Returns it and its mask."""
    inside = pool(mask.float(), POOL_FACTOR) > 0.99
    pooled = pool(torch.where(mask, torch.nan_to_num(image), torch.zeros_like(image)), POOL_FACTOR)
    weight = _local_mean(inside.float()).clamp(min=1e-6)
    flat = torch.where(inside, pooled - _local_mean(pooled * inside) / weight, torch.zeros_like(pooled))
    return flat, inside


def _likeness(
    fields: Float[Tensor, "n 2 ny nx"],
    *,
    finite: Bool[Tensor, "n ny nx"],
    fixed: Int[Tensor, "n"],
    moving: Int[Tensor, "n"],
    check: CheckImages,
) -> Float[Tensor, "n"]:
    """Correlate the fixed and the warped moving images where the fields are known; NaN if there is too little."""
    pixels = check.grid.positions(fields.device)
    positions = pixels.expand(len(fields), -1, -1, -1)
    # Unknown nodes are left out of the interpolation: the field is divided by the interpolated mask.
    values = torch.cat([torch.where(finite[:, None], fields, torch.zeros_like(fields)), finite[:, None].float()], dim=1)
    sampled = sample_batch(values, grid=check.nodes, positions=positions)
    weight = sampled[:, 2]
    source = positions + sampled[:, :2] / weight.clamp(min=0.5)[:, None]
    stacked = torch.stack([check.images[moving], check.inside[moving]], dim=1)
    warped = sample_batch(stacked, grid=check.grid, positions=source)
    compared = (
        (weight >= 0.5)
        & (check.inside[fixed] > 0)
        & check.grid.contains(source.transpose(0, 1))
        & (warped[:, 1] > 0.99)
        & check.nodes.contains(pixels)
    ).double()
    count = compared.sum(dim=(1, 2))
    a, b = check.images[fixed].double(), warped[:, 0].double()

    def mean(image: Tensor) -> Tensor:
        return (image * compared).sum(dim=(1, 2), keepdim=True) / count.clamp(min=1)[:, None, None]

    a, b = a - mean(a), b - mean(b)
    product, energy_a, energy_b = (mean(image).flatten() for image in (a * b, a.square(), b.square()))
    comparable = (count >= _LEAST_COMPARED) & (energy_a > 0) & (energy_b > 0)
    return torch.where(
        comparable, product / (energy_a * energy_b).sqrt().clamp(min=1e-30), torch.full_like(product, torch.nan)
    )


def _local_mean(image: Tensor) -> Tensor:
    return avg_pool2d(image[None, None], _BACKGROUND_SIDE, stride=1, padding=_BACKGROUND_SIDE // 2)[0, 0]
