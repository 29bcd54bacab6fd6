"""Sections of several parts: one affine map per part, cut where a fold or a crack separates them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from ssem_dask.field.affine import apply_affine, invert_affine
from ssem_dask.types import AnyArray, Float64Array


@dataclass(frozen=True, slots=True)
class PiecewiseAffine:
    """Where the parts of a broken section are, and where they would be if it were whole.

    The whole section has the coordinates of the source. Its largest part, number 0, is where it is in the source.
    """

    maps: Float64[Float64Array, "p 2 3"]
    """Whole section → source, mip-0 px, of each part."""
    labels: UInt8[AnyArray, "y x"]
    """Part that each pixel of the source belongs to."""
    pixel: int
    """mip-0 px per pixel of the labels."""

    def to_source(self, whole: Float[Tensor, "2 *points"]) -> Float[Tensor, "2 *points"]:
        """Map positions of the whole section to the source; NaN where tissue was swallowed by a fold.

        Where parts overlap, the larger one is taken.
        """
        out = torch.full_like(whole, torch.nan)
        for part in reversed(range(len(self.maps))):
            source = apply_affine(self.maps[part], whole)
            out = torch.where(self._part_at(source) == part, source, out)
        return out

    def to_whole(self, source: Float[Tensor, "2 *points"]) -> Float[Tensor, "2 *points"]:
        """Map positions of the source to the whole section; NaN stays NaN."""
        part, out = self._part_at(source), source.clone()
        for number, affine in enumerate(self.maps):
            out = torch.where(part == number, apply_affine(invert_affine(affine), source), out)
        return out

    def _part_at(self, source: Tensor) -> Tensor:
        """Return the part at source positions; beyond the border that of the nearest pixel."""
        labels = torch.from_numpy(self.labels).to(source.device)
        y, x = (
            (torch.nan_to_num(source[axis]) / self.pixel).floor().long().clamp(0, labels.shape[axis] - 1)
            for axis in (0, 1)
        )
        return labels[y, x]
