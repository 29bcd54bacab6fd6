"""Resolve a configuration: choose every value that was left open, from pixel size and section size."""

import math

from ssem_dask.config.digest import with_digests
from ssem_dask.config.schema import RunConfig
from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import ceil_div, level_count, mip_for_pixel_size
from ssem_dask.registration.damage import PIXEL as DAMAGE_PIXEL
from ssem_dask.registration.gauss_newton.gauss_newton_window import SEARCH_RANGE_PX
from ssem_dask.registration.methods import encoder_digest
from ssem_dask.registration.methods import resolve as resolve_register
from ssem_dask.stages.coarse import resolve as resolve_coarse
from ssem_dask.stages.compose.anchors import resolve as resolve_compose
from ssem_dask.stages.configs import MaskStageConfig, RegisterStageConfig, RenderStageConfig
from ssem_dask.stages.job import Job
from ssem_dask.stages.mask import user_mip
from ssem_dask.storage.volume import Volume, VolumeInfo, check_image_dtype, check_sections

_WINDOW, _WIDE_WINDOW = 1024, 2048  # px of the working image: bounds the memory of a task


# From this side on, px of the working image, windows are wide, where there are as many as a machine has cores for: less
# of what is read is halo, and a GPU computes for longer than it takes to tell it to (docs/decisions/0024).
_WIDE, _ENOUGH_WINDOWS = 4096, 48


# px of the working image: the longest displacement, and as far as what lies at the border of what is read changes the
# field by more than a tenth of a px (docs/decisions/0014).
_HALO = SEARCH_RANGE_PX + 96


_LEAST_SIDE = 32  # px


_LEAST_WORKING_SIDE = 64  # px of the working image: coarser ones hold too few features


def resolve(config: RunConfig) -> tuple[Job, list[str]]:
    """Open the source and choose every value that was left open.

    Returns:
        The job, and a line for each choice with its reason.

    Raises:
        SourceError: the source is missing, unreadable or too small to align.
        ConfigError: values that do not fit the volume or each other.
    """
    pixel, thickness = config.volume.pixel_size, config.volume.section_thickness
    source = Volume.open(config.source, pixel_size=pixel, section_thickness=thickness)
    info = source.info
    pixel, thickness = pixel or info.pixel_size, thickness or info.section_thickness
    info = VolumeInfo(shape=info.shape, dtype=info.dtype, pixel_size=pixel, section_thickness=thickness)
    _check_source(config.source, info)
    register, choices = _resolve_register(config.register_, info)
    mask, told = _resolve_mask(config.mask, info)
    choices += told
    _check_render(config.render)
    job = Job(
        source=config.source,
        output=config.output,
        info=info,
        coarse=resolve_coarse(config.coarse, sections=info.shape[0]),
        mask=mask,
        register=register,
        compose=resolve_compose(config.compose, info),
        render=config.render,
        downsample=config.downsample,
        mips=level_count(info.shape[1:], smallest=config.downsample.smallest),
        encoder_digest=encoder_digest(register),
        source_mips=len(source.mips),
        digests={},
    )
    return with_digests(job), choices


def _resolve_register(config: RegisterStageConfig, info: VolumeInfo) -> tuple[RegisterStageConfig, list[str]]:
    resolved = resolve_register(config, pixel_size=info.pixel_size)
    assert isinstance(resolved, RegisterStageConfig)
    assert resolved.mip is not None
    assert resolved.spacing is not None
    mip, spacing, choices = resolved.mip, resolved.spacing, []
    if config.mip is None:
        while mip > 0 and min(info.shape[1:]) < _LEAST_WORKING_SIDE * 2**mip:
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
    halo = round_up(_HALO * scale if config.halo is None else config.halo, multiple=scale)
    if config.window is None and config.halo is None:
        choices.append(
            f"register.window = {window}, halo = {halo}: {window // scale} + {halo // scale} px of the working image, "
            "so that a task's memory does not grow with the sections, and displacements up to "
            f"{SEARCH_RANGE_PX} px stay inside what is read"
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
    """Side of a window's core, mip-0 px, by the volume alone: results hang on it by hundredths of a pixel."""
    wide = round_up(_WIDE_WINDOW * scale, multiple=spacing)
    count = math.prod(ceil_div(n, extent) for n, extent in zip(info.shape, (sections, wide, wide), strict=True))
    if max(info.shape[1:]) >= _WIDE * scale and count >= _ENOUGH_WINDOWS:
        return wide
    return round_up(_WINDOW * scale, multiple=spacing)


def _working_pixel(mip: int, nearest: int, info: VolumeInfo) -> str:
    """Why the working image has this mip."""
    pixel = f"working pixel {info.pixel_size * 2**mip:.3g} nm"
    if mip < nearest:
        return (
            f"{pixel}, finer than 5 nm, since at mip {mip + 1} sections of {info.shape[1]} × {info.shape[2]} px would "
            f"have fewer than {_LEAST_WORKING_SIDE} px across"
        )
    if mip == 0 and info.pixel_size > 8:
        return f"{pixel}; 5 nm would be better, but the source has nothing finer"
    return f"{pixel}, the nearest to 5 nm of {info.pixel_size:.3g} nm times powers of two"


def _resolve_mask(config: MaskStageConfig, info: VolumeInfo) -> tuple[MaskStageConfig, list[str]]:
    if config.user is not None:
        user_mip(config, info.shape)
    if config.mip is not None:
        return config, []
    mip = mip_for_pixel_size(info.pixel_size, wanted=DAMAGE_PIXEL)
    told = f"mask.mip = {mip}: its pixel, {info.pixel_size * 2**mip:.3g} nm, is the nearest to {DAMAGE_PIXEL:.0f} nm"
    return config.model_copy(update={"mip": mip}), [told] if config.active else []


def _check_source(url: str, info: VolumeInfo) -> None:
    check_sections(url, info.shape)
    check_image_dtype(url, info.dtype)
    if min(info.shape[1:]) < _LEAST_SIDE:
        raise SourceError(
            f"{url}: sections are {info.shape[1]} × {info.shape[2]} px, but at least {_LEAST_SIDE} × {_LEAST_SIDE} px "
            "are needed to find anything again; give whole sections."
        )
    if info.section_thickness < info.pixel_size / 4:
        raise SourceError(
            f"{url}: sections are {info.section_thickness:g} nm thick but pixels {info.pixel_size:g} nm wide, which no "
            "series of sections is; check the order of the axes, or give --pixel-size and --section-thickness."
        )


def _check_render(config: RenderStageConfig) -> None:
    if any(c < 1 or s % c for c, s in zip(config.chunk, config.shard, strict=True)):
        raise ConfigError(
            f"[render] shard = {list(config.shard)}: must be a multiple of chunk = {list(config.chunk)} on every axis."
        )
    if math.prod(config.shard) > 1 << 30:
        raise ConfigError(
            f"[render] shard = {list(config.shard)}: {math.prod(config.shard) / 2**30:.1f} Gpx in one file, but a task "
            "holds a whole shard in memory; use at most 1 Gpx, for example [8, 2048, 2048]."
        )
