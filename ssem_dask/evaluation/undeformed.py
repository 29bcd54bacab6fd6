"""Undeformed sections to simulate from: a stored volume, or a phantom that is generated without being stored."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume, VolumeInfo
from ssem_dask.types import AnyArray

_MAX_SLAB_BYTES = 1 << 28
"""Largest slab of sections that is read at once."""


@dataclass(frozen=True, slots=True)
class UndeformedSection:
    """One section in the truth frame."""

    image: AnyArray
    """(y, x) uint8 or uint16."""
    labels: AnyArray | None
    """(y, x) integers, 0 is background."""


class UndeformedSections(Protocol):
    """A source of undeformed sections."""

    @property
    def info(self) -> VolumeInfo:
        """Shape, dtype and pixel size of the volume."""
        ...

    @property
    def label_dtype(self) -> np.dtype[Any] | None:
        """Data type of the labels; None if there are none."""
        ...

    @property
    def description(self) -> str | dict[str, Any]:
        """URL of a stored volume, or the parameters of a generated one (JSON)."""
        ...

    def sections(self) -> Iterator[UndeformedSection]:
        """Yield all sections in order of z, with few in memory at a time."""
        ...


class StoredSections:
    """Sections, and optionally labels, of stored volumes."""

    def __init__(self, url: str, *, labels: str | None) -> None:
        """Open the volumes.

        Raises:
            SourceError: images are not uint8 or uint16, labels are not integers, or the shapes differ.
        """
        self._images = Volume.open(url)
        self.info = self._images.info
        if self.info.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
            raise SourceError(f"{url}: dtype is {self.info.dtype}, but sections must be uint8 or uint16; convert them.")
        self.description = url
        self._labels: Volume | None = None
        self.label_dtype: np.dtype[Any] | None = None
        if labels is None:
            return
        opened = Volume.open(labels, like=self.info)
        if opened.info.shape != self.info.shape:
            raise SourceError(
                f"{labels}: labels have shape {opened.info.shape}, but the volume has {self.info.shape}; "
                "give labels of the same sections."
            )
        if opened.info.dtype.kind not in "ui":
            raise SourceError(f"{labels}: dtype is {opened.info.dtype}, but labels must be integers; convert them.")
        self._labels = opened
        self.label_dtype = opened.info.dtype

    def sections(self) -> Iterator[UndeformedSection]:
        """Yield all sections in order of z, read in slabs as deep as a chunk, so that no chunk is read twice."""
        depth, height, width = self.info.shape
        pixel_bytes = self.info.dtype.itemsize + (0 if self.label_dtype is None else self.label_dtype.itemsize)
        deepest = max(1, _MAX_SLAB_BYTES // (height * width * pixel_bytes))
        step = min(self._images.chunk(0)[0], deepest)
        for start in range(0, depth, step):
            box = Box((start, 0, 0), (min(start + step, depth), height, width))
            images = self._images.read(box)
            labels = None if self._labels is None else self._labels.read(box)
            for i in range(len(images)):
                yield UndeformedSection(images[i], None if labels is None else labels[i])


class PhantomSections:
    """Sections and labels of a phantom, generated on demand."""

    def __init__(self, config: PhantomConfig) -> None:
        self._config = config
        probe = generate(config, Box((0, 0, 0), (1, 8, 8)))
        self.info = VolumeInfo(
            shape=config.shape,
            dtype=np.dtype(probe.image.dtype),
            pixel_size=config.pixel_size,
            section_thickness=config.section_thickness,
        )
        self.label_dtype: np.dtype[Any] | None = np.dtype(probe.labels.dtype)
        self.description: dict[str, Any] = {"phantom": config.model_dump(mode="json")}

    def read(self, box: Box) -> AnyArray:
        """Return the image values (z, y, x) of a box."""
        return generate(self._config, box).image

    def sections(self) -> Iterator[UndeformedSection]:
        """Yield all sections in order of z, one at a time."""
        depth, height, width = self.info.shape
        for z in range(depth):
            chunk = generate(self._config, Box((z, 0, 0), (z + 1, height, width)))
            yield UndeformedSection(chunk.image[0], chunk.labels[0])
