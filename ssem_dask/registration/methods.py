"""Registration of a window of sections: one interface, several methods.

`METHODS` is the only list of methods. Stages call `register_window` and ask `RegisterConfig.registration_method`. Only
stage `calibrate` is made for one method, gauss_newton; it runs if the method `needs_calibration`.
"""

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field, field_validator

from ssem_dask.geometry.mip import mip_for_pixel_size
from ssem_dask.registration.gauss_newton.gauss_newton_window import GaussNewton
from ssem_dask.registration.gauss_newton.solver import GaussNewtonConfig
from ssem_dask.registration.registration_method import PairFields, PairRequest, RegistrationMethod, WindowImages
from ssem_dask.registration.ssemnet.optimise import SsemnetConfig
from ssem_dask.registration.ssemnet.ssemnet_window import Ssemnet
from ssem_dask.types import ConfigBase

METHODS: dict[str, RegistrationMethod[Any]] = {method.name: method for method in (GaussNewton(), Ssemnet())}
"""All methods by name."""

_WORKING_PIXEL_NM = 5.0  # on 5 nm phantoms a pixel of 10 nm leaves a sixth more error (docs/decisions/0003)
# Distortion bends within a few hundred nm, and between nodes fields are bilinear.
_FIELD_SPACING_NM = 80.0


class RegisterConfig(ConfigBase):
    """Registration of neighbour sections."""

    method: str = "gauss_newton"
    """How pair fields are found: gauss_newton, or ssemnet (Yoo et al. 2017), the reference, which is slower."""
    neighbours: int = Field(default=3, ge=1, le=8)
    """K: each section is paired with its 1st … K-th predecessor."""
    mip: int | None = Field(default=None, ge=0)
    """Scale level of the images that are registered; None takes the one whose pixel is nearest to 5 nm."""
    spacing: int | None = Field(default=None, ge=1)
    """Spacing of the pair fields, mip-0 px; None takes about 80 nm, a power of two."""
    gauss_newton: GaussNewtonConfig = GaussNewtonConfig()
    """Parameters of Gauss-Newton registration."""
    ssemnet: SsemnetConfig = SsemnetConfig()
    """Parameters of ssEMnet (Yoo et al. 2017)."""

    @field_validator("method")
    @classmethod
    def _check_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"{name!r} is not a registration method; choose one of {', '.join(sorted(METHODS))}.")
        return name

    @property
    def registration_method(self) -> RegistrationMethod[Any]:
        """The method that is chosen."""
        return METHODS[self.method]

    @property
    def method_config(self) -> ConfigBase:
        """Parameters of the method that is chosen."""
        table = getattr(self, self.method)
        assert isinstance(table, ConfigBase)
        return table


def resolve(config: RegisterConfig, *, pixel_size: float) -> RegisterConfig:
    """Fill in everything that is None from the pixel size (nm per mip-0 px): nothing is left to tune."""
    changes: dict[str, Any] = dict(resolved_methods(config, pixel_size=pixel_size))
    if config.mip is None:
        changes["mip"] = default_mip(pixel_size)
    if config.spacing is None:
        changes["spacing"] = default_spacing(pixel_size)
    return config.model_copy(update=changes)


def resolved_methods(config: RegisterConfig, *, pixel_size: float) -> dict[str, ConfigBase]:
    """Return the parameters of every method, by its name, with those chosen that follow from the pixel size."""
    return {name: method.resolve(getattr(config, name), pixel_size=pixel_size) for name, method in METHODS.items()}


def default_mip(pixel_size: float) -> int:
    """Return the scale level whose pixel is nearest to 5 nm."""
    return mip_for_pixel_size(pixel_size, wanted=_WORKING_PIXEL_NM)


def default_spacing(pixel_size: float) -> int:
    """Return the node spacing of about 80 nm, a power of two, mip-0 px."""
    return max(4, 1 << mip_for_pixel_size(pixel_size, wanted=_FIELD_SPACING_NM))


def encoder_digest(config: RegisterConfig) -> str:
    """Return the digest of the method's encoder, which checks that it can be loaded; empty if it uses none.

    Raises:
        WeightsError: the encoder cannot be loaded.
    """
    encoder = config.registration_method.encoder(config.method_config)
    return "" if encoder is None else encoder.digest


def register_window(
    window: WindowImages, request: PairRequest, *, config: RegisterConfig, device: torch.device | str
) -> PairFields:
    """Register the neighbours of every section of a window's core.

    Args:
        window: sections of core and halo.
        request: pairs that are wanted.
        config: resolved, see `resolve`.
        device: torch device to work on; the result is on it too.

    Raises:
        ConfigError: the configuration is not resolved.
        WeightsError: the encoder cannot be loaded.
    """
    # Relative to the window's own corner, positions stay small and float32 keeps its precision (C9).
    corner = window.grid.origin
    return config.registration_method.register(
        replace(window, images=window.images.float(), grid=window.grid.relative_to(corner)),
        replace(request, nodes=request.nodes.relative_to(corner)),
        config=config.method_config,
        device=device,
    )
