"""Slabs: the borders that `[slabs]` names, checked against the volume and the other settings."""

from ssem_dask.config.schema import SlabsConfig
from ssem_dask.errors import ConfigError
from ssem_dask.stages.job import Job
from ssem_dask.storage import location
from ssem_dask.units import shortened

_SHOWN = 8


def slab_borders(config: SlabsConfig, *, sections: int) -> tuple[tuple[int, ...], list[str]]:
    """Return the first section of each slab but the first, and a line about it.

    Args:
        config: the table.
        sections: number of sections; borders beyond it belong to sections that have not come yet.

    Raises:
        SourceError: the file is missing or cannot be reached.
        ConfigError: the file is no list of numbers, or the borders do not increase from 1 on.
    """
    if config.file is not None and config.borders:
        raise ConfigError("[slabs]: both borders and file are given; leave one of them out.")
    named = _read(config.file) if config.file is not None else config.borders
    where = f"[slabs] file = {config.file!r}" if config.file is not None else "[slabs] borders"
    wrong = [b for a, b in zip((0, *named), named, strict=False) if b <= a]
    if wrong:
        raise ConfigError(
            f"{where}: {wrong[0]} does not follow; wanted is the first section of each slab but the first, counted "
            "from 0 and increasing, for example [20, 40]."
        )
    inside = tuple(z for z in named if z < sections)
    if not named:
        return (), []
    ahead = [str(z) for z in named if z >= sections]
    shown = shortened(map(str, (0, *inside)), limit=_SHOWN)
    rest = f"; not reached yet by the {sections} sections: {shortened(ahead, limit=_SHOWN)}" if ahead else ""
    return inside, [f"Slabs begin at section {shown}{rest}."]


def check_slabs(job: Job) -> None:
    """Raise ConfigError if a setting of the run does not go together with slabs."""
    if not job.slabs:
        return
    compose = job.compose
    other = (
        '[compose] method = "chain"'
        if compose.method == "chain"
        else "[compose.reference]"
        if compose.reference.has_anchors
        else "[compose.far]"
        if compose.far.distances
        else ""
    )
    if other:
        raise ConfigError(
            f'[slabs]: slabs have statistics of their own, which only [compose] method = "relax" without anchors can '
            f"have; leave out {other}, or the slabs."
        )


def _read(url: str) -> tuple[int, ...]:
    """Return the numbers in a text file, one a line; SourceError if there is none."""
    with location.reading(url):
        content = location.read_bytes(url)
    try:
        lines = [line.partition("#")[0].strip() for line in content.decode("utf-8-sig").splitlines()]
        return tuple(int(line) for line in lines if line)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ConfigError(
            f"[slabs] file = {url!r}: {error}; wanted is a text file with the number of one section a line."
        ) from error
