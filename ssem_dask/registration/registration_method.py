"""Interface of registration methods: what they take and return.

A method takes the images of a window (`WindowImages`) and the pairs that are wanted (`PairRequest`), and returns their
fields (`PairFields`). Each method is a `RegistrationMethod` in a folder of its own; `methods.METHODS` lists them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.errors import ConfigError
from ssem_dask.field.grid import Grid
from ssem_dask.registration.encoders.encoder import Encoder
from ssem_dask.registration.gauss_newton.pair_points import PairPoints
from ssem_dask.types import ConfigBase

MethodConfig = TypeVar("MethodConfig", bound=ConfigBase)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowImages:
    """Coarse-aligned consecutive sections of one window, core and halo.

    Raises:
        ConfigError: images, mask and grid do not have one shape.
    """

    images: Float[Tensor, "z y x"]
    """Sections, any intensity unit; NaN is allowed where `valid` is False."""
    valid: Bool[Tensor, "z y x"]
    """Tissue; False where there is none."""
    grid: Grid
    """Grid of the pixels, mip-0 px."""
    tears: Bool[Tensor, "z y x"] | None = None
    """Folds and cracks, across which fields need not be smooth; None if there are none."""
    points: Mapping[tuple[int, int], PairPoints] = field(default_factory=dict)
    """Points that a person has given, by (fixed, moving), indices in the window; in one direction only."""
    untied: frozenset[int] = frozenset()
    """Sections that coarse alignment tied to no other, indices in the window."""

    def __post_init__(self) -> None:
        if self.images.shape != self.valid.shape or tuple(self.images.shape[-2:]) != self.grid.shape:
            raise ConfigError(
                f"WindowImages: images {tuple(self.images.shape)}, valid {tuple(self.valid.shape)} and grid "
                f"{self.grid.shape} must have one shape (z, y, x); read them from one box."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRequest:
    """The pair fields that are wanted from a window."""

    nodes: Grid
    """Grid of the fields, mip-0 px."""
    core: range
    """Indices of the fixed sections in the window; earlier sections are the halo in z."""
    neighbours: int
    """K: each section is paired with its 1st … K-th predecessor."""
    only: frozenset[tuple[int, int]] | None = None
    """(fixed, moving) of the pairs that are wanted; None: all."""

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(fixed, moving) of all pairs whose sections exist, indices in the window, nearest neighbours first."""
        every = ((z, z - k) for k in range(1, self.neighbours + 1) for z in self.core if z >= k)
        return [pair for pair in every if self.only is None or pair in self.only]


@dataclass(frozen=True, slots=True)
class PairFields:
    """The result of registering a window."""

    fields: Float[Tensor, "K z 2 ny nx"]
    """float32 pull fields, mip-0 px; [k-1, i] has fixed section core[i] and moving section core[i]-k; NaN is unknown
    (C8), also where that section does not exist or shows no tissue."""
    confidence: Float[Tensor, "K z ny nx"]
    """float32 in [0, 1]; 0 where the field is unknown."""


class RegistrationMethod(ABC, Generic[MethodConfig]):
    """A way to find pair fields.

    To add one, write it in a folder of its own, list it in `methods.METHODS`, and give `RegisterConfig` a table of its
    name.
    """

    name: ClassVar[str]
    """Value of `register.method`, and name of the method's table in the configuration."""
    needs_calibration: ClassVar[bool] = False
    """Whether the stage `calibrate` measures parameters for the method; it knows those of gauss_newton alone."""

    @abstractmethod
    def encoder(self, config: MethodConfig) -> Encoder | None:
        """Load the encoder whose features are compared; None if the method uses none.

        Raises:
            WeightsError: the encoder cannot be loaded.
        """

    @abstractmethod
    def register(
        self, window: WindowImages, request: PairRequest, *, config: MethodConfig, device: torch.device | str
    ) -> PairFields:
        """Register the pairs of a window.

        Args:
            window: sections of core and halo.
            request: pairs that are wanted.
            config: parameters, resolved.
            device: torch device to work on; the result is on it too.

        Raises:
            ConfigError: the configuration is not resolved.
            WeightsError: the encoder cannot be loaded.
        """

    def resolve(self, config: MethodConfig, *, pixel_size: float) -> MethodConfig:  # noqa: ARG002
        """Fill in the parameters that follow from the pixel size, nm per mip-0 px."""
        return config
