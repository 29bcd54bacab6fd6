"""Choices of stage register that follow from the source: working mip, node spacing, window and halo."""

import math

from ssem_dask.errors import ConfigError
from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.registration.gauss_newton.gauss_newton_window import SEARCH_RANGE_PX
from ssem_dask.registration.methods import default_mip, default_spacing, resolved_methods
from ssem_dask.stages.configs import RegisterStageConfig, ResolvedRegister
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


def resolve_register(config: RegisterStageConfig, info: VolumeInfo) -> tuple[ResolvedRegister, list[str]]:
    """Choose every value of `[register]` that was left open.

    Returns:
        The table, and one line per choice with its reason.

    Raises:
        ConfigError: window or spacing do not fit each other or the working mip.
    """
    mip = _working_mip(info) if config.mip is None else config.mip
    spacing = default_spacing(info.pixel_size) if config.spacing is None else config.spacing
    scale = 2**mip
    _check_multiple("spacing", spacing, of=scale, name="2**mip", reason="nodes meet the working pixels")
    # A window of 0 is out of range, so only None is replaced.
    window = config.window or _window_side(config.sections, info, scale=scale, spacing=spacing)
    _check_multiple("window", window, of=spacing, name="spacing", reason="windows share no node")
    halo = round_up(_HALO_PX * scale if config.halo is None else config.halo, multiple=scale)
    chosen = {"mip": mip, "spacing": spacing, "window": window, "halo": halo}
    methods = resolved_methods(config, pixel_size=info.pixel_size)
    resolved = ResolvedRegister.model_validate({**dict(config), **methods, **chosen})
    return resolved, _reasons(config, resolved, info)


def _check_multiple(key: str, value: int, *, of: int, name: str, reason: str) -> None:
    """Raise ConfigError if the value of a key is not a multiple of another value, `of`, by its name."""
    if value % of:
        raise ConfigError(
            f"[register] {key} = {value}: must be a multiple of {name} = {of}, so that {reason}; use "
            f"{round_up(value, multiple=of)}."
        )


def _reasons(config: RegisterStageConfig, resolved: ResolvedRegister, info: VolumeInfo) -> list[str]:
    """Return one line per value that was chosen, with the reason."""
    reasons, scale = [], 2**resolved.mip
    if config.mip is None:
        reasons.append(f"register.mip = {resolved.mip}: {_working_pixel(resolved.mip, info)}")
    if config.spacing is None:
        distance = resolved.spacing * info.pixel_size
        reasons.append(f"register.spacing = {resolved.spacing}: a field node every {distance:.3g} nm")
    if config.window is None and config.halo is None:
        window, halo = resolved.window, resolved.halo
        y, x = info.shape[1:]
        reasons.append(
            f"register.window = {window}, halo = {halo}: {window // scale} + {halo // scale} px of the working image, "
            f"so that a task's memory does not grow with the sections, and displacements up to {SEARCH_RANGE_PX} px "
            f"stay inside what is read{f'; sections of {y} × {x} px fit into one' if max(y, x) <= window else ''}"
        )
    if config.method == "gauss_newton":
        smoothness = config.gauss_newton.smoothness
        reasons.append(
            "register.gauss_newton.smoothness: chosen from sample windows by stage calibrate"
            if smoothness is None
            else f"register.gauss_newton.smoothness = {list(smoothness)}: given, not chosen from the data"
        )
    return reasons


def _working_mip(info: VolumeInfo) -> int:
    """Return the mip nearest to the best working pixel whose sections are not too small to show features."""
    mip = default_mip(info.pixel_size)
    while mip > 0 and min(info.shape[1:]) < _MIN_WORKING_SIDE_PX * 2**mip:
        mip -= 1
    return mip


def _window_side(sections: int, info: VolumeInfo, *, scale: int, spacing: int) -> int:
    """Return the side of a window's core, mip-0 px, from the volume alone: it changes results by about 0.01 px."""
    wide = round_up(_WIDE_WINDOW_PX * scale, multiple=spacing)
    count = math.prod(ceil_div(n, extent) for n, extent in zip(info.shape, (sections, wide, wide), strict=True))
    if max(info.shape[1:]) >= _WIDE_SECTION_PX * scale and count >= _MIN_WIDE_WINDOWS:
        return wide
    return round_up(_WINDOW_PX * scale, multiple=spacing)


def _working_pixel(mip: int, info: VolumeInfo) -> str:
    """Return why the working image has this mip."""
    pixel = f"working pixel {info.pixel_size * 2**mip:.3g} nm"
    if mip < default_mip(info.pixel_size):
        return (
            f"{pixel}, finer than 5 nm, since at mip {mip + 1} sections of {info.shape[1]} × {info.shape[2]} px would "
            f"have fewer than {_MIN_WORKING_SIDE_PX} px across"
        )
    if mip == 0 and info.pixel_size > 8:
        return f"{pixel}; 5 nm would be better, but the source has nothing finer"
    return f"{pixel}, the nearest to 5 nm of {info.pixel_size:.3g} nm times powers of two"
