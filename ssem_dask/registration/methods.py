"""Registration of a window of sections: one interface, several methods.

A method turns a window of coarse-aligned sections into pair fields. It makes itself known by `register_method`; the
stage calls `register_window` and does not know which methods there are.
"""

from typing import Any, Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ssem_dask.errors import ConfigError
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.mip import mip_for_pixel_size
from ssem_dask.registration.encoders.encoder import load_encoder
from ssem_dask.registration.gauss_newton.gauss_newton_window import gauss_newton_window
from ssem_dask.registration.gauss_newton.solver import GaussNewtonConfig
from ssem_dask.registration.pairs import PairFields
from ssem_dask.registration.ssemnet.optimise import SsemnetConfig
from ssem_dask.registration.ssemnet.ssemnet_window import ssemnet_window
from ssem_dask.types import ConfigBase

_WORKING_PIXEL = 5.0  # nm: on 5 nm phantoms a pixel of 10 nm leaves a sixth more error (docs/decisions/0003)
_NODE_SPACING = 320.0  # nm, of the vector map at its finest
_FIELD_SPACING = (
    80.0  # nm, of the pair fields: distortion bends within a few hundred nm, and between nodes fields are bilinear
)


class RegisterConfig(ConfigBase):
    """Registration of neighbour sections."""

    method: str = "gauss_newton"
    """How pair fields are found: gauss_newton, or ssemnet, the founding method and the reference, which is slower."""
    neighbours: int = Field(default=3, ge=1, le=8)
    """K: each section is paired with its 1st … K-th predecessor."""
    mip: int | None = Field(default=None, ge=0)
    """Scale level of the images that are registered; None takes the one whose pixel is nearest to 5 nm."""
    spacing: int | None = Field(default=None, ge=1)
    """Spacing of the pair fields, mip-0 px; None takes about 80 nm, a power of two."""
    gauss_newton: GaussNewtonConfig = GaussNewtonConfig()
    """Parameters of Gauss-Newton registration."""
    ssemnet: SsemnetConfig = SsemnetConfig()
    """Parameters of the founding method."""

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        if name not in _METHODS:
            raise ValueError(f"{name!r} is not a registration method; choose one of {', '.join(method_names())}.")
        return name


class Method(Protocol):
    """Window → pair fields; arguments as of `register_window`, but for `config`: the method's own table."""

    def __call__(
        self,
        images: Tensor,
        *,
        valid: Tensor,
        grid: Grid,
        nodes: Grid,
        core: range,
        neighbours: int,
        config: Any,
        device: torch.device | str,
        tears: Tensor | None,
    ) -> PairFields:
        """Register."""


_METHODS: dict[str, Method] = {}


def register_method(name: str, method: Method) -> None:
    """Make a method known under a name."""
    _METHODS[name] = method


def method_names() -> tuple[str, ...]:
    """Methods that `RegisterConfig.method` accepts."""
    return tuple(sorted(_METHODS))


def resolve(config: RegisterConfig, *, pixel_size: float) -> RegisterConfig:
    """Fill in what is left to None from the pixel size (nm per mip-0 px): nothing is left to tune."""
    changes: dict[str, Any] = {}
    if config.mip is None:
        changes["mip"] = mip_for_pixel_size(pixel_size, wanted=_WORKING_PIXEL)
    if config.spacing is None:
        changes["spacing"] = max(4, 2 ** mip_for_pixel_size(pixel_size, wanted=_FIELD_SPACING))
    if config.ssemnet.node_spacing is None:
        spacing = _NODE_SPACING / pixel_size
        changes["ssemnet"] = config.ssemnet.model_copy(update={"node_spacing": spacing})
    return config.model_copy(update=changes)


def encoder_digest(config: RegisterConfig) -> str:
    """Digest of the encoder that the method uses, which also checks that it can be loaded; empty if it uses none.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    own = _own_table(config)
    if not isinstance(own, GaussNewtonConfig | SsemnetConfig):
        return ""
    return load_encoder(own.encoder, digest=own.encoder_digest).digest


def register_window(
    images: Tensor,
    *,
    valid: Tensor,
    grid: Grid,
    nodes: Grid,
    core: range,
    neighbours: int,
    config: RegisterConfig,
    device: torch.device | str,
    tears: Tensor | None = None,
) -> PairFields:
    """Register the neighbours of every section of a window's core.

    Args:
        images: `(z, y, x)` float32, coarse-aligned sections of core and halo, any intensity unit.
        valid: `(z, y, x)` bool, False where there is no tissue.
        grid: of the images' pixels, mip-0 px.
        nodes: where the fields are wanted.
        core: indices of the core's sections in `images`; earlier ones are the halo in z.
        neighbours: K.
        config: resolved, see `resolve`.
        device: torch device to work on.
        tears: `(z, y, x)` bool, True in folds and cracks, across which nothing need be smooth; None: there are none.

    Returns:
        Pair fields and confidences on `device`. [k-1, i] has fixed section core[i] and moving section core[i]-k; all
        NaN where that section does not exist or shows no tissue.

    Raises:
        ConfigError: images, mask and grid do not belong together, or the configuration is not resolved.
        WeightsError: the encoder cannot be loaded.
    """
    if images.shape != valid.shape or (images.shape[-2], images.shape[-1]) != grid.shape:
        raise ConfigError(
            f"register_window: images {tuple(images.shape)}, valid {tuple(valid.shape)} and grid {grid.shape} must "
            "have one shape (z, y, x); read them from one box."
        )
    if config.method == "ssemnet" and config.ssemnet.node_spacing is None:
        raise ConfigError(
            "register_window: register.ssemnet.node_spacing is None; call resolve(config, pixel_size=...) first."
        )
    # Seen from the window's own corner, positions stay small and float32 keeps its precision (C9).
    corner = grid.origin
    return _METHODS[config.method](
        images.float(),
        valid=valid,
        grid=grid.relative_to(corner),
        nodes=nodes.relative_to(corner),
        core=core,
        neighbours=neighbours,
        config=_own_table(config),
        device=device,
        tears=tears,
    )


def _own_table(config: RegisterConfig) -> ConfigBase:
    """The parameters of the method that is chosen; all, where it has no table of its own."""
    own = getattr(config, config.method, config)
    assert isinstance(own, ConfigBase)
    return own


register_method("ssemnet", ssemnet_window)
register_method("gauss_newton", gauss_newton_window)
