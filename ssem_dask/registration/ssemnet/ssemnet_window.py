"""A window by ssEMnet (Yoo et al. 2017, arXiv 1707.07833): section by section, each to its aligned predecessors.

The first section that shows tissue is the reference and stays unchanged. Every later one is aligned to the nearest
predecessors that could be aligned, however far back they are, so that an empty section does not break the window. Pair
fields follow from the sections' vector maps (`aligned_pairs`) and no longer depend on the choice of the reference.
"""

from collections import deque

import torch
from torch import Tensor

from ssem_dask.errors import ConfigError
from ssem_dask.registration.encoders.encoder import Encoder, encoder_on, load_encoder
from ssem_dask.registration.registration_method import PairFields, PairRequest, RegistrationMethod, WindowImages
from ssem_dask.registration.ssemnet.aligned_pairs import (
    Similarity,
    compute_pair_fields,
    correlate_locally,
    covering_lattice,
)
from ssem_dask.registration.ssemnet.optimise import (
    AlignedLevel,
    SsemnetConfig,
    align_section,
    identity_map,
    node_grid,
    observe_levels,
    warp_levels,
)

_NODE_SPACING_NM = 320.0  # of the vector map at its finest
_LEAST_TISSUE = 0.01  # share of a section's area in the window; below, there is nothing to align
_CORRELATION_SIDE = 9  # feature cells


class Ssemnet(RegistrationMethod[SsemnetConfig]):
    """Optimisation of a vector map on learned features, as in ssEMnet; its smoothness ignores tears."""

    name = "ssemnet"

    def encoder(self, config: SsemnetConfig) -> Encoder:
        """Load the encoder that the configuration names."""
        return load_encoder(config.encoder, digest=config.encoder_digest)

    def resolve(self, config: SsemnetConfig, *, pixel_size: float) -> SsemnetConfig:
        """Derive the node spacing from the pixel size, nm per mip-0 px."""
        if config.node_spacing is not None:
            return config
        return config.model_copy(update={"node_spacing": _NODE_SPACING_NM / pixel_size})

    def register(
        self, window: WindowImages, request: PairRequest, *, config: SsemnetConfig, device: torch.device | str
    ) -> PairFields:
        """Register the pairs of a window; see `RegistrationMethod.register`."""
        if config.node_spacing is None:
            raise ConfigError(
                "register_window: register.ssemnet.node_spacing is None; call resolve(config, pixel_size=...) first."
            )
        encoder = encoder_on(config.encoder, digest=config.encoder_digest, device=device)
        grid, images, valid = window.grid, window.images, window.valid.to(device)
        lattice = covering_lattice(request.nodes, image=grid)
        finest_nodes = node_grid(grid, scale=config.scales[-1], config=config)
        neighbours = request.neighbours
        maps: list[Tensor | None] = []
        similarities: dict[tuple[int, int], Similarity] = {}
        # Newest first; pairs need K of them, the objective as many as it has weights.
        aligned: deque[tuple[int, list[AlignedLevel]]] = deque(maxlen=max(neighbours, len(config.neighbour_weights)))
        for z in range(min(request.core.stop, images.shape[0])):
            if float(valid[z].float().mean()) < _LEAST_TISSUE:
                maps.append(None)
                continue
            levels = observe_levels(
                images[z].to(device), tissue=valid[z], grid=grid, scales=config.scales, encoder=encoder
            )
            if aligned:
                vector_map = align_section(
                    levels,
                    neighbours=[pyramid for _, pyramid in list(aligned)[: len(config.neighbour_weights)]],
                    grid=grid,
                    encoder=encoder,
                    config=config,
                )
            else:
                vector_map = identity_map(finest_nodes, config, device=valid.device)
            maps.append(vector_map.on(lattice))
            pyramid = warp_levels(levels, vector_map=vector_map, encoder=encoder, config=config)
            for other, neighbour in aligned:
                if z - other <= neighbours:
                    similarities[z, other] = _similarity(pyramid[-1], neighbour[-1])
            aligned.appendleft((z, pyramid))
        core = range(request.core.start, min(request.core.stop, images.shape[0]))
        existing = PairRequest(nodes=request.nodes, core=core, neighbours=neighbours)
        return compute_pair_fields(maps, existing, lattice=lattice, tissue=valid, grid=grid, similarities=similarities)


def _similarity(a: AlignedLevel, b: AlignedLevel) -> Similarity:
    with torch.inference_mode():
        return correlate_locally(a.features, b.features, mask=a.mask * b.mask, grid=a.grid, side=_CORRELATION_SIDE)
