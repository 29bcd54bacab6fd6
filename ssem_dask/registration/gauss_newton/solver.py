"""Pair fields by Gauss-Newton on nodes, coarse to fine: batched over pairs, without autograd.

For every pair the solver finds u with B(x + u) ≈ A(x) in feature space, A the fixed and B the moving section. u is
smooth at the length L: deformations finer than about 2π L are suppressed. Levels run from coarse to fine. Each has its
level of the feature pyramid, its node spacing and a few iterations.

One regularised solve is too flat where displacements change fast. The finest level is therefore run in several passes,
each smooth not in u but in what it adds to the u of the pass before (iterated Tikhonov regularisation, Bregman
iteration: Osher et al. 2005, doi:10.1137/040605412). Deformations well above L are then followed fully, and the cut-off
below is sharp.

All lengths are px of the working image, so nothing depends on the pixel size. The derivative of r by u is the mean of
∇A and ∇(B ∘ T), which converges faster than either and treats the two sections alike (Benhimane and Malis 2004).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.registration.gauss_newton.feature_gradients import gradients
from ssem_dask.registration.gauss_newton.normal_equations import (
    NodeBasis,
    NodeInterpolation,
    NormalEquations,
    assemble,
    mean_error,
    solve_step,
)
from ssem_dask.registration.gauss_newton.pair_points import LevelPoints, PointBatch
from ssem_dask.registration.gauss_newton.regularisation import CosineBasis
from ssem_dask.registration.gauss_newton.scales import ResidualScale, ResidualScales
from ssem_dask.registration.gauss_newton.tears import Tears, curvature_weights
from ssem_dask.registration.vector_map import covering_nodes
from ssem_dask.types import ConfigBase, WeightsPlace

DEFAULT_SMOOTHNESS = 22.6
"""L if it is not chosen from the data, px of the working image."""

_TORN_ITERATIONS = 4  # factor on the iterations of conjugate gradients for torn pairs
_LEAST_CELLS = 8  # feature px along the shorter side of a level; a smaller level shows too little


class GaussNewtonConfig(ConfigBase):
    """Gauss-Newton on nodes. Lengths are px of the working image."""

    encoder: WeightsPlace = "metric"
    """Name of a built-in encoder (metric, lcn, autoencoder, pixels), or the path of a .safetensors file."""
    encoder_digest: str | None = None
    """sha256 that the encoder's weights must have; None accepts any."""
    levels: tuple[int, ...] = (3, 2, 1, 0)
    """Pyramid level of the features of each step, coarse to fine; level 0 has 4 px per feature px, level 1 has 8, …"""
    node_spacing: tuple[int, ...] = (128, 64, 32, 32)
    """Spacing of the nodes at each step."""
    iterations: tuple[int, ...] = (3, 2, 2, 2)
    """Gauss-Newton iterations at each step."""
    passes: int = Field(default=6, ge=1)
    """Passes of the finest step for pairs that start at 0, each smooth in what it adds. Pairs that start from composed
    fields are smooth in what they add to these, in one pass."""
    smoothness: tuple[float, ...] | None = None
    """L for the 1st, 2nd, … predecessor; the last one holds for all farther ones. Deformations finer than about 2π L
    are suppressed. None: the stage `calibrate` chooses it from the data."""
    cutoff: float = Field(default=2.0, gt=0)
    """rc: feature differences of rc times their rms have a weight of 1/4."""
    conjugate_gradients: int = Field(default=4, ge=1)
    """Iterations of conjugate gradients for each step."""
    largest_step: float = Field(default=2.0, gt=0)
    """Longest change of a node in one iteration, feature px of the level."""
    interpolation: NodeInterpolation = "bilinear"
    """From nodes to pixels: bilinear or bspline."""
    warm_levels: int = Field(default=2, ge=1)
    """Steps (the finest ones) that pairs of farther predecessors run, after starting from composed k = 1 fields."""
    scales: ResidualScales | None = None
    """Units of residuals, Hessians and confidences. None: the stage `calibrate` measures them; without that stage each
    window has its own."""

    @model_validator(mode="after")
    def _check_levels(self) -> "GaussNewtonConfig":
        if not self.levels or not len(self.levels) == len(self.node_spacing) == len(self.iterations):
            raise ValueError(
                f"levels has {len(self.levels)} steps, node_spacing {len(self.node_spacing)} and iterations "
                f"{len(self.iterations)}; give one of each for every step."
            )
        if any(n < 0 for n in self.levels) or list(self.levels) != sorted(self.levels, reverse=True):
            raise ValueError(f"levels is {self.levels}; they must be at least 0 and run from coarse to fine.")
        if any(s < 4 for s in self.node_spacing) or any(n < 0 for n in self.iterations):
            raise ValueError("node_spacing must be at least 4 px and iterations must not be negative.")
        if self.smoothness is not None and (not self.smoothness or any(s < 0 for s in self.smoothness)):
            raise ValueError(f"smoothness is {self.smoothness}; give at least one length, none negative.")
        return self

    def smoothness_for(self, neighbour: int) -> float:
        """Return L for the pair of a section with its `neighbour`-th predecessor or successor."""
        lengths = self.smoothness or (DEFAULT_SMOOTHNESS,)
        return lengths[min(neighbour, len(lengths)) - 1]


@dataclass(frozen=True, slots=True)
class FeatureLevel:
    """Features of sections at one level of the pyramid."""

    features: Float[Tensor, "n c h w"]
    """float32, 0 where not valid."""
    valid: Float[Tensor, "n h w"]
    """1 where the features show tissue, else 0."""
    grid: Grid
    """Grid of the feature px, mip-0 px."""

    def select(self, index: Tensor) -> "FeatureLevel":
        """Return some of the sections."""
        return FeatureLevel(self.features[index], self.valid[index], self.grid)


@dataclass(frozen=True, slots=True)
class NodeFields:
    """Displacements of a batch of pairs on nodes."""

    values: Float[Tensor, "n 2 ny nx"]
    """float32, mip-0 px; coefficients if the interpolation is bspline."""
    nodes: Grid
    kind: NodeInterpolation

    def on(self, grid: Grid) -> Float[Tensor, "n 2 y x"]:
        """Interpolate the fields to another grid."""
        basis = NodeBasis.between(nodes=self.nodes, pixels=grid, kind=self.kind, device=self.values.device)
        return basis.spread(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch:
    """Pairs that are registered together; they do not affect each other."""

    fixed: Sequence[FeatureLevel]
    """A: pyramid of the fixed sections, level 0 first."""
    moving: Sequence[FeatureLevel]
    """B: pyramid of the moving sections."""
    image_grid: Grid
    """Grid of the working image's pixels."""
    tears: Tears | None = None
    """Tears of the pairs, across which smoothness is cut; None if nothing is torn."""
    points: PointBatch | None = None
    """Points that a person has given for each pair; None if there are none."""


@dataclass(frozen=True, slots=True)
class RegisteredPairs:
    """Fields of a batch of pairs."""

    fields: NodeFields
    """Pull fields: what is at y in A is at y + u(y) in B. Finite everywhere."""
    scales: tuple[ResidualScale, ...] = ()
    """Median over the pairs of their own scales, for each iteration; empty if they were not measured."""


class SolverStep(NamedTuple):
    """One step of the solver's plan."""

    level: int
    """Level of the feature pyramid."""
    node_spacing: int
    """px of the working image."""
    iterations: int


def feature_pyramid(finest: FeatureLevel, *, levels: int) -> list[FeatureLevel]:
    """Average features over squares of 1, 2, 4, … px of what is valid; levels 0 … levels - 1."""
    pyramid = [finest]
    for _ in range(levels - 1):
        finer = pyramid[-1]
        weight = _halve(finer.valid[:, None])
        # Normalised averaging: invalid px, whose features are 0, must not darken those beside them.
        features = _halve(finer.features) / weight.clamp(min=1e-6)
        # From a half on, so that the border of tissue neither grows nor shrinks from level to level.
        valid = (weight >= 0.5).float()
        grid = Grid((weight.shape[-2], weight.shape[-1]), finer.grid.spacing * 2, finer.grid.origin)
        pyramid.append(FeatureLevel(features * valid, valid[:, 0], grid))
    return pyramid


def plan_steps(config: GaussNewtonConfig, finest: Grid, *, warm: bool) -> list[SolverStep]:
    """List the steps that are run.

    Args:
        config: the solver's parameters.
        finest: grid of the features of level 0; steps whose level would show too little of it are left out.
        warm: whether registration starts from composed fields, a warm start. A cold start is one at 0.
    """
    shorter_side = min(finest.shape)
    plan = [
        SolverStep(*step)
        for step in zip(config.levels, config.node_spacing, config.iterations, strict=True)
        if ceil_div(shorter_side, 2 ** step[0]) >= _LEAST_CELLS or step[0] == config.levels[-1]
    ]
    # A warm start is close already, so the coarse levels are not needed. A start at 0 repeats the finest step,
    # since one regularised solve is too flat (docs/decisions/0007).
    return plan[-config.warm_levels :] if warm else plan + plan[-1:] * (config.passes - 1)


def register_pairs(
    batch: PairBatch,
    *,
    start: NodeFields | None,
    smoothness: float,
    config: GaussNewtonConfig,
    scales: Sequence[ResidualScale] | None = None,
    measure_scales: bool = False,
) -> RegisteredPairs:
    """Register a batch of pairs.

    Args:
        batch: features of the pairs.
        start: initial fields; then only `config.warm_levels` steps are run, in one pass, and the fields are smooth
            relative to them. None begins at 0.
        smoothness: L, px of the working image.
        config: the solver's parameters.
        scales: units of each iteration; None: each pair's own.
        measure_scales: whether to return the pairs' own scales.

    Returns:
        Fields on the nodes of the finest step.
    """
    fixed, moving, image_grid = batch.fixed, batch.moving, batch.image_grid
    plan = plan_steps(config, fixed[0].grid, warm=start is not None)
    # Farther pairs are smooth relative to composed fields: smooth in u they would be pulled flat (docs/decisions/0007).
    fields = anchor = start
    first_iteration = 0
    measured: list[ResidualScale] = []
    for number, (level, spacing, iterations) in enumerate(plan, start=1):
        a, b = fixed[min(level, len(fixed) - 1)], moving[min(level, len(moving) - 1)]
        nodes = covering_nodes(image_grid, spacing=spacing * image_grid.spacing)
        # Nodes are those of this step: fields of a coarser one are interpolated to them.
        if fields is None:
            zero = a.features.new_zeros(a.features.shape[0], 2, *nodes.shape)
            fields = NodeFields(zero, nodes, config.interpolation)
        if batch.points is not None and number == 1:
            # The search is local, so it has to begin where the points are.
            begun = _resample(fields, nodes=nodes, kind=config.interpolation)
            led = batch.points.with_points(begun.values, nodes=nodes, smoothness_px=smoothness * image_grid.spacing)
            fields = NodeFields(led, nodes, config.interpolation)
            anchor = anchor and fields
        # A window by itself has units of its own; those of a run share them (docs/decisions/0022).
        step_scales: Sequence[ResidualScale | None] = [None] * iterations
        if scales is not None:
            step_scales = scales[first_iteration : first_iteration + iterations]
        registered = _descend(
            _resample(fields, nodes=nodes, kind=config.interpolation),
            anchor=None if anchor is None else _resample(anchor, nodes=nodes, kind=config.interpolation),
            # c₂ / h̄: bending energy falls with the fourth power of the wavelength, and nodes are S px apart.
            smoothness=(smoothness / spacing) ** 4,
            system=_LevelSystem(
                a,
                b,
                nodes=nodes,
                config=config,
                tears=batch.tears,
                points=None
                if batch.points is None
                else LevelPoints(batch.points, nodes, smoothness, image_grid.spacing),
            ),
            scales=step_scales,
            measure_scales=measure_scales,
        )
        fields = registered.fields
        measured += registered.scales
        first_iteration += iterations
        # Bregman iteration: once the finest step is reached, each pass is smooth relative to the one before. With a
        # given start all steps are smooth relative to that start.
        if start is None and number > len(plan) - config.passes:
            anchor = fields
    assert fields is not None
    return RegisteredPairs(fields, tuple(measured))


def _resample(fields: NodeFields, *, nodes: Grid, kind: NodeInterpolation) -> NodeFields:
    """Interpolate fields to other nodes."""
    if fields.nodes == nodes and fields.kind == kind:
        return fields
    # For a spline the values are taken as coefficients. That smooths a little; the iterations make up for it.
    return NodeFields(fields.on(nodes), nodes, kind)


class _LevelSystem:
    """The least-squares problem of a batch of pairs at one level; displacements are in feature px of the level."""

    def __init__(
        self,
        fixed: FeatureLevel,
        moving: FeatureLevel,
        *,
        nodes: Grid,
        config: GaussNewtonConfig,
        tears: Tears | None,
        points: LevelPoints | None,
    ) -> None:
        device = fixed.features.device
        self.config = config
        self.unit = fixed.grid.spacing
        """mip-0 px per feature px."""
        self.basis = NodeBasis.between(nodes=nodes, pixels=fixed.grid, kind=config.interpolation, device=device)
        self.cosines = CosineBasis.of(nodes.shape, device=device)
        self.weights = None if tears is None else curvature_weights(tears, nodes=nodes)
        # The preconditioner ignores tears, so torn pairs need more iterations to converge.
        self.conjugate_gradients = config.conjugate_gradients * (1 if tears is None else _TORN_ITERATIONS)
        self._points = points
        self._fixed = fixed
        self._moving_grid = moving.grid
        self._positions = fixed.grid.positions(device)
        self._fixed_gradient = gradients(fixed.features)
        # The mask is warped together with the features, as one more channel.
        self._moving = torch.cat([moving.features, moving.valid[:, None]], dim=1)

    def linearise(self, u: Tensor, *, scale: ResidualScale | None) -> "_Linearisation":
        """Assemble the normal equations about the displacements u `(n, 2, ny, nx)`."""
        positions = self._positions + self.basis.spread(u) * self.unit
        warped = sample_batch(self._moving, grid=self._moving_grid, positions=positions)
        inside = self._moving_grid.contains(positions.transpose(0, 1)) & (warped[:, -1] > 0.5)
        features = warped[:, :-1]
        moving_gradient = gradients(features)
        valid = self._fixed.valid * inside
        if self._points is not None:
            valid = valid * self._points.trust(u * self.unit, positions=self._positions)
        residual = features - self._fixed.features
        equations = assemble(
            residual=residual,
            # The mean of both gradients: efficient second-order minimisation (Benhimane and Malis 2004).
            gradient_y=0.5 * (self._fixed_gradient[0] + moving_gradient[0]),
            gradient_x=0.5 * (self._fixed_gradient[1] + moving_gradient[1]),
            valid=valid,
            cutoff=self.config.cutoff,
            basis=self.basis,
            scale=scale,
        )
        if self._points is not None:
            equations = self._points.added_to(equations, u=u, unit=self.unit, cell=self.basis.cell)
        return _Linearisation(equations, residual, valid)


@dataclass(frozen=True, slots=True)
class _Linearisation:
    """Normal equations about some displacements, and the residuals that they are made of."""

    equations: NormalEquations
    residual: Float[Tensor, "n c h w"]
    valid: Float[Tensor, "n h w"]

    def median_scale(self, basis: NodeBasis) -> ResidualScale:
        """Return the median over the pairs of their own ē and h̄."""
        mean_residual = mean_error(self.residual, valid=self.valid)
        hessian = self.equations.stiffness / basis.cell
        return ResidualScale(error=_positive_median(mean_residual), hessian=_positive_median(hessian))


def _descend(
    begin: NodeFields,
    *,
    anchor: NodeFields | None,
    smoothness: float,
    system: _LevelSystem,
    scales: Sequence[ResidualScale | None],
    measure_scales: bool,
) -> RegisteredPairs:
    """Run the Gauss-Newton iterations of one step, smooth relative to `anchor`; `smoothness` is (L / S)⁴."""
    config = system.config
    u = begin.values / system.unit
    u_anchor = torch.zeros_like(u) if anchor is None else anchor.values / system.unit
    measured: list[ResidualScale] = []
    for scale in scales:
        linearisation = system.linearise(u, scale=scale)
        # Each iteration has units of its own, because residuals fall from one to the next.
        if measure_scales:
            measured.append(linearisation.median_scale(system.basis))
        change = solve_step(
            linearisation.equations,
            u=u - u_anchor,
            smoothness=smoothness,
            basis=system.cosines,
            iterations=system.conjugate_gradients,
            weights=system.weights,
        )
        # A trust region: features resemble each other over a few px only, so longer steps leave the linear range.
        length = torch.linalg.vector_norm(change, dim=1, keepdim=True)
        u = u + change * (config.largest_step / length.clamp(min=config.largest_step))
    return RegisteredPairs(NodeFields(u * system.unit, begin.nodes, config.interpolation), tuple(measured))


def _positive_median(values: Tensor) -> float:
    # The solver divides by units, and a pair without contrast has 0.
    return max(float(values.median()), 1e-12)


def _halve(values: Tensor) -> Tensor:
    return avg_pool2d(values, 2, stride=2, ceil_mode=True, count_include_pad=False)
