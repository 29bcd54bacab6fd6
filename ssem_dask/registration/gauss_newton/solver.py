"""Pair fields by Gauss-Newton on nodes, coarse to fine: batched over pairs, without autograd.

For every pair it finds u with B(x + u) ≈ A(x) in feature space, A the fixed and B the moving section, smooth at the
length L: below it, displacements are pulled flat. Levels run from coarse to fine; each has its feature pyramid level,
its node spacing and a few iterations. What is smooth at the length L alone is too flat where displacements change fast:
the finest level is therefore run in several passes, each smooth not in u but in what it adds to the u of the pass
before (iterated Tikhonov regularisation, Bregman iteration: Osher et al. 2005, doi:10.1137/040605412). That follows
deformations well above the length fully and cuts off sharply below. All lengths are in px of the working image, so that
nothing depends on the pixel size. The derivative of r by u is taken as the mean of ∇A and ∇(B ∘ T), which converges
faster than either and treats the two sections alike (Benhimane and Malis 2004).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.registration.gauss_newton.normal_equations import Kind, NodeBasis, assemble, mean_error, solve_step
from ssem_dask.registration.gauss_newton.regularisation import CosineBasis
from ssem_dask.registration.gauss_newton.scales import Scale, Scales
from ssem_dask.registration.gauss_newton.tears import Tears, curvature_weights
from ssem_dask.registration.vector_map import covering_nodes
from ssem_dask.types import ConfigBase

DEFAULT_SMOOTHNESS = 22.6
"""L where it is not chosen from the data, px of the working image."""

_TORN_ITERATIONS = 4  # times as many conjugate gradients
_LEAST_CELLS = 8  # feature px along the shorter side of a level; below it shows too little


class GaussNewtonConfig(ConfigBase):
    """Gauss-Newton on nodes. Lengths are px of the working image."""

    encoder: str = "metric"
    """Name of a built-in encoder (metric, lcn, autoencoder, pixels), or the path of a .safetensors file."""
    encoder_digest: str | None = None
    """sha256 that the encoder's weights must have; None accepts any."""
    levels: tuple[int, ...] = (3, 2, 1, 0)
    """Pyramid level of the features of each step, coarse to fine; level 0 has 4 px per feature px, level 1 has 8, …"""
    node_spacing: tuple[int, ...] = (128, 64, 32, 32)
    """Distance of the nodes at each step."""
    iterations: tuple[int, ...] = (3, 2, 2, 2)
    """Gauss-Newton iterations at each step."""
    passes: int = Field(default=6, ge=1)
    """How often the finest step is run for pairs that start at 0, each time smooth in what it adds. Pairs that start
    from composed fields are smooth in what they add to these, in one pass."""
    smoothness: tuple[float, ...] | None = None
    """L for the 1st, 2nd, … predecessor (the last one holds for all farther): deformations finer than about 2π L are
    suppressed. None: the stage `calibrate` chooses it from the data."""
    cutoff: float = Field(default=2.0, gt=0)
    """rc: feature differences of rc times their rms weigh a quarter."""
    conjugate_gradients: int = Field(default=4, ge=1)
    """Iterations of conjugate gradients for each step."""
    largest_step: float = Field(default=2.0, gt=0)
    """Longest change of a node in one iteration, feature px of the level."""
    interpolation: Kind = "bilinear"
    """From nodes to pixels: bilinear or bspline."""
    warm_levels: int = Field(default=2, ge=1)
    """Steps (the finest ones) that pairs of farther predecessors run, after starting from composed k = 1 fields."""
    scales: Scales | None = None
    """What residuals, Hessians and confidences are measured in. None: the stage `calibrate` measures it; without that
    stage each window has its own."""

    @model_validator(mode="after")
    def _levels_match(self) -> "GaussNewtonConfig":
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
        """L for the pair of a section with its `neighbour`-th predecessor or successor."""
        lengths = self.smoothness or (DEFAULT_SMOOTHNESS,)
        return lengths[min(neighbour, len(lengths)) - 1]


@dataclass(frozen=True, slots=True)
class FeatureLevel:
    """Features of sections at one level of the pyramid."""

    features: Tensor
    """`(n, c, h, w)` float32, 0 where not valid."""
    valid: Tensor
    """`(n, h, w)` float32, 1 where the features are of tissue."""
    grid: Grid
    """Of the feature px, mip-0 px."""

    def select(self, index: Tensor) -> "FeatureLevel":
        """Some of the sections."""
        return FeatureLevel(self.features[index], self.valid[index], self.grid)


@dataclass(frozen=True, slots=True)
class NodeFields:
    """Displacements of a batch of pairs on nodes."""

    values: Tensor
    """`(n, 2, ny, nx)` float32, mip-0 px; coefficients where the interpolation is bspline."""
    nodes: Grid
    kind: Kind

    def on(self, grid: Grid) -> Tensor:
        """The fields `(n, 2, y, x)` on another grid."""
        basis = NodeBasis.between(nodes=self.nodes, pixels=grid, kind=self.kind, device=self.values.device)
        return basis.spread(self.values)


def feature_pyramid(finest: FeatureLevel, *, levels: int) -> list[FeatureLevel]:
    """Levels 0 … levels - 1: features averaged over squares of 2, 4, … px of what is valid."""
    pyramid = [finest]
    for _ in range(levels - 1):
        last = pyramid[-1]
        weight = _halved(last.valid[:, None])
        features = _halved(last.features) / weight.clamp(min=1e-6)
        valid = (weight >= 0.5).float()
        grid = Grid((weight.shape[-2], weight.shape[-1]), last.grid.spacing * 2, last.grid.origin)
        pyramid.append(FeatureLevel(features * valid, valid[:, 0], grid))
    return pyramid


def plan_of(config: GaussNewtonConfig, finest: Grid, *, warm: bool) -> list[tuple[int, int, int]]:
    """The steps that are run: (level, spacing of the nodes in px of the working image, iterations).

    Args:
        config: the solver's parameters.
        finest: of the features of level 0; steps whose level would show too little of it are left out.
        warm: whether registration starts from given fields.
    """
    shorter = min(finest.shape)
    plan = [
        step
        for step in zip(config.levels, config.node_spacing, config.iterations, strict=True)
        if ceil_div(shorter, 2 ** step[0]) >= _LEAST_CELLS or step[0] == config.levels[-1]
    ]
    return plan[-config.warm_levels :] if warm else plan + plan[-1:] * (config.passes - 1)


def register_pairs(
    *,
    fixed: Sequence[FeatureLevel],
    moving: Sequence[FeatureLevel],
    image: Grid,
    start: NodeFields | None,
    smoothness: float,
    config: GaussNewtonConfig,
    tears: Tears | None = None,
    scales: Sequence[Scale] | None = None,
    told: Callable[[Scale], None] | None = None,
) -> NodeFields:
    """Register a batch of pairs.

    Args:
        fixed: A, a pyramid of `(n, …)`, level 0 first.
        moving: B, the same.
        image: of the working image's pixels.
        start: where to begin; then only `config.warm_levels` steps are run, in one pass, and the fields are smooth
            relative to it. None begins at 0.
        smoothness: L, px of the working image.
        config: the solver's parameters.
        tears: of the pairs; smoothness is cut across them. None: nothing is torn.
        scales: of each iteration; None: each pair's own.
        told: is told the pairs' own, their median, in each iteration.

    Returns:
        Pull fields on the nodes of the finest step: what lies at y in A lies at y + u(y) in B. Finite everywhere.
    """
    plan = plan_of(config, fixed[0].grid, warm=start is not None)
    found = anchor = start
    done = 0
    for number, (level, spacing, iterations) in enumerate(plan, start=1):
        a, b = fixed[min(level, len(fixed) - 1)], moving[min(level, len(moving) - 1)]
        nodes = covering_nodes(image, spacing=spacing * image.spacing)
        if found is None:
            zero = a.features.new_zeros(a.features.shape[0], 2, *nodes.shape)
            found = NodeFields(zero, nodes, config.interpolation)
        found = _on(found, nodes=nodes, kind=config.interpolation)
        relative = (smoothness / spacing) ** 4
        found = _descend(
            found,
            anchor=None if anchor is None else _on(anchor, nodes=nodes, kind=config.interpolation),
            fixed=a,
            moving=b,
            relative=relative,
            scales=[None] * iterations if scales is None else scales[done : done + iterations],
            told=told,
            config=config,
            tears=tears,
        )
        done += iterations
        if start is None and number > len(plan) - config.passes:
            anchor = found
    assert found is not None
    return found


def _on(found: NodeFields, *, nodes: Grid, kind: Kind) -> NodeFields:
    if found.nodes == nodes and found.kind == kind:
        return found
    # For a spline the values are taken as coefficients: it smooths a little, and the iterations make up for it.
    return NodeFields(found.on(nodes), nodes, kind)


def _descend(
    begin: NodeFields,
    *,
    anchor: NodeFields | None,
    fixed: FeatureLevel,
    moving: FeatureLevel,
    relative: float,
    scales: Sequence[Scale | None],
    told: Callable[[Scale], None] | None,
    config: GaussNewtonConfig,
    tears: Tears | None,
) -> NodeFields:
    """Gauss-Newton at one level, smooth relative to `anchor`; inside, displacements are in feature px of the level."""
    unit = fixed.grid.spacing
    device = fixed.features.device
    nodes = begin.nodes
    basis = NodeBasis.between(nodes=nodes, pixels=fixed.grid, kind=config.interpolation, device=device)
    cosines = CosineBasis.of(nodes.shape, device=device)
    positions = fixed.grid.positions(device)
    gradient_a = gradients(fixed.features)
    sampled = torch.cat([moving.features, moving.valid[:, None]], dim=1)
    weights = None if tears is None else curvature_weights(tears, nodes=nodes)
    # The preconditioner knows nothing of tears, so what they set free takes more iterations.
    solves = config.conjugate_gradients * (1 if tears is None else _TORN_ITERATIONS)
    u = begin.values / unit
    smooth = torch.zeros_like(u) if anchor is None else anchor.values / unit
    for scale in scales:
        where = positions + basis.spread(u) * unit
        warped = sample_batch(sampled, grid=moving.grid, positions=where)
        inside = _contained(moving.grid, where) & (warped[:, -1] > 0.5)
        features = warped[:, :-1]
        gradient_b = gradients(features)
        valid = fixed.valid * inside
        equations = assemble(
            residual=features - fixed.features,
            gradient_y=0.5 * (gradient_a[0] + gradient_b[0]),
            gradient_x=0.5 * (gradient_a[1] + gradient_b[1]),
            valid=valid,
            cutoff=config.cutoff,
            basis=basis,
            scale=scale,
        )
        if told is not None:
            error = mean_error(features - fixed.features, valid=valid)
            hessian = equations.stiffness / basis.cell
            told(Scale(error=_middle(error), hessian=_middle(hessian)))
        step = solve_step(
            equations, u=u - smooth, smoothness=relative, basis=cosines, iterations=solves, weights=weights
        )
        length = torch.linalg.vector_norm(step, dim=1, keepdim=True)
        u = u + step * (config.largest_step / length.clamp(min=config.largest_step))
    return NodeFields(u * unit, nodes, config.interpolation)


def _middle(values: Tensor) -> float:
    return max(float(values.median()), 1e-12)


def gradients(values: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of `(…, h, w)` along y and x, one-sided at the border."""
    if min(values.shape[-2:]) < 2:
        return torch.zeros_like(values), torch.zeros_like(values)
    return _differences(values, -2), _differences(values, -1)


def _differences(values: Tensor, axis: int) -> Tensor:
    """As `torch.gradient`, in a third of its time."""
    out, n = torch.empty_like(values), values.shape[axis]
    torch.sub(values.narrow(axis, 2, n - 2), values.narrow(axis, 0, n - 2), out=out.narrow(axis, 1, n - 2)).mul_(0.5)
    torch.sub(values.narrow(axis, 1, 1), values.narrow(axis, 0, 1), out=out.narrow(axis, 0, 1))
    torch.sub(values.narrow(axis, n - 1, 1), values.narrow(axis, n - 2, 1), out=out.narrow(axis, n - 1, 1))
    return out


def _contained(grid: Grid, positions: Tensor) -> Tensor:
    """Whether `(n, 2, h, w)` positions lie on the grid: `(n, h, w)`."""
    return grid.contains(positions.transpose(0, 1))


def _halved(values: Tensor) -> Tensor:
    return avg_pool2d(values, 2, stride=2, ceil_mode=True, count_include_pad=False)
