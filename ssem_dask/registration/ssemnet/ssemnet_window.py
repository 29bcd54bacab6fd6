"""A window by the founding method: section by section, each to its aligned predecessors.

The first section that shows tissue is the reference and stays as it is. Every later one is aligned to the nearest
predecessors that could be aligned, however far back they lie, so that an empty section does not break the window. Pair
fields follow from the sections' vector maps (`pairs`) and no longer depend on the choice of the reference.
"""

from collections import deque

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.registration.encoders.encoder import encoder_on
from ssem_dask.registration.pairs import PairFields, Similarity, covering_lattice, local_correlation, pair_fields
from ssem_dask.registration.ssemnet.optimise import (
    AlignedLevel,
    SsemnetConfig,
    align_section,
    identity_map,
    node_grid,
    observe,
    warp_levels,
)

_LEAST_TISSUE = 0.01  # share of the window's area; below, there is nothing to align
_CORRELATION_SIDE = 9  # feature cells


def ssemnet_window(
    images: Tensor,
    *,
    valid: Tensor,
    grid: Grid,
    nodes: Grid,
    core: range,
    neighbours: int,
    config: SsemnetConfig,
    device: torch.device | str,
    tears: Tensor | None = None,  # noqa: ARG001  the founding method's smoothness knows no tears
) -> PairFields:
    """Register a window; see `register_window`.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    encoder = encoder_on(config.encoder, digest=config.encoder_digest, device=device)
    lattice = covering_lattice(nodes, image=grid)
    nodes_v = node_grid(grid, scale=config.scales[-1], config=config)
    valid = valid.to(device)
    maps: list[Tensor | None] = []
    similarities: dict[tuple[int, int], Similarity] = {}
    # Newest first; pairs need K of them, the objective as many as it has weights.
    aligned: deque[tuple[int, list[AlignedLevel]]] = deque(maxlen=max(neighbours, len(config.neighbour_weights)))
    for z in range(min(core.stop, images.shape[0])):
        if float(valid[z].float().mean()) < _LEAST_TISSUE:
            maps.append(None)
            continue
        levels = observe(images[z].to(device), tissue=valid[z], grid=grid, scales=config.scales, encoder=encoder)
        if aligned:
            found = align_section(
                levels,
                neighbours=[pyramid for _, pyramid in list(aligned)[: len(config.neighbour_weights)]],
                grid=grid,
                encoder=encoder,
                config=config,
            )
        else:
            found = identity_map(nodes_v, config, device=valid.device)
        maps.append(found.on(lattice))
        pyramid = warp_levels(levels, vector_map=found, encoder=encoder, config=config)
        for other, neighbour in aligned:
            if z - other <= neighbours:
                similarities[z, other] = _similarity(pyramid[-1], neighbour[-1])
        aligned.appendleft((z, pyramid))
    return pair_fields(
        maps,
        lattice=lattice,
        tissue=valid,
        grid=grid,
        similarities=similarities,
        nodes=nodes,
        core=range(core.start, min(core.stop, images.shape[0])),
        neighbours=neighbours,
    )


def _similarity(a: AlignedLevel, b: AlignedLevel) -> Similarity:
    with torch.inference_mode():
        return local_correlation(a.features, b.features, mask=a.mask * b.mask, grid=a.grid, side=_CORRELATION_SIDE)
