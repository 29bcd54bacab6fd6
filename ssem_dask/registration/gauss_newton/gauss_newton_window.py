"""A window by Gauss-Newton registration: every section encoded once, every pair registered on its own, both ways.

Sections are compared as they were observed, never after rendering, so no error is handed on from pair to pair. Pairs
k = 1 start at 0; pairs k > 1 start from the composed k = 1 fields where all sections between show tissue, since over
that distance tissue changes too much to find its way alone.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ssem_dask.field.device import in_batches
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.image.pooling import pool
from ssem_dask.registration.encoders.encoder import Encoder, encoder_on, features
from ssem_dask.registration.gauss_newton.confidence import (
    Evidence,
    disagreement,
    evidence,
    folded,
    raw_confidence,
    relative_confidence,
)
from ssem_dask.registration.gauss_newton.scales import Scale, Scales
from ssem_dask.registration.gauss_newton.solver import (
    FeatureLevel,
    GaussNewtonConfig,
    NodeFields,
    feature_pyramid,
    plan_of,
    register_pairs,
)
from ssem_dask.registration.gauss_newton.tears import Tears
from ssem_dask.registration.pairs import PairFields
from ssem_dask.registration.triton import kernels_run_on

SEARCH_RANGE = 96
"""px of the working image: longer displacements are beyond what the coarsest level can find."""

_FEATURE_SPACING = 4  # px of the working image per feature px of level 0
_LEAST_TISSUE = 0.01  # share of the window's area; below, there is nothing to register
# Share of a node's surroundings (36 px a side) that must show eroded tissue: up to the border of tissue, not beyond.
_LEAST_AROUND = 0.25
_BATCH = 8  # pairs at a time: more do not run faster, and take more memory
_ERODED = 2  # feature px at the border of tissue whose surroundings reach outside
_DISAGREEMENT = 8.0  # px of the working image

Pair = tuple[int, int]
"""(fixed, moving), indices in the window."""


def gauss_newton_window(
    images: Tensor,
    *,
    valid: Tensor,
    grid: Grid,
    nodes: Grid,
    core: range,
    neighbours: int,
    config: GaussNewtonConfig,
    device: torch.device | str,
    tears: Tensor | None = None,
) -> PairFields:
    """Register a window; see `register_window`.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    encoder = encoder_on(config.encoder, digest=config.encoder_digest, device=device)
    shape = (neighbours, len(core), *nodes.shape)
    fields = torch.full((shape[0], shape[1], 2, *nodes.shape), torch.nan, device=device)
    raw, known = torch.zeros(shape, device=device), torch.zeros(shape, dtype=torch.bool, device=device)
    with torch.inference_mode():
        window = _Window(images, valid=valid, grid=grid, encoder=encoder, config=config, device=device, tears=tears)
        wanted = [(z, z - k) for k in range(1, neighbours + 1) for z in core]
        window.register(_steps_for(wanted))
        window.register(wanted)
        there = [pair for pair in wanted if pair in window.found]
        for chunk, (values, n, sure) in in_batches(partial(window.judged, nodes=nodes), there, size=_BATCH):
            at = tuple(torch.tensor([(z - other - 1, z - core.start) for z, other in chunk], device=device).T)
            fields[at], raw[at], known[at] = values, n, sure
    fields = torch.where(known[:, :, None], fields, torch.full_like(fields, torch.nan))
    typical = None if config.scales is None else config.scales.confidence
    return PairFields(fields, relative_confidence(raw, known=known, typical=typical))


def window_scales(
    images: Tensor, *, valid: Tensor, grid: Grid, neighbours: int, config: GaussNewtonConfig, device: torch.device | str
) -> Scales | None:
    """What residuals, Hessians and confidences are in one window; None where it shows nothing that can be registered.

    Args:
        images: `(z, y, x)` float32, coarse-aligned consecutive sections.
        valid: `(z, y, x)` bool, False where there is no tissue.
        grid: of the images' pixels, mip-0 px.
        neighbours: K.
        config: of the solver.
        device: torch device to work on.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    encoder = encoder_on(config.encoder, digest=config.encoder_digest, device=device)
    told: dict[int, list[Scale]] = {}
    with torch.inference_mode():
        window = _Window(
            images, valid=valid, grid=grid, encoder=encoder, config=config, device=device, tears=None, told=told
        )
        wanted = [(z, z - k) for k in range(1, neighbours + 1) for z in range(k, len(images))]
        window.register(_steps_for(wanted))
        window.register(wanted)
        there = [pair for pair in wanted if pair in window.found]
        if 1 not in told:
            return None
        nodes = window.nodes
        _, raw, known = window.judged(there, nodes=nodes)
        if not known.any():
            return None
        confidence = max(float(raw[known].median()), 1e-12)
    warm = tuple(tuple(told[k]) for k in range(2, neighbours + 1) if k in told)
    return Scales(cold=tuple(told[1]), warm=warm, confidence=confidence)


class _Window:
    """Features of a window's sections, and the fields found between them."""

    def __init__(
        self,
        images: Tensor,
        *,
        valid: Tensor,
        grid: Grid,
        encoder: Encoder,
        config: GaussNewtonConfig,
        device: torch.device | str,
        tears: Tensor | None,
        told: dict[int, list[Scale]] | None = None,
    ) -> None:
        """Encode the sections.

        Args:
            images: `(z, y, x)`.
            valid: `(z, y, x)`.
            grid: of their pixels.
            encoder: on the device.
            config: of the solver.
            device: to work on.
            tears: `(z, y, x)`, None without.
            told: by distance, is given the scales of the pairs' iterations; that is done in plain PyTorch.
        """
        self.found: dict[Pair, Tensor] = {}
        self._config = config
        self._image = grid
        self._nodes: Grid | None = None
        self._shows = [float(v.float().mean()) >= _LEAST_TISSUE for v in valid]
        finest = encoded_sections(images, valid=valid, grid=grid, encoder=encoder, device=device)
        self._tears = _pooled_tears(tears, like=finest)
        self._torn = [bool(t.any()) for t in self._tears]
        self._pyramid = feature_pyramid(finest, levels=max(config.levels) + 1)
        self._told = told
        self._fused = told is None and _fused(self._pyramid, image=grid, config=config)

    @property
    def nodes(self) -> Grid:
        """Of the fields that were found."""
        assert self._nodes is not None
        return self._nodes

    def register(self, pairs: Iterable[Pair]) -> None:
        """Find pairs in both directions, as far as their sections exist and show tissue."""
        todo = [
            pair
            for z, other in pairs
            for pair in ((z, other), (other, z))
            if pair not in self.found and min(pair) >= 0 and all(self._shows[i] for i in pair)
        ]
        groups: dict[tuple[int, bool, bool], list[Pair]] = {}
        for pair in todo:
            groups.setdefault((abs(pair[0] - pair[1]), self._composable(pair), self._is_torn(pair)), []).append(pair)
        for (distance, warm, torn), group in sorted(groups.items()):
            run = partial(self._register, distance=distance, warm=warm, torn=torn)
            for _ in in_batches(run, group, size=len(group) if self._fused and not torn else _BATCH):
                pass

    def judged(self, pairs: Sequence[Pair], *, nodes: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Fields on `nodes`, their raw confidence, and where they are known."""
        forward = self._fields([self.found[pair] for pair in pairs])
        backward = self._fields([self.found[moving, fixed] for fixed, moving in pairs])
        found = self._evidence(pairs, forward, nodes)
        values = forward.on(nodes)
        missed = NodeFields(
            disagreement(forward=forward.values, backward=backward.values, nodes=forward.nodes)[:, None],
            forward.nodes,
            "bilinear",
        ).on(nodes)[:, 0]
        pixel = self._image.spacing
        known = (
            (found.tissue >= _LEAST_AROUND)
            & (missed <= _DISAGREEMENT * pixel)
            & (torch.linalg.vector_norm(values, dim=1) <= SEARCH_RANGE * pixel)
            & ~folded(values, spacing=nodes.spacing)
        )
        return values, raw_confidence(found), known

    def _evidence(self, pairs: Sequence[Pair], forward: NodeFields, nodes: Grid) -> Evidence:
        error = None if self._config.scales is None else self._config.scales.error
        if self._fused:
            from ssem_dask.registration.triton.evidence_launch import fused_evidence

            return fused_evidence(
                self._pyramid[0], pairs, fields=forward, nodes=nodes, cutoff=self._config.cutoff, error=error
            )
        index = torch.tensor(pairs, device=self._pyramid[0].features.device)
        fixed, moving = (self._pyramid[0].select(index[:, side]) for side in (0, 1))
        return evidence(
            forward.on(fixed.grid), fixed=fixed, moving=moving, nodes=nodes, cutoff=self._config.cutoff, error=error
        )

    def _register(self, pairs: Sequence[Pair], *, distance: int, warm: bool, torn: bool) -> None:
        start = NodeFields(self._composed(pairs), self.nodes, self._config.interpolation) if warm else None
        smoothness = self._config.smoothness_for(distance)
        scales = self._scales(distance, warm=warm)
        if self._fused and not torn:
            from ssem_dask.registration.triton.pair_solver import register_fused

            result = register_fused(
                self._pyramid,
                pairs,
                image=self._image,
                start=start,
                smoothness=smoothness,
                config=self._config,
                scales=scales,
            )
        else:
            fixed, moving = self._sides(pairs)
            result = register_pairs(
                fixed=fixed,
                moving=moving,
                image=self._image,
                start=start,
                smoothness=smoothness,
                config=self._config,
                tears=self._tears_of(pairs) if torn else None,
                scales=scales,
                told=self._tells(distance, warm=warm),
            )
        self._nodes = result.nodes
        self.found.update(zip(pairs, result.values, strict=True))

    def _scales(self, distance: int, *, warm: bool) -> tuple[Scale, ...] | None:
        if self._config.scales is None:
            return None
        iterations = sum(count for _, _, count in plan_of(self._config, self._pyramid[0].grid, warm=warm))
        return self._config.scales.of(distance=distance, warm=warm, iterations=iterations)

    def _tells(self, distance: int, *, warm: bool) -> Callable[[Scale], None] | None:
        """Where the first batch of a distance tells its scales; farther pairs only where they start from others."""
        if self._told is None or distance in self._told or warm != (distance > 1):
            return None
        return self._told.setdefault(distance, []).append

    def _is_torn(self, pair: Pair) -> bool:
        return self._torn[pair[0]] or self._torn[pair[1]]

    def _tears_of(self, pairs: Sequence[Pair]) -> Tears:
        """Tears of both sections; the moving one's at their coarse position, widened by what may be wrong with it."""
        fixed = self._tears[[pair[0] for pair in pairs]]
        moving = self._tears[[pair[1] for pair in pairs]]
        return Tears(torch.maximum(fixed, _widened(moving)), self._pyramid[0].grid)

    def _composable(self, pair: Pair) -> bool:
        return abs(pair[0] - pair[1]) > 1 and all(step in self.found for step in _path(pair))

    def _composed(self, pairs: Sequence[Pair]) -> Tensor:
        """The k = 1 fields one after the other, `(n, 2, ny, nx)` on the finest nodes, of pairs of one distance."""
        positions = self.nodes.positions(self._pyramid[0].features.device)
        total = torch.zeros_like(positions).expand(len(pairs), *positions.shape)
        for steps in zip(*map(_path, pairs), strict=True):
            fields = torch.stack([self.found[step] for step in steps])
            total = total + sample_batch(fields, grid=self.nodes, positions=positions + total)
        return total

    def _fields(self, values: Sequence[Tensor]) -> NodeFields:
        assert self._nodes is not None
        return NodeFields(torch.stack(list(values)), self._nodes, self._config.interpolation)

    def _sides(self, pairs: Sequence[Pair]) -> tuple[list[FeatureLevel], list[FeatureLevel]]:
        sides = []
        for side in (0, 1):
            index = torch.tensor([pair[side] for pair in pairs], device=self._pyramid[0].features.device)
            sides.append([level.select(index) for level in self._pyramid])
        return sides[0], sides[1]


def _fused(pyramid: Sequence[FeatureLevel], *, image: Grid, config: GaussNewtonConfig) -> bool:
    """Whether the solver for GPUs runs here: the features lie on one and it knows this plan of steps."""
    if not kernels_run_on(pyramid[0].features.device):
        return False
    from ssem_dask.registration.triton.pair_solver import suits

    return suits(pyramid, image=image, config=config)


def encoded_sections(
    images: Tensor, *, valid: Tensor, grid: Grid, encoder: Encoder, device: torch.device | str
) -> FeatureLevel:
    """Features of every section at 4 px of the working image."""
    factor = max(1, _FEATURE_SPACING // encoder.spacing)
    spacing = encoder.spacing * factor
    found, masks = [], []
    for image, tissue in zip(images, valid, strict=True):  # one by one: activations are many times an image
        inside = tissue.to(device)
        values = features(encoder, torch.nan_to_num(image.to(device))[None], valid=inside[None])
        found.append(pool(values, factor)[0])
        share = pool(inside.float(), spacing)
        masks.append(_eroded((share > 0.99).float()))
    mask = torch.stack(masks)
    level = torch.stack(found) * mask[:, None]
    return FeatureLevel(level, mask, Grid((mask.shape[1], mask.shape[2]), grid.spacing * spacing, grid.origin))


def _eroded(mask: Tensor) -> Tensor:
    """Tissue without its outermost feature px; the frame of the image counts as tissue."""
    return 1.0 - max_pool2d(1.0 - mask[None, None], 2 * _ERODED + 1, stride=1, padding=_ERODED)[0, 0]


def _pooled_tears(tears: Tensor | None, *, like: FeatureLevel) -> Tensor:
    """Tears `(z, h, w)` float32 on the features' px: 1 where any px of the image is torn."""
    if tears is None:
        return torch.zeros_like(like.valid)
    factor = ceil_div(tears.shape[-2], like.valid.shape[-2])
    return (pool(tears.to(like.valid), factor) > 0).to(like.valid)


def _widened(mask: Tensor) -> Tensor:
    return max_pool2d(mask[:, None], 2 * _ERODED + 1, stride=1, padding=_ERODED)[:, 0]


def _path(pair: Pair) -> list[Pair]:
    """The neighbour pairs that lead from the fixed section to the moving one."""
    step = 1 if pair[1] > pair[0] else -1
    return [(z, z + step) for z in range(pair[0], pair[1], step)]


def _steps_for(pairs: Iterable[Pair]) -> list[Pair]:
    """The k = 1 pairs that the given ones are composed of, each once."""
    return sorted({step for pair in pairs if min(pair) >= 0 for step in _path(pair)})
