"""A window by Gauss-Newton registration: every section encoded once, every pair registered on its own, both ways.

Sections are compared as they were observed, never after rendering, so no error is passed on from pair to pair, except
as a start. Pairs k = 1 start at 0 (a cold start). Pairs k > 1 start from the composed fields of neighbours (a warm
start): over that distance tissue changes too much to be matched without a start. Around a section that shows no tissue,
or agrees with neither neighbour, the sections on both sides are neighbours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from ssem_dask.field.device import in_batches
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.image.pooling import pool
from ssem_dask.registration.encoders.encoder import Encoder, encoder_on, load_encoder
from ssem_dask.registration.gauss_newton.confidence import (
    MatchMeasures,
    folded_nodes,
    measure_disagreement,
    measure_match,
    raw_confidence,
    relative_confidence,
)
from ssem_dask.registration.gauss_newton.encoded_sections import EROSION, encode_sections
from ssem_dask.registration.gauss_newton.hops import (
    Pair,
    broken_hops,
    neighbour_pairs,
    path_between,
    spoilt_sections,
)
from ssem_dask.registration.gauss_newton.normal_equations import NodeBasis
from ssem_dask.registration.gauss_newton.pair_points import PointBatch, both_ways
from ssem_dask.registration.gauss_newton.scales import ResidualScale, ResidualScales
from ssem_dask.registration.gauss_newton.solver import (
    FeatureLevel,
    GaussNewtonConfig,
    NodeFields,
    PairBatch,
    feature_pyramid,
    plan_steps,
    register_pairs,
)
from ssem_dask.registration.gauss_newton.tears import Tears
from ssem_dask.registration.registration_method import PairFields, PairRequest, RegistrationMethod, WindowImages
from ssem_dask.registration.triton import kernels_run_on

SEARCH_RANGE_PX = 96
"""Longest displacement, px of the working image, that the coarsest level can find."""

_LEAST_TISSUE = 0.01  # share of a section's area in the window; below, there is nothing to register
# Share of a node's surroundings (36 px a side) that must show eroded tissue: up to the border of tissue, not beyond.
_LEAST_SURROUNDING_TISSUE = 0.25
_BATCH = 8  # pairs at a time: more do not run faster, and take more memory
_SURE = 0.5  # confidence by points from which a node is known, whatever the images show there
_MAX_DISAGREEMENT_PX = 8.0  # px of the working image


class GaussNewton(RegistrationMethod[GaussNewtonConfig]):
    """Gauss-Newton on learned features."""

    name = "gauss_newton"
    needs_calibration = True

    def encoder(self, config: GaussNewtonConfig) -> Encoder:
        """Load the encoder that the configuration names."""
        return load_encoder(config.encoder, digest=config.encoder_digest)

    def register(
        self, window: WindowImages, request: PairRequest, *, config: GaussNewtonConfig, device: torch.device | str
    ) -> PairFields:
        """Register the pairs of a window; see `RegistrationMethod.register`."""
        encoder = encoder_on(config.encoder, digest=config.encoder_digest, device=device)
        core, nodes = request.core, request.nodes
        shape = (request.neighbours, len(core), *nodes.shape)
        fields = torch.full((shape[0], shape[1], 2, *nodes.shape), torch.nan, device=device)
        raw, known = torch.zeros(shape, device=device), torch.zeros(shape, dtype=torch.bool, device=device)
        sure = torch.zeros(shape, device=device)  # least confidence of nodes, where a person has given points
        with torch.inference_mode():
            solver = _WindowSolver(window, encoder=encoder, config=config, device=device)
            pairs = solver.register(request.pairs)
            for batch, judged in in_batches(partial(solver.judge, nodes=nodes), pairs, size=_BATCH):
                rows = [(fixed - moving - 1, fixed - core.start) for fixed, moving in batch]
                index = tuple(torch.tensor(rows, device=device).T)
                fields[index], raw[index], known[index] = judged.fields, judged.confidence, judged.known
            for pair in pairs:
                if pair in window.points:
                    row = pair[0] - pair[1] - 1, pair[0] - core.start
                    sure[row] = solver.point_confidence(pair, nodes)
        known |= sure >= _SURE
        fields = torch.where(known[:, :, None], fields, torch.full_like(fields, torch.nan))
        # The run's, since medians of windows differ and confidences would jump between them (docs/decisions/0022).
        typical_confidence = None if config.scales is None else config.scales.confidence
        confidence = relative_confidence(raw, known=known, typical_confidence=typical_confidence)
        return PairFields(fields, torch.where(known, torch.maximum(confidence, sure), confidence))


def measure_scales(
    window: WindowImages, *, neighbours: int, config: GaussNewtonConfig, device: torch.device | str
) -> ResidualScales | None:
    """Measure residuals, Hessians and confidences in one window; None if it shows nothing that can be registered.

    Args:
        window: coarse-aligned consecutive sections; tears are ignored.
        neighbours: K.
        config: the solver's parameters.
        device: torch device to work on.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    encoder = encoder_on(config.encoder, digest=config.encoder_digest, device=device)
    with torch.inference_mode():
        solver = _WindowSolver(window, encoder=encoder, config=config, device=device, measure_scales=True)
        pairs = solver.register([(z, z - k) for k in range(1, neighbours + 1) for z in range(k, len(window.images))])
        scales = solver.scales
        # All other units build on those of neighbours, so a window without such a pair is left out.
        if 1 not in scales:
            return None
        judged = solver.judge(pairs, nodes=solver.nodes)
        if not judged.known.any():
            return None
        # Later a divisor, which a window without contrast would make 0.
        confidence = max(float(judged.confidence[judged.known].median()), 1e-12)
    warm = tuple(scales[k] for k in range(2, neighbours + 1) if k in scales)
    return ResidualScales(cold=scales[1], warm=warm, confidence=confidence)


@dataclass(frozen=True, slots=True)
class _JudgedPairs:
    """Fields of a batch of pairs on the wanted nodes, and how far they can be trusted."""

    fields: Float[Tensor, "n 2 ny nx"]
    confidence: Float[Tensor, "n ny nx"]
    """Raw confidence, see `confidence`."""
    known: Bool[Tensor, "n ny nx"]


class _WindowSolver:
    """Features of a window's sections, and the fields found between them."""

    def __init__(
        self,
        window: WindowImages,
        *,
        encoder: Encoder,
        config: GaussNewtonConfig,
        device: torch.device | str,
        measure_scales: bool = False,
    ) -> None:
        """Encode the sections.

        Args:
            window: sections of the window.
            encoder: on the device.
            config: the solver's parameters.
            device: torch device to work on.
            measure_scales: whether to collect the pairs' own scales; that is done in plain PyTorch.
        """
        self.fields: dict[Pair, Tensor] = {}
        """Fields `(2, ny, nx)` on `nodes` that were found so far."""
        self.scales: dict[int, tuple[ResidualScale, ...]] = {}
        """Scales of each iteration, by distance of the sections, if they are measured."""
        self._broken_hops: set[Pair] = set()
        self._config = config
        self._image_grid = window.grid
        self._nodes: Grid | None = None
        self._tissue_flags = [float(valid.float().mean()) >= _LEAST_TISSUE for valid in window.valid]
        # No path of another pair touches these sections.
        self._skipped = {i for i, shows_tissue in enumerate(self._tissue_flags) if not shows_tissue}
        finest = encode_sections(window, encoder=encoder, device=device)
        # Tears are local, so scales measured with them would not hold for other windows.
        self._tears = _pool_tears(None if measure_scales else window.tears, like=finest)
        # Computed once: reading a tensor per pair would wait for the GPU each time.
        self._tear_flags = [bool(tears.any()) for tears in self._tears]
        self._points = {} if measure_scales else both_ways(window.points)
        self._pyramid = feature_pyramid(finest, levels=max(config.levels) + 1)
        self._measure_scales = measure_scales
        # The kernels do not return the units of single pairs.
        self._use_kernels = not measure_scales and _kernels_suit(self._pyramid, image_grid=window.grid, config=config)

    @property
    def nodes(self) -> Grid:
        """Grid of the fields that were found."""
        assert self._nodes is not None
        return self._nodes

    def register(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Register both directions of each pair.

        Neighbour pairs come first, because farther pairs start from their composition.

        Returns:
            The pairs that were found: those whose sections exist and show tissue.
        """
        # See docs/decisions/0007 for the start from composed fields.
        hops = neighbour_pairs(pairs, skipped=self._skipped)
        self._register_hops(hops)
        self._skipped |= spoilt_sections(self._broken_hops, count=len(self._tissue_flags))
        self._register_hops(neighbour_pairs(pairs, skipped=self._skipped))  # those across spoilt sections are new
        self._register_all(pairs)
        return [pair for pair in pairs if pair in self.fields]

    def judge(self, pairs: Sequence[Pair], *, nodes: Grid) -> _JudgedPairs:
        """Interpolate fields of pairs to `nodes`, and judge every node."""
        forward = self._node_fields([self.fields[pair] for pair in pairs])
        backward = self._node_fields([self.fields[moving, fixed] for fixed, moving in pairs])
        measures = self._match_measures(pairs, forward, nodes)
        values = forward.on(nodes)
        disagreement = measure_disagreement(forward=forward.values, backward=backward.values, nodes=forward.nodes)
        basis = NodeBasis.between(nodes=forward.nodes, pixels=nodes, kind="bilinear", device=values.device)
        disagreement = basis.spread(disagreement[:, None])[:, 0]
        pixel = self._image_grid.spacing
        # Each test rejects another failure: no tissue, an ambiguous match, a match out of reach, a fold.
        known = (
            (measures.tissue >= _LEAST_SURROUNDING_TISSUE)
            & (disagreement <= _MAX_DISAGREEMENT_PX * pixel)
            & (torch.linalg.vector_norm(values, dim=1) <= SEARCH_RANGE_PX * pixel)
            & ~folded_nodes(values, spacing=nodes.spacing)
        )
        return _JudgedPairs(values, raw_confidence(measures), known)

    def point_confidence(self, pair: Pair, nodes: Grid) -> Tensor:
        """Return the least confidence `(ny, nx)` that the points of a pair give to its nodes."""
        points = PointBatch.of([self._points[pair]], device=self._pyramid[0].features.device)
        pixel = self._image_grid.spacing
        smoothness = self._config.smoothness_for(abs(pair[0] - pair[1])) * pixel
        return points.confidence(nodes, smoothness_px=smoothness, pixel=pixel)[0]

    def _match_measures(self, pairs: Sequence[Pair], forward: NodeFields, nodes: Grid) -> MatchMeasures:
        mean_residual = None if self._config.scales is None else self._config.scales.error
        if self._use_kernels:
            # Triton comes with torch for CUDA alone, so its modules are imported only when they are used.
            from ssem_dask.registration.triton.match_launch import measure_match_fused

            return measure_match_fused(
                self._pyramid[0],
                pairs,
                fields=forward,
                nodes=nodes,
                cutoff=self._config.cutoff,
                mean_residual=mean_residual,
            )
        # Plain PyTorch, the reference: on CPUs, and where the kernels do not suit (docs/decisions/0020).
        index = torch.tensor(pairs, device=self._pyramid[0].features.device)
        fixed, moving = (self._pyramid[0].select(index[:, side]) for side in (0, 1))
        return measure_match(
            forward.on(fixed.grid),
            fixed=fixed,
            moving=moving,
            nodes=nodes,
            cutoff=self._config.cutoff,
            mean_residual=mean_residual,
        )

    def _register_all(self, pairs: Iterable[Pair]) -> None:
        """Find pairs in both directions, if their sections exist and show tissue."""
        # Both directions, since a node is judged by how well they agree.
        missing = [
            pair
            for fixed, moving in pairs
            for pair in ((fixed, moving), (moving, fixed))
            if pair not in self.fields and min(pair) >= 0 and all(self._tissue_flags[i] for i in pair)
        ]
        # Pairs of one batch share the plan of steps, the smoothness and the solver.
        groups: dict[tuple[int, bool, bool, bool, int], list[Pair]] = {}
        for pair in missing:
            distance = abs(pair[0] - pair[1])
            warm = self._can_compose(pair)
            # Whole paths come first, since scales are measured in the first batch of a distance.
            skips = distance - len(self._path(pair)) if warm else 0
            groups.setdefault((distance, warm, self._is_torn(pair), pair in self._points, skips), []).append(pair)
        for (distance, warm, torn, pointed, _), group in sorted(groups.items()):
            run = partial(self._register_batch, distance=distance, warm=warm, torn=torn, pointed=pointed)
            # The kernels cut a group into batches themselves; they know neither tears nor points.
            plain = self._use_kernels and not torn and not pointed
            for _ in in_batches(run, group, size=len(group) if plain else _BATCH):
                pass  # drained for its effect: `_register_batch` stores the fields itself

    def _register_batch(self, pairs: Sequence[Pair], *, distance: int, warm: bool, torn: bool, pointed: bool) -> None:
        # Composed fields carry the errors of all pairs between; the pair's own images correct them.
        start = NodeFields(self._compose(pairs), self.nodes, self._config.interpolation) if warm else None
        smoothness = self._config.smoothness_for(distance)
        scales = self._iteration_scales(distance, warm=warm)
        if self._use_kernels and not torn and not pointed:
            # On a GPU these features are in half precision, all sums and solves in single (docs/decisions/0020).
            from ssem_dask.registration.triton.pair_solver import register_fused

            fields = register_fused(
                self._pyramid,
                pairs,
                image_grid=self._image_grid,
                start=start,
                smoothness=smoothness,
                config=self._config,
                scales=scales,
            )
        else:
            # Scales are measured in the first batch of each distance only. A farther pair that starts cold is not
            # measured: its residuals would count as those of warm starts.
            measure = self._measure_scales and distance not in self.scales and warm == (distance > 1)
            result = register_pairs(
                self._batch(pairs, torn=torn, pointed=pointed),
                start=start,
                smoothness=smoothness,
                config=self._config,
                scales=scales,
                measure_scales=measure,
            )
            fields = result.fields
            if measure:
                self.scales[distance] = result.scales
        self._nodes = fields.nodes
        self.fields.update(zip(pairs, fields.values, strict=True))

    def _iteration_scales(self, distance: int, *, warm: bool) -> tuple[ResidualScale, ...] | None:
        """Return the configured scales of a pair's iterations; None if each pair has its own."""
        if self._config.scales is None:
            return None
        iterations = sum(step.iterations for step in plan_steps(self._config, self._pyramid[0].grid, warm=warm))
        return self._config.scales.select(distance=distance, warm=warm, iterations=iterations)

    def _batch(self, pairs: Sequence[Pair], *, torn: bool, pointed: bool) -> PairBatch:
        sides = []
        for side in (0, 1):
            index = torch.tensor([pair[side] for pair in pairs], device=self._pyramid[0].features.device)
            sides.append([level.select(index) for level in self._pyramid])
        tears = self._pair_tears(pairs) if torn else None
        points = None
        if pointed:
            points = PointBatch.of([self._points[p] for p in pairs], device=self._pyramid[0].features.device)
        return PairBatch(fixed=sides[0], moving=sides[1], image_grid=self._image_grid, tears=tears, points=points)

    def _is_torn(self, pair: Pair) -> bool:
        return self._tear_flags[pair[0]] or self._tear_flags[pair[1]]

    def _pair_tears(self, pairs: Sequence[Pair]) -> Tears:
        """Unite the tears of both sections; those of the moving one are widened by the error of its coarse position."""
        fixed = self._tears[[pair[0] for pair in pairs]]
        moving = self._tears[[pair[1] for pair in pairs]]
        return Tears(torch.maximum(fixed, _dilate(moving)), self._pyramid[0].grid)

    def _can_compose(self, pair: Pair) -> bool:
        # A section in between that matches its neighbours in part only breaks the path; such a pair starts at 0, like a
        # neighbour.
        path = self._path(pair)
        return len(path) > 1 and all(hop in self.fields and hop not in self._broken_hops for hop in path)

    def _path(self, pair: Pair) -> list[Pair]:
        return path_between(pair, skipped=self._skipped)

    def _register_hops(self, hops: Sequence[Pair]) -> None:
        """Register pairs of neighbours, and note which of them are broken."""
        self._register_all(hops)
        if self.fields:
            tolerance = _MAX_DISAGREEMENT_PX * self._image_grid.spacing
            self._broken_hops |= broken_hops(self.fields, hops, nodes=self.nodes, tolerance=tolerance)

    def _compose(self, pairs: Sequence[Pair]) -> Tensor:
        """Compose fields of neighbours to fields `(n, 2, ny, nx)` of pairs with paths of one length, on the nodes."""
        positions = self.nodes.positions(self._pyramid[0].features.device)
        total = torch.zeros_like(positions).expand(len(pairs), *positions.shape)
        for hops in zip(*map(self._path, pairs), strict=True):
            fields = torch.stack([self.fields[hop] for hop in hops])
            # Each field is read where the ones before it have led.
            total = total + sample_batch(fields, grid=self.nodes, positions=positions + total)
        return total

    def _node_fields(self, values: Sequence[Tensor]) -> NodeFields:
        return NodeFields(torch.stack(list(values)), self.nodes, self._config.interpolation)


def _kernels_suit(pyramid: Sequence[FeatureLevel], *, image_grid: Grid, config: GaussNewtonConfig) -> bool:
    """Check whether the kernels can be used: the features are on a GPU and the kernels support the plan of steps."""
    # First, because `pair_solver` imports Triton, which only comes with torch for CUDA.
    if not kernels_run_on(pyramid[0].features.device):
        return False
    from ssem_dask.registration.triton.pair_solver import suits

    return suits(pyramid, image_grid=image_grid, config=config)


def _dilate(mask: Tensor) -> Tensor:
    return max_pool2d(mask[:, None], 2 * EROSION + 1, stride=1, padding=EROSION)[:, 0]


def _pool_tears(tears: Tensor | None, *, like: FeatureLevel) -> Tensor:
    """Pool tears to `(z, h, w)` float32 on the features' px: 1 if any px of the image is torn."""
    if tears is None:
        return torch.zeros_like(like.valid)
    factor = ceil_div(tears.shape[-2], like.valid.shape[-2])
    return (pool(tears.to(like.valid), factor) > 0).to(like.valid)
