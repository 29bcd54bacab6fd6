"""`confidence.measure_match` from one kernel over the pixels."""

from collections.abc import Sequence

import torch
import triton

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.confidence import MatchMeasures, average_match_maps
from ssem_dask.registration.gauss_newton.solver import FeatureLevel, NodeFields
from ssem_dask.registration.triton.kernels.match_kernels import match_maps
from ssem_dask.registration.triton.kernels.warp_kernels import mean_error, warp_features
from ssem_dask.registration.vector_map import axis_index

_PIXELS = 1024
_SUMS = 1024


def measure_match_fused(
    sections: FeatureLevel,
    pairs: Sequence[tuple[int, int]],
    *,
    fields: NodeFields,
    nodes: Grid,
    cutoff: float,
    mean_residual: float | None = None,
) -> MatchMeasures:
    """Compare the fixed sections with the warped moving ones; see `confidence.measure_match`.

    Args:
        sections: features of all sections of the window, level 0.
        pairs: (fixed, moving), indices of sections.
        fields: fields of the pairs; bilinear.
        nodes: grid on which the measures are wanted.
        cutoff: rc of the robust weights.
        mean_residual: ē of the robust weights; None: each pair's own.
    """
    device, n = sections.features.device, len(pairs)
    channels, h, w = sections.features.shape[1:]
    ny, nx = fields.nodes.shape
    index = torch.tensor(pairs, dtype=torch.int32, device=device)
    blocks = triton.cdiv(h * w, _PIXELS)
    warped = torch.empty(n, channels, h, w, device=device)
    counted = torch.empty(n, h, w, dtype=torch.int8, device=device)
    partial, moments = torch.empty(n, blocks, 2, device=device), torch.empty(n, 2, device=device)
    warp_features[blocks, n](
        sections.features.contiguous(),
        sections.valid.contiguous(),
        index,
        (fields.values / sections.grid.spacing).contiguous(),
        warped,
        counted,
        partial,
        h,
        w,
        ny,
        nx,
        *(float(axis_index(sections.grid, fields.nodes, axis)[0]) for axis in (0, 1)),
        sections.grid.spacing / fields.nodes.spacing,
        channels=channels,
        block=_PIXELS,
    )
    scale = torch.tensor([mean_residual or 0.0, 0.0], device=device)  # 0: the kernel takes each pair's own
    mean_error[n,](partial, moments, scale, blocks, block=_SUMS)
    maps = torch.empty(n, 2 * channels + 5, h, w, device=device)
    match_maps[blocks, n](
        sections.features.contiguous(),
        index,
        warped,
        counted,
        moments,
        maps,
        cutoff,
        h,
        w,
        channels=channels,
        block=_PIXELS,
    )
    return average_match_maps(maps, channels=channels, pixels=sections.grid, nodes=nodes)
