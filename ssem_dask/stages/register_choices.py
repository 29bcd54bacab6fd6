"""Choices of stage register that follow from the source: working mip, node spacing, window and halo."""

import math

from ssem_dask.errors import ConfigError
from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.registration.gauss_newton.gauss_newton_window import SEARCH_RANGE_PX
from ssem_dask.registration.methods import resolve as resolve_method
from ssem_dask.stages.configs import RegisterStageConfig
from ssem_dask.storage.volume import VolumeInfo

_WINDOW_PX, _WIDE_WINDOW_PX = 1024, 2048
"""Sides of a window's core, px of the working image; they bound the memory of a task."""
# From this side of a section on, px of the working image, windows are wide if there are as many as a machine has cores:
# less of what is read is halo, and a GPU computes for longer per launch (docs/decisions/0024).
_WIDE_SECTION_PX, _MIN_WIDE_WINDOWS = 4096, 48
# px of the working image: the longest displacement, and as far as pixels at the border of the read box change the field
# by more than 0.1 px (docs/decisions/0014).
_HALO_PX = SEARCH_RANGE_PX + 96
_MIN_WORKING_SIDE_PX = 64
"""px of the working image: coarser images hold too few features."""


def resolve_register(config: RegisterStageConfig, info: VolumeInfo) -> tuple[RegisterStageConfig, list[str]]:
    """Choose every value of `[register]` that was left open.

    Returns:
        The table, and one line per choice with its reason.

    Raises:
        ConfigError: window or spacing do not fit each other or the working mip.
    """
    resolved = resolve_method(config, pixel_size=info.pixel_size)
    assert isinstance(resolved, RegisterStageConfig)
    assert resolved.mip is not None
    assert resolved.spacing is not None
    mip, spacing, choices = resolved.mip, resolved.spacing, []
    if config.mip is None:
        while mip > 0 and min(info.shape[1:]) < _MIN_WORKING_SIDE_PX * 2**mip:
            mip -= 1
        choices.append(f"register.mip = {mip}: {_working_pixel(mip, resolved.mip, info)}")
    scale = 2**mip
    if config.spacing is None:
        choices.append(f"register.spacing = {spacing}: a field node every {spacing * info.pixel_size:.3g} nm")
    if spacing % scale:
        raise ConfigError(
            f"[register] spacing = {spacing}: must be a multiple of 2**mip = {scale}, so that nodes meet the working "
            f"pixels; use {round_up(spacing, multiple=scale)}."
        )
    window = config.window or _window_side(config.sections, info, scale=scale, spacing=spacing)
    if window % spacing:
        raise ConfigError(
            f"[register] window = {window}: must be a multiple of spacing = {spacing}, so that windows share no node; "
            f"use {round_up(window, multiple=spacing)}."
        )
    halo = round_up(_HALO_PX * scale if config.halo is None else config.halo, multiple=scale)
    if config.window is None and config.halo is None:
        choices.append(
            f"register.window = {window}, halo = {halo}: {window // scale} + {halo // scale} px of the working image, "
            f"so that a task's memory does not grow with the sections, and displacements up to {SEARCH_RANGE_PX} px "
            "stay inside what is read"
            + (
                f"; sections of {info.shape[1]} × {info.shape[2]} px fit into one"
                if max(info.shape[1:]) <= window
                else ""
            )
        )
    if config.method == "gauss_newton":
        given = config.gauss_newton.smoothness
        choices.append(
            "register.gauss_newton.smoothness: chosen from sample windows by stage calibrate"
            if given is None
            else f"register.gauss_newton.smoothness = {list(given)}: given, not chosen from the data"
        )
    return resolved.model_copy(update={"mip": mip, "window": window, "halo": halo}), choices


def _window_side(sections: int, info: VolumeInfo, *, scale: int, spacing: int) -> int:
    """Return the side of a window's core, mip-0 px, from the volume alone: it changes results by about 0.01 px."""
    wide = round_up(_WIDE_WINDOW_PX * scale, multiple=spacing)
    count = math.prod(ceil_div(n, extent) for n, extent in zip(info.shape, (sections, wide, wide), strict=True))
    if max(info.shape[1:]) >= _WIDE_SECTION_PX * scale and count >= _MIN_WIDE_WINDOWS:
        return wide
    return round_up(_WINDOW_PX * scale, multiple=spacing)


def _working_pixel(mip: int, nearest: int, info: VolumeInfo) -> str:
    """Return why the working image has this mip."""
    pixel = f"working pixel {info.pixel_size * 2**mip:.3g} nm"
    if mip < nearest:
        return (
            f"{pixel}, finer than 5 nm, since at mip {mip + 1} sections of {info.shape[1]} × {info.shape[2]} px would "
            f"have fewer than {_MIN_WORKING_SIDE_PX} px across"
        )
    if mip == 0 and info.pixel_size > 8:
        return f"{pixel}; 5 nm would be better, but the source has nothing finer"
    return f"{pixel}, the nearest to 5 nm of {info.pixel_size:.3g} nm times powers of two"
