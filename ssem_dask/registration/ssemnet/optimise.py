"""ssEMnet's optimisation of one section: only the vector map moves, by Adam, through warp and encoder.

Levels run from coarse to fine: the working image pooled by `scales`, with node spacings in proportion. At each level
f(T_v(I₀)) is compared with the features of the neighbours, which are aligned already (eq. 4, 5 of Yoo et al. 2017,
arXiv 1707.07833). Gradients flow through the frozen encoder, as in the paper; `objective` has the terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.image.pooling import masked_pool
from ssem_dask.registration.encoders.encoder import Encoder
from ssem_dask.registration.ssemnet.objective import (
    Target,
    data_term,
    feature_spread,
    mask_on_features,
    smoothness_term,
)
from ssem_dask.registration.vector_map import Interpolator, MapInterpolation, VectorMap, covering_nodes
from ssem_dask.types import ConfigBase, WeightsPlace

_LEAST_NODE_SPACING = 32  # px of the working image: below, a node sees fewer than 8 x 8 feature cells


class SsemnetConfig(ConfigBase):
    """ssEMnet (Yoo et al. 2017): neighbours' features, a coarse vector map, Adam."""

    encoder: WeightsPlace = "autoencoder"
    """Name of a built-in encoder (autoencoder, lcn, metric, pixels), or the path of a .safetensors file. `autoencoder`
    is the paper's."""
    encoder_digest: str | None = None
    """sha256 that the encoder's weights must have; None accepts any."""
    interpolation: MapInterpolation = "bspline"
    """From the nodes of the vector map to pixels: bilinear, bicubic, bspline (free-form deformation) or tps."""
    node_spacing: float | None = Field(default=None, gt=0)
    """Spacing of the vector map at the finest level, mip-0 px; None derives it from the pixel size."""
    scales: tuple[int, ...] = (8, 4, 2, 1)
    """Pooling factor of the working image at each level, coarse to fine; node spacing grows by the same factor."""
    iterations: tuple[int, ...] = (60, 40, 20, 20)
    """Steps of Adam at each level."""
    learning_rate: float = Field(default=1.2, gt=0)
    """Step of Adam at the start of a level, px of that level's image; it falls linearly to a tenth."""
    alpha: float = Field(default=1e-3, ge=0)
    """α: weight of ‖v‖², v in units of the node spacing and relative to the coarse alignment."""
    beta: float = Field(default=1.5, ge=0)
    """β: weight of ‖∇v_x‖², in strain."""
    gamma: float = Field(default=1.5, ge=0)
    """γ: weight of ‖∇v_y‖², in strain."""
    neighbour_weights: tuple[float, ...] = (1.0, 0.25, 0.1)
    """wᵢ of the nearest neighbour, the next, …; their number is the number of neighbours. Their sum is set to 1.
    They fall steeply, since tissue itself moves from section to section, and a far neighbour shows it displaced."""
    loss_drop: float = Field(default=0.5, ge=0, lt=1)
    """Share of the largest feature errors that the first iteration of a level ignores; 0 ignores none."""
    loss_drop_halving: int = Field(default=1, ge=1)
    """Iterations after which that share is halved; 1 as in the paper."""
    mask: bool = True
    """Count errors only inside the tissue of both sections; False only for comparisons."""

    @model_validator(mode="after")
    def _check_levels(self) -> "SsemnetConfig":
        if not self.scales or len(self.scales) != len(self.iterations):
            raise ValueError(
                f"scales has {len(self.scales)} levels and iterations {len(self.iterations)}; give one number of "
                "iterations for each scale."
            )
        if any(s < 1 for s in self.scales) or list(self.scales) != sorted(self.scales, reverse=True):
            raise ValueError(f"scales is {self.scales}; they must be at least 1 and run from coarse to fine.")
        if any(n < 0 for n in self.iterations):
            raise ValueError(f"iterations is {self.iterations}; they must not be negative.")
        if not self.neighbour_weights or any(w <= 0 for w in self.neighbour_weights):
            raise ValueError(f"neighbour_weights is {self.neighbour_weights}; give at least one, all above 0.")
        return self


@dataclass(frozen=True, slots=True)
class ObservedLevel:
    """A section as observed, at one level."""

    image: Float[Tensor, "y x"]
    """float32, normalised for the encoder."""
    tissue: Float[Tensor, "y x"]
    """1 in tissue, else 0."""
    grid: Grid
    """Grid of the pixels, mip-0 px."""


@dataclass(frozen=True, slots=True)
class AlignedLevel:
    """The features of a warped section at one level, in the aligned frame."""

    features: Float[Tensor, "c h w"]
    mask: Float[Tensor, "h w"]
    """0 where there is no tissue."""
    spread: Float[Tensor, ""]
    """`feature_spread`."""
    grid: Grid
    """Grid of the feature cells, mip-0 px."""


def observe_levels(
    image: Float[Tensor, "y x"],
    *,
    tissue: Bool[Tensor, "y x"],
    grid: Grid,
    scales: Sequence[int],
    encoder: Encoder,
) -> list[ObservedLevel]:
    """Build the pyramid of a section.

    Args:
        image: float32, any unit; values outside the tissue do not matter.
        tissue: False where there is no tissue.
        grid: grid of the pixels, mip-0 px.
        scales: pooling factor of each level.
        encoder: encoder that normalises the levels.
    """
    levels = []
    for scale in scales:
        pooled, inside = masked_pool(image, tissue, scale)
        normalised = encoder.normalise(torch.nan_to_num(pooled)[None], valid=inside[None])[0]
        shape = (pooled.shape[-2], pooled.shape[-1])
        levels.append(ObservedLevel(normalised, inside.float(), Grid(shape, grid.spacing * scale, grid.origin)))
    return levels


def node_grid(grid: Grid, *, scale: int, config: SsemnetConfig) -> Grid:
    """Make the nodes of the vector map for a working image on `grid`, at the level pooled by `scale`."""
    if config.node_spacing is None:
        raise ValueError("SsemnetConfig.node_spacing is None; resolve the configuration first.")
    spacing = max(config.node_spacing, _LEAST_NODE_SPACING * grid.spacing)
    # Not coarser than a third of the image: a coarser map has too few nodes for any deformation.
    extent = min(n * grid.spacing for n in grid.shape)
    return covering_nodes(grid, spacing=max(spacing, min(spacing * scale, extent / 3)))


def align_section(
    moving: Sequence[ObservedLevel],
    *,
    neighbours: Sequence[Sequence[AlignedLevel]],
    grid: Grid,
    encoder: Encoder,
    config: SsemnetConfig,
) -> VectorMap:
    """Find the vector map that makes a section look like its aligned neighbours.

    Args:
        moving: the section's pyramid.
        neighbours: pyramids of the aligned neighbours, the nearest first; at most as many as there are weights.
        grid: grid of the working image, mip-0 px.
        encoder: frozen encoder.
        config: resolved configuration.

    Returns:
        v on the nodes of the finest level: aligned → section as observed.
    """
    raw = config.neighbour_weights[: len(neighbours)]
    weights = [w / sum(raw) for w in raw]
    vector_map: VectorMap | None = None
    for index, (scale, iterations) in enumerate(zip(config.scales, config.iterations, strict=True)):
        nodes = node_grid(grid, scale=scale, config=config)
        start = (
            identity_map(nodes, config, device=moving[0].image.device)
            if vector_map is None
            else vector_map.refined(nodes)
        )
        levels = [neighbour[index] for neighbour in neighbours]
        vector_map = _descend(
            start,
            moving=moving[index],
            targets=[Target(a.features, a.mask, w) for a, w in zip(levels, weights, strict=True)],
            spreads=[a.spread for a in levels],
            encoder=encoder,
            config=config,
            iterations=iterations,
        )
    if vector_map is None:
        raise ValueError("align_section: no levels.")
    return vector_map


def identity_map(nodes: Grid, config: SsemnetConfig, *, device: torch.device) -> VectorMap:
    """Make the map v = 0."""
    return VectorMap(torch.zeros(2, *nodes.shape, device=device), nodes, config.interpolation)


def warp_levels(
    levels: Sequence[ObservedLevel], *, vector_map: VectorMap, encoder: Encoder, config: SsemnetConfig
) -> list[AlignedLevel]:
    """Compute the features of a section warped by its vector map, at every level."""
    aligned = []
    with torch.inference_mode():
        for level in levels:
            positions = level.grid.positions(level.image.device) + vector_map.on(level.grid)
            image, _ = sample_image(level.image[None], grid=level.grid, positions=positions, kind="bilinear")
            features = encoder.encode(image)[0]
            shape = (features.shape[-2], features.shape[-1])
            mask = _tissue_mask(level, positions=positions, shape=shape, config=config)
            grid = Grid(shape, level.grid.spacing * encoder.spacing, level.grid.origin)
            aligned.append(AlignedLevel(features, mask, feature_spread(features, mask=mask), grid))
    return aligned


def _descend(
    start: VectorMap,
    *,
    moving: ObservedLevel,
    targets: Sequence[Target],
    spreads: Sequence[Tensor],
    encoder: Encoder,
    config: SsemnetConfig,
    iterations: int,
) -> VectorMap:
    """Minimise the objective over v at one level, by Adam."""
    values = start.values.clone().requires_grad_(True)
    device = values.device
    interpolate = Interpolator(nodes=start.nodes, onto=moving.grid, kind=start.kind, device=device)
    pixels = moving.grid.positions(device)
    first_rate = config.learning_rate * moving.grid.spacing
    optimizer = torch.optim.Adam([values], lr=first_rate)
    shape = (targets[0].features.shape[-2], targets[0].features.shape[-1]) if targets else (1, 1)
    for iteration in range(iterations if targets else 0):
        optimizer.param_groups[0]["lr"] = first_rate * (1.0 - 0.9 * iteration / max(1, iterations - 1))
        optimizer.zero_grad()
        positions = pixels + interpolate(values)
        image, _ = sample_image(moving.image[None], grid=moving.grid, positions=positions, kind="bilinear")
        with torch.no_grad():
            mask = _tissue_mask(moving, positions=positions, shape=shape, config=config)
        loss = data_term(
            encoder.encode(image)[0],
            targets=targets,
            moving_mask=mask,
            spreads=spreads,
            drop=config.loss_drop * 0.5 ** (iteration // config.loss_drop_halving),
        ) + smoothness_term(
            values, spacing=start.nodes.spacing, alpha=config.alpha, beta=config.beta, gamma=config.gamma
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return VectorMap(values.detach(), start.nodes, start.kind)


def _tissue_mask(level: ObservedLevel, *, positions: Tensor, shape: tuple[int, int], config: SsemnetConfig) -> Tensor:
    """Compute M(T_v): 1 where the warped section shows tissue, resized to the feature map."""
    if not config.mask:
        return torch.ones(shape, device=positions.device)
    tissue, inside = sample_image(level.tissue[None], grid=level.grid, positions=positions, kind="bilinear")
    return mask_on_features(inside & (tissue[0] > 0.5), shape=shape)
