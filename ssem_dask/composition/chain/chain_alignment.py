"""Method `chain`: per-section fields from pair fields by composition, voting, blocks and decay.

Frames: a_z pulls aligned positions to section z, relative to the coarse affines; pair k at z points from z to z-k
(C5), so that with maps written as fields (C6)

    a_{z-k} = compose(outer=p_k[z], inner=a_z)      and      a_z = compose(outer=inverse(p_k[z]), inner=a_{z-k}).

Blocks of sections are chained on their own, each from a first section that stays, and overlap by a few sections; u_z
are the fields in the frame of their block. There the stitch S_b takes block b's frame to that of block b-1:
previous_z = u_z ∘ S_b. Unrolled, a_z = u_z ∘ D(S_b) ∘ D(S_{b-1}) ∘ …, where D lets a stitch fade with the distance d in
sections between z and the stitch: scaled by c(d) = clip(1 - d/decay, 0, 1) and blurred with sigma(d) = blur · d px. A
stitch more than `decay` sections back has no influence, so the drift is bounded. D changes by 1/decay from one section
to the next, across block borders too, so neighbours stay together.

Source: the published baseline; the scheme of blocks, votes and decay follows the open aligner corgie.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from ssem_dask.composition.chain.vote import Vote, vote
from ssem_dask.composition.smooth import gaussian_blur
from ssem_dask.field.compose import compose
from ssem_dask.field.inverse import inverse
from ssem_dask.types import ConfigBase

VOTE_BLUR_NODES = 1.0
"""Sigma of the blur of the voting weights, in nodes."""


class ChainConfig(ConfigBase):
    """Composition by chaining, voting and decay."""

    block: int = Field(default=10, ge=1)
    """Sections per block."""
    stitch: int = Field(default=3, ge=1)
    """Sections by which a block overlaps the next one."""
    tolerance: float = Field(default=3.0, gt=0.0)
    """Largest distance in mip-0 px between votes that agree."""
    decay: int = Field(default=100, ge=1)
    """Sections over which a stitch fades to nothing."""
    blur: float = Field(default=4.0, ge=0.0)
    """Growth of a stitch's blur: sigma in mip-0 px per section of distance."""


class ChainedBlock(NamedTuple):
    """Fields of a block's sections."""

    fields: Float[Tensor, "n 2 y x"]
    """Relative to the block's first observed section, no NaN."""
    guessed: Bool[Tensor, "n y x"]
    """Where a value is a guess: continued over nodes from known ones, or, in a section that no pair observes,
    interpolated between its neighbours."""


def align_block(
    pairs: Float[Tensor, "K n 2 y x"], confidence: Float[Tensor, "K n y x"], *, spacing: float, config: ChainConfig
) -> ChainedBlock:
    """Chain the sections of one block.

    Each section's candidates, one for each neighbour in the block, are voted on. Candidates that rest on guessed nodes
    are used only if there is no other. The first section that any pair observes is the frame (a = 0).

    Args:
        pairs: mip-0 px; [k-1, i] has fixed = i and moving = i - k. Those that leave the block are not used; NaN is
            unknown.
        confidence: of their nodes.
        spacing: mip-0 px between nodes.
        config: tolerance of the vote.
    """
    steps, count = pairs.shape[:2]
    fields = torch.zeros_like(pairs[0])
    guessed = torch.ones_like(confidence[0], dtype=torch.bool)
    lost = torch.ones(count, dtype=torch.bool)
    observed = _observed_sections(pairs)
    # A first section that nothing observes cannot be the frame: it would tie the others to a guess.
    frame = next((i for i in range(count) if observed[i]), 0)
    guessed[frame] = False
    lost[frame] = False
    for i in range(frame + 1, count):
        # Pairs point backward, so each earlier section gives a candidate through an inverse pair field.
        reachable = [k for k in range(1, steps + 1) if i - k >= frame]
        backward = [inverse(pairs[k - 1, i], spacing=spacing) for k in reachable]
        candidates = torch.stack(
            [compose(outer=b, inner=fields[i - k], spacing=spacing) for b, k in zip(backward, reachable, strict=True)]
        )
        weights = torch.stack([confidence[k - 1, i] for k in reachable])
        from_guesses = torch.stack([guessed[i - k] for k in reachable])
        fields[i], guessed[i] = _vote_in_two_rounds(candidates, weights=weights, guessed=from_guesses, config=config)
        lost[i] = not bool(torch.isfinite(candidates).any())
        # A lost section hands on the field before it, so that the chain continues; `_bridge` replaces it in the end.
        if lost[i]:
            fields[i] = fields[i - 1]
    return ChainedBlock(_bridge(fields, lost=lost), guessed)


def _observed_sections(pairs: Tensor) -> list[bool]:
    """Return for each section of a block whether any pair inside the block observes it."""
    steps, count = pairs.shape[:2]
    known = torch.isfinite(pairs).all(dim=2).flatten(2).any(dim=2)
    observed = [False] * count
    for k in range(1, steps + 1):
        for i in range(k, count):
            if bool(known[k - 1, i]):
                observed[i] = observed[i - k] = True
    return observed


def _vote_in_two_rounds(candidates: Tensor, *, weights: Tensor, guessed: Tensor, config: ChainConfig) -> Vote:
    """Vote with the candidates that come from observed nodes; where there are none, with those from guessed nodes."""
    # NaN has no vote.
    nothing = torch.full_like(candidates, torch.nan)
    solid = torch.where(guessed[:, None], nothing, candidates)
    field, unknown = vote(solid, weights=weights, tolerance=config.tolerance, blur=VOTE_BLUR_NODES)
    if not bool(unknown.any()):
        return Vote(field, unknown)
    fallback, empty = vote(candidates, weights=weights, tolerance=config.tolerance, blur=VOTE_BLUR_NODES)
    if bool(unknown.all()):
        return Vote(fallback, unknown)
    # Nodes that the fallback fills stay marked as guesses.
    return Vote(torch.where(unknown & ~empty, fallback, field), unknown)


def _bridge(fields: Tensor, *, lost: Tensor) -> Tensor:
    """Replace the fields of lost sections by interpolation in z; beyond the last known section it is repeated."""
    # At least the frame is known.
    known = torch.nonzero(~lost)[:, 0].tolist()
    out = fields.clone()
    for i in torch.nonzero(lost)[:, 0].tolist():
        before = max((j for j in known if j < i), default=None)
        after = min((j for j in known if j > i), default=None)
        if before is not None and after is not None:
            share = (i - before) / (after - before)
            out[i] = (1 - share) * fields[before] + share * fields[after]
        elif before is not None or after is not None:
            out[i] = fields[before if before is not None else after]
    return out


def stitch(
    previous: Float[Tensor, "m 2 y x"], current: Float[Tensor, "m 2 y x"], *, spacing: float, config: ChainConfig
) -> Float[Tensor, "2 y x"]:
    """Return the map S from block b's frame to block b-1's: previous_z = u_z ∘ S, voted on by the overlap sections.

    Args:
        previous: the overlap sections' fields in block b-1's frame; set guessed nodes to NaN, so that they do not vote.
        current: the same sections' fields in block b's frame.
        spacing: mip-0 px between nodes.
        config: tolerance of the vote.
    """
    candidates = torch.stack(
        [
            compose(outer=inverse(c, spacing=spacing), inner=p, spacing=spacing)
            for p, c in zip(previous, current, strict=True)
        ]
    )
    # Each overlap section has one vote.
    weights = torch.ones_like(candidates[:, 0])
    return vote(candidates, weights=weights, tolerance=config.tolerance, blur=VOTE_BLUR_NODES).field


def broadcast(
    block_fields: Float[Tensor, "n 2 y x"],
    stitches: Sequence[tuple[Tensor, int]],
    *,
    spacing: float,
    config: ChainConfig,
) -> Float[Tensor, "n 2 y x"]:
    """Carry a block's fields into the frame of the whole volume: a_z = u_z ∘ D(S_b) ∘ D(S_{b-1}) ∘ ….

    Args:
        block_fields: u, fields in the block's frame.
        stitches: (S_j `(2, y, x)`, sections from stitch j to the first of the n sections), the block's own stitch
            first (0 sections away), then back in z. The first block has none.
        spacing: mip-0 px between nodes.
        config: decay and blur.
    """
    out = []
    for i, field in enumerate(block_fields):
        frame = torch.zeros_like(field)
        # The innermost map is the farthest stitch, so composition begins there.
        for stitch_field, distance in reversed(stitches):
            faded = fade(stitch_field, distance=distance + i, spacing=spacing, config=config)
            if faded is not None:
                frame = compose(outer=faded, inner=frame, spacing=spacing)
        out.append(compose(outer=field, inner=frame, spacing=spacing))
    return torch.stack(out)


def fade(
    field: Float[Tensor, "2 y x"], *, distance: int, spacing: float, config: ChainConfig
) -> Float[Tensor, "2 y x"] | None:
    """Return D: scaled by clip(1 - d/decay, 0, 1), blurred with sigma = blur · d px; None if nothing remains."""
    # The blur grows with the distance, so that sharp errors of a stitch are not carried far.
    scale = min(1.0, 1.0 - distance / config.decay)
    if scale <= 0:
        return None
    return scale * gaussian_blur(field, sigma=config.blur * distance / spacing)
