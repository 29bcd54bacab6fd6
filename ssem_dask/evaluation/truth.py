"""The exact truth about a simulated volume, read from its group `truth/`.

Layout of a simulated volume DEST.zarr:

    (root)         the observed sections, an OME-Zarr image
    truth/field    (z, 2, y, x), d_z, observed → truth, at 4 px
    truth/damage   (z, y, x), 1 for pixels that evaluation must ignore
    labels         labels in the observed frame, if labels were given
    truth/labels   labels in the truth frame, if labels were given

The group attribute `ssem_dask_truth` holds seed, parameters and source, the damaged sections and the missing ones
(`missing` lists all sections without tissue, including blank ones).
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
"""Group attribute that marks a simulated volume."""


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
        """Open the truth of a simulated volume.

        Raises:
            SourceError: there is no simulated volume, or it is unfinished.
            ConventionError: the truth is not stored at 4 px.
        """
        attributes = (arrays.group_attributes(url) or {}).get(TRUTH_KEY)
        if attributes is None:
            raise SourceError(
                f"{url}: no simulated volume with a truth is there; give the DEST.zarr that 'simulate' wrote."
            )
        if attributes.get("state") != "complete":
            raise SourceError(f"{url}: the simulation is unfinished; run 'simulate' again.")
        field, info = fields.open_field(join(url, "truth", "field"))
        if info.spacing != SPACING:
            raise ConventionError(
                f"{url}: the truth has a spacing of {info.spacing} px, but must have {SPACING} px; simulate it again."
            )
        damages = arrays.open_array(join(url, "truth", "damage"), mode="r")
        return cls(url=url, shape=info.shape_mip0, attributes=attributes, fields=field, damages=damages)

    @property
    def missing(self) -> frozenset[int]:
        """Set of z of the sections without any tissue."""
        return frozenset(int(z) for z in self.attributes["missing"])

    @property
    def damaged(self) -> frozenset[int]:
        """Set of z of all damaged sections, including the missing ones."""
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
        """Read d_z `(2, y, x)` on the 4-px grid."""
        return torch.from_numpy(np.asarray(self.fields[z], dtype=np.float32))

    def damage(self, z: int) -> BoolArray:
        """Read the damaged pixels (y, x) of the observed section."""
        return np.asarray(self.damages[z], dtype=bool)

    def damaged_nodes(self, z: int) -> Tensor:
        """Return the nodes `(y, x)` of the 4-px grid whose cell contains a damaged pixel."""
        return torch.from_numpy(pool_any(self.damage(z), factor=SPACING))


def pool_any(mask: AnyArray, *, factor: int) -> BoolArray:
    """Return whether any pixel of each `factor` × `factor` cell is set; the last cells may be partial."""
    rows, columns = (ceil_div(n, factor) for n in mask.shape)
    padded = np.zeros((rows * factor, columns * factor), dtype=bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(rows, factor, columns, factor).any(axis=(1, 3)))
