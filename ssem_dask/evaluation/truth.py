"""What is known exactly about a simulated volume, read from its group `truth/`.

Layout of a simulated volume DEST.zarr: the observed sections as an OME-Zarr image; `truth/field` (z, 2, y, x), d_z,
observed → truth, at 4 px; `truth/damage` (z, y, x), 1 where evaluation must not look; and where labels were given
`labels` in the observed and `truth/labels` in the truth frame. The group attribute `ssem_dask_truth` tells seed,
parameters, source, the damaged sections and the missing ones (`missing` lists all sections without tissue, blank ones
too).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssem_dask.errors import ConventionError, SourceError
from ssem_dask.evaluation.metrics.alignment_error import SPACING
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.storage import arrays, fields
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.location import join
from ssem_dask.types import AnyArray, BoolArray, ShapeZYX

TRUTH_KEY = "ssem_dask_truth"
"""Group attribute that makes a volume a simulated one."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth of one simulated volume."""

    url: str
    shape: ShapeZYX
    attributes: dict[str, Any]
    fields: ZarrArray
    damages: ZarrArray

    @classmethod
    def open(cls, url: str) -> "Truth":
        """Open it.

        Raises:
            SourceError: nothing is there, it is not a simulated volume, or it was not finished.
            ConventionError: the truth is not kept at 4 px.
        """
        attributes = (arrays.group_attributes(url) or {}).get(TRUTH_KEY)
        if attributes is None:
            raise SourceError(
                f"{url}: no simulated volume with its truth is there; give the DEST.zarr that 'simulate' wrote."
            )
        if attributes.get("state") != "complete":
            raise SourceError(f"{url}: its simulation was not finished; run 'simulate' again.")
        field, info = fields.open_field(join(url, "truth", "field"))
        if info.spacing != SPACING:
            raise ConventionError(
                f"{url}: the truth has a spacing of {info.spacing} px, but {SPACING} px is read here."
            )
        damages = arrays.open_array(join(url, "truth", "damage"), mode="r")
        return cls(url=url, shape=info.shape_mip0, attributes=attributes, fields=field, damages=damages)

    @property
    def missing(self) -> frozenset[int]:
        """z of the sections without any tissue."""
        return frozenset(int(z) for z in self.attributes["missing"])

    @property
    def damaged(self) -> frozenset[int]:
        """z of all damaged sections, the missing ones among them."""
        return frozenset(int(z) for z in self.attributes["damaged"])

    @property
    def labels(self) -> str | None:
        """URL of the labels in the observed frame, if there are any."""
        return join(self.url, "labels") if self.attributes["labels"] else None

    @property
    def truth_labels(self) -> str | None:
        """URL of the labels in the truth frame, if there are any."""
        return join(self.url, "truth", "labels") if self.attributes["labels"] else None

    @property
    def source(self) -> str | PhantomConfig:
        """The undeformed sections: URL of a volume, or the phantom they were generated from."""
        source = self.attributes["source"]
        return source if isinstance(source, str) else PhantomConfig.model_validate(source["phantom"])

    def field(self, z: int) -> Tensor:
        """d_z `(2, y, x)` on the 4-px grid."""
        return torch.from_numpy(np.asarray(self.fields[z], dtype=np.float32))

    def damage(self, z: int) -> BoolArray:
        """Damaged pixels (y, x) of the observed section."""
        return np.asarray(self.damages[z], dtype=bool)

    def damaged_nodes(self, z: int) -> Tensor:
        """Bool `(y, x)` on the 4-px grid: any pixel of the node's cell is damaged."""
        return torch.from_numpy(pool_any(self.damage(z), factor=SPACING))


def pool_any(mask: AnyArray, *, factor: int) -> BoolArray:
    """Whether any pixel of each `factor` x `factor` cell is set; the last cells may be partial."""
    rows, columns = (ceil_div(n, factor) for n in mask.shape)
    padded = np.zeros((rows * factor, columns * factor), dtype=bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(rows, factor, columns, factor).any(axis=(1, 3)))
