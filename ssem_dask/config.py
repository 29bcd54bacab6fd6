"""The configuration of a run: one strict, frozen tree, its TOML file, its digest, and what follows from the data.

A user overrides, never must: every `None` is chosen in `resolve` from pixel size and section size, and the choice is
told. The digest covers everything that decides the result and nothing that does not (where it runs).
"""

import difflib
import hashlib
import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import ceil_div, level_count, mip_for_pixel_size
from ssem_dask.registration.damage import PIXEL as DAMAGE_PIXEL
from ssem_dask.registration.gauss_newton_window import SEARCH_RANGE
from ssem_dask.registration.register import encoder_digest
from ssem_dask.registration.register import resolve as resolve_register
from ssem_dask.runtime.clusters.config import ClusterConfig
from ssem_dask.stages.coarse import resolve as resolve_coarse
from ssem_dask.stages.job import (
    CoarseStageConfig,
    ComposeStageConfig,
    DownsampleStageConfig,
    Job,
    MaskStageConfig,
    RegisterStageConfig,
    RenderStageConfig,
)
from ssem_dask.stages.mask import user_mip
from ssem_dask.stages.reference import resolve as resolve_compose
from ssem_dask.storage.quality import BLOCK
from ssem_dask.storage.volume import Volume, VolumeInfo, check_image_dtype, check_sections
from ssem_dask.types import ConfigBase

_WINDOW, _WIDE_WINDOW = 1024, 2048  # px of the working image: bounds the memory of a task
# From this side on, px of the working image, windows are wide, where there are as many as a machine has cores for: less
# of what is read is halo, and a GPU computes for longer than it takes to tell it to (docs/decisions/0024).
_WIDE, _ENOUGH_WINDOWS = 4096, 48
# px of the working image: the longest displacement, and as far as what lies at the border of what is read changes the
# field by more than a tenth of a px (docs/decisions/0014).
_HALO = SEARCH_RANGE + 96
_LEAST_SIDE = 32  # px
_UPSTREAM = {
    "coarse": (),
    "mask": ("coarse",),
    "calibrate": ("coarse",),
    "register": ("coarse", "mask", "calibrate"),
    "compose": ("coarse", "register"),
    "render": ("compose",),
    "downsample": ("render",),
    "measure": ("compose", "downsample"),
}
"""For each stage those whose results it reads."""
_LEAST_WORKING_SIDE = 64  # px of the working image: coarser ones hold too few features


class VolumeConfig(ConfigBase):
    """What the source does not say of itself."""

    pixel_size: float | None = Field(default=None, gt=0)
    """nm per mip-0 pixel; None: as the source says."""
    section_thickness: float | None = Field(default=None, gt=0)
    """nm per section; None: as the source says."""


class RunConfig(ConfigBase):
    """One run."""

    source: str
    """URL of the source volume."""
    output: str
    """URL of the run's Zarr group, by custom ending in .zarr."""
    volume: VolumeConfig = VolumeConfig()
    coarse: CoarseStageConfig = CoarseStageConfig()
    mask: MaskStageConfig = MaskStageConfig()
    register_: RegisterStageConfig = Field(default=RegisterStageConfig(), alias="register")
    compose: ComposeStageConfig = ComposeStageConfig()
    render: RenderStageConfig = RenderStageConfig()
    downsample: DownsampleStageConfig = DownsampleStageConfig()
    cluster: ClusterConfig = ClusterConfig()


class ClusterFile(ConfigBase):
    """A file that describes a cluster alone, to be shared by many runs: `--cluster FILE.toml`."""

    cluster: ClusterConfig


_Config = TypeVar("_Config", bound=ConfigBase)


def load_config(path: str, **overrides: Any) -> RunConfig:
    """Read a TOML file; top-level `overrides` that are not None replace its values.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, a value is out of range.
    """
    tree = _read_toml(path)
    tree.update({key: value for key, value in overrides.items() if value is not None})
    return make_config(tree, where=f"Config {path}")


def cluster_settings(cluster: str | None, *, workers: int | None, table: ClusterConfig) -> ClusterConfig:
    """What `--cluster` and `--workers` make of the `[cluster]` table.

    Args:
        cluster: a cluster's name or address, or a TOML file that holds a `[cluster]` table and nothing else; it then
            takes the place of `table`. None: as `table` says.
        workers: number of workers; None: as the table says.
        table: of the run's configuration.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, a value is out of range.
    """
    if cluster is not None and cluster.endswith(".toml"):
        tree = _read_toml(cluster)
        table = _validated(ClusterFile, tree, where=f"Config {cluster}").cluster
    elif cluster is not None:
        table = table.model_copy(update={"name": cluster})
    return table if workers is None else table.model_copy(update={"workers": workers})


def make_config(tree: dict[str, Any], *, where: str = "Config") -> RunConfig:
    """Validate a tree of plain values.

    Raises:
        ConfigError: names the key, what was given and what is wanted.
    """
    return _validated(RunConfig, tree, where=where)


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
    return _with_digests(job), choices


def stored_config(job: Job) -> dict[str, Any]:
    """All that was decided, as plain JSON values, for the run's attributes."""
    return {
        "volume": {"pixel_size": job.info.pixel_size, "section_thickness": job.info.section_thickness},
        "coarse": job.coarse.model_dump(mode="json"),
        "mask": job.mask.model_dump(mode="json"),
        "register": job.register.model_dump(mode="json"),
        "compose": job.compose.model_dump(mode="json"),
        "render": job.render.model_dump(mode="json"),
        "downsample": job.downsample.model_dump(mode="json"),
    }


def config_digest(job: Job) -> str:
    """Digest of source, weights and configuration: two runs with the same one give the same result."""
    return digest_of({**_source(job), "weights": job.encoder_digest, **stored_config(job)})


def digest_of(value: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"Config {path}: there is no such file; give the path of a TOML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config {path}: cannot be read ({error}); give the path of a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Config {path}: not valid TOML ({error}); mend that line.") from error


def _validated(model: type[_Config], tree: dict[str, Any], *, where: str) -> _Config:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_sentence(error, model=model, where=where)) from error


def _with_digests(job: Job) -> Job:
    """A digest a stage, of what decides its results and those of the stages whose results it reads; of nothing else."""
    own = _decisive(job)
    digests: dict[str, str] = {}
    for stage, upstream in _UPSTREAM.items():
        above: Any = [digests[name] for name in upstream]
        digests[stage] = digest_of({"source": _source(job), "upstream": above, "stage": stage, "own": own[stage]})[:16]
    return replace(job, digests=digests)


def _source(job: Job) -> dict[str, Any]:
    info = job.info
    sizes = {"pixel_size": info.pixel_size, "section_thickness": info.section_thickness}
    return {"source": job.source, "shape": list(job.shape), "dtype": info.dtype.str, **sizes}


def _decisive(job: Job) -> dict[str, dict[str, Any]]:
    """For each stage the values that decide its results: not the tables of methods that are not used."""
    tree = stored_config(job)
    register, compose = dict(tree["register"]), dict(tree["compose"])
    weights = {"weights": job.encoder_digest}
    for method in ("gauss_newton", "ssemnet"):
        if method != job.register.method:
            del register[method]
    for method in ("chain", "relax"):
        if method != job.compose.method:
            del compose[method]
    return {
        "coarse": tree["coarse"],
        "mask": tree["mask"] if job.mask.active else {},
        "calibrate": {key: register.get(key) for key in ("method", "mip", "neighbours", "gauss_newton")} | weights,
        "register": register | weights,
        "compose": compose,
        "render": tree["render"],
        "downsample": {},  # levels are added or taken away, none changes
        "measure": {"block": BLOCK},
    }


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
            f"so that a task's memory does not grow with the sections, and displacements up to {SEARCH_RANGE} px stay "
            "inside what is read"
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


def _sentence(error: ValidationError, *, model: type[ConfigBase], where: str) -> str:
    """One sentence for the first thing that is wrong."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    table, key = ".".join(keys[:-1]), keys[-1]
    place = f"{where}: [{table}] {key}" if table else f"{where}: {key}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        return f"{place}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{place}: is missing; add it."
    return f"{place} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}."


def _known_keys(model: type[ConfigBase], path: list[str]) -> list[str]:
    for part in path:
        field = next(f for name, f in model.model_fields.items() if part in (name, f.alias))
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, ConfigBase)):
            break
        model = field.annotation
    return sorted(f.alias or name for name, f in model.model_fields.items())
