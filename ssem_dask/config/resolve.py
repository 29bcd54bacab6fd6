"""Resolve a configuration: choose every value that was left open, from pixel size and section size.

Each stage resolves its own table. The resolved tables are types of their own (`stages.configs`), in which nothing that
was chosen is optional.
"""

from dataclasses import replace

from ssem_dask.config.digest import with_digests
from ssem_dask.config.schema import RunConfig
from ssem_dask.config.slab_borders import check_slabs, slab_borders
from ssem_dask.errors import SourceError
from ssem_dask.geometry.mip import level_count
from ssem_dask.registration.methods import encoder_digest
from ssem_dask.stages.codec_choice import choose_codec
from ssem_dask.stages.configs import DownsampleStageConfig, RenderStageConfig, ResolvedRegister
from ssem_dask.stages.job import Growth, Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.channels import listed, several_channels
from ssem_dask.storage.formats.advice import explain_source
from ssem_dask.storage.run_group import recorded_identity, recorded_table
from ssem_dask.storage.volume import Volume, VolumeInfo
from ssem_dask.storage.volume_checks import check_image_dtype, check_sections
from ssem_dask.types import ConfigBase

_MIN_SIDE_PX = 32


def resolve(
    config: RunConfig, *, source_identity: str | None = None, growth: Growth | None = None, sections: int | None = None
) -> tuple[Job, list[str]]:
    """Open the source and choose every value that was left open.

    Args:
        config: the configuration.
        growth: how the run grew, if sections were appended to it.
        sections: number of sections of the run, the first ones of the source; None: all.
        source_identity: name of the source in digests; None: the one that the run at the output has recorded for this
            place, or a new one.

    Returns:
        The job, and one line per choice with its reason.

    Raises:
        SourceError: the source is missing, unreadable or too small to align.
        ConfigError: values that do not fit the volume or each other.
    """
    sizes = config.volume
    try:
        source = Volume.open(
            config.source,
            pixel_size=sizes.pixel_size,
            section_thickness=sizes.section_thickness,
            channel=sizes.channel,
        )
    except SourceError as error:
        raise explain_source(config.source, config.output, error) from error
    info = _of_sections(config.source, source.info, sections)
    _check_source(config.source, info)
    tables: dict[str, ConfigBase] = {}
    choices: list[str] = []
    if info.channels and info.channel is not None:
        choices.append(
            f"Channel {listed(info.channels[: info.channel + 1]).rpartition(', ')[2]} of {len(info.channels)} is "
            "registered, all of them are warped."
        )
    slabs, described = slab_borders(config.slabs, sections=info.shape[0])
    choices += described
    # Settings that depend on the data were chosen with the fit and are kept.
    fitted_info = info if growth is None else replace(info, shape=(growth.fitted, *info.shape[1:]))
    for stage in STAGES:
        if stage.config_type is not None:
            tables[stage.name], reasons = stage.resolve(config.table(stage.name), fitted_info)
            choices += reasons
    render = tables["render"]
    assert isinstance(render, RenderStageConfig)
    tables["render"], choice = choose_codec(render, source, recorded=_recorded_codec(config.output))
    choices += [choice] if choice else []
    register, downsample = tables["register"], tables["downsample"]
    assert isinstance(register, ResolvedRegister)
    assert isinstance(downsample, DownsampleStageConfig)
    job = Job(
        source=config.source,
        output=config.output,
        info=info,
        tables=tables,
        mips=level_count(info.shape[1:], smallest=downsample.smallest),
        encoder_digest=encoder_digest(register),
        source_mips=len(source.mips),
        source_identity=source_identity or recorded_identity(config.source, output=config.output),
        digests={},
        growth=growth,
        slabs=slabs,
    )
    check_slabs(job)
    return with_digests(job), choices


def _recorded_codec(output: str) -> str | None:
    """Return the codec of the run at an output; None if there is no run."""
    table = recorded_table(output, "render")
    codec = None if table is None else table.get("codec", "zstd")
    return codec if codec in ("zstd", "none") else None


def _of_sections(url: str, info: VolumeInfo, sections: int | None) -> VolumeInfo:
    """Return the description of the first sections of a volume; raise SourceError if it has fewer."""
    if sections is None:
        return info
    if info.shape[0] < sections:
        raise SourceError(
            f"{url}: has {info.shape[0]} sections, but the run at the output has {sections}; give the volume with all "
            "sections that were appended to it."
        )
    return replace(info, shape=(sections, *info.shape[1:]))


def _check_source(url: str, info: VolumeInfo) -> None:
    """Raise SourceError if the source cannot be a series of sections."""
    check_sections(url, info.shape)
    check_image_dtype(url, info.dtype)
    if info.channels and info.channel is None:
        raise SourceError(several_channels(url, info.channels))
    if min(info.shape[1:]) < _MIN_SIDE_PX:
        raise SourceError(
            f"{url}: sections are {info.shape[1]} × {info.shape[2]} px, but at least {_MIN_SIDE_PX} × {_MIN_SIDE_PX} "
            "px are needed to register them; give whole sections."
        )
    if info.section_thickness < info.pixel_size / 4:
        raise SourceError(
            f"{url}: sections are {info.section_thickness:g} nm thick but pixels {info.pixel_size:g} nm wide, which no "
            "series of sections is; check the order of the axes, or give --pixel-size and --section-thickness."
        )
