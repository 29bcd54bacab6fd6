"""What the tasks of stage compose read and write, section by section; in y and x whole sections, but for tiles."""

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages import compose_far
from ssem_dask.stages.compose_chain import BlockTask, SectionsTask, StitchTask
from ssem_dask.stages.compose_far import FarTask
from ssem_dask.stages.compose_relax import FitTask, RelaxTask, SplitTask
from ssem_dask.stages.compose_wide import FitWideTask, LongTask, ThinTask, TileTask
from ssem_dask.stages.job import Job
from ssem_dask.stages.relax_io import core_of, reach_of
from ssem_dask.task import Task

_PAIRS = "fields/pairs", "fields/confidence"
_TURNS = "fields/turn", "fields/turn_natural", "fields/turn_variance"
_FIT = "quality/relax.json"
_THINNED = "fields/pair_affines", "fields/thin_pairs", "fields/thin_weights", "fields/typical"
_LONG = "fields/long", "fields/long_natural", "fields/long_variance"
_RESULTS = "fields/section", "fields/uncertainty", "fields/natural"


def footprint(task: Task) -> Footprint:
    """Of any task of either method.

    Raises:
        TypeError: a kind of task that nobody has said this of.
    """
    if isinstance(task, FarTask):
        return compose_far.footprint(task)
    if isinstance(task, SplitTask | FitTask | RelaxTask):
        return _relax(task)
    if isinstance(task, BlockTask | StitchTask | SectionsTask):
        return _chain(task)
    if isinstance(task, ThinTask | FitWideTask | LongTask | TileTask):
        return _wide(task)
    raise TypeError(f"{task.key}: what a {type(task).__name__} reads and writes is not said here; add it.")


def _relax(task: SplitTask | FitTask | RelaxTask) -> Footprint:
    """The statistics are taken from the whole volume, so a change of any pair field changes all sections a little."""
    job = task.job
    if isinstance(task, FitTask):
        return Footprint(
            reads=_all(job, ("fields/pair_affines", "fields/coarse", *_PAIRS, *_far(job)), 0, job.shape[0]),
            writes=_all(job, (*_TURNS, _FIT), 0, job.shape[0]),
        )
    depth = min(job.compose.relax.window, job.shape[0])
    start, stop = task.window * depth, (task.window + 1) * depth
    if isinstance(task, SplitTask):
        return Footprint(reads=_all(job, _PAIRS, start, stop), writes=_all(job, ("fields/pair_affines",), start, stop))
    overlap = job.compose.relax.overlap
    handed = ("fields/pair_affines", "fields/coarse", *_TURNS, _FIT)
    reads = _all(job, (*_PAIRS, *handed), start - overlap, stop + overlap)
    return Footprint(reads=reads, writes=_all(job, _RESULTS, start, stop))


def _wide(task: ThinTask | FitWideTask | LongTask | TileTask) -> Footprint:
    job, fit = task.job, task.job.sections(_FIT)
    if isinstance(task, FitWideTask):
        return Footprint(
            reads=_all(job, (*_THINNED, "fields/coarse", *_PAIRS, *_far(job)), 0, job.shape[0]),
            writes=(*_all(job, _TURNS, 0, job.shape[0]), fit),
        )
    (start, stop), (first, last) = core_of(job, task.window), reach_of(job, task.window)
    if isinstance(task, ThinTask):
        return Footprint(reads=_all(job, _PAIRS, start, stop), writes=_all(job, _THINNED, start, stop))
    if isinstance(task, LongTask):
        reads = (*_all(job, (*_THINNED, *_TURNS), first, last), fit)
        return Footprint(reads=reads, writes=_all(job, _LONG, start, stop))
    handed = _all(job, ("fields/coarse", *_THINNED, *_TURNS, *_LONG), first, last)
    read, core = _nodes(job, first, last, task.tile.read), _nodes(job, start, stop, task.tile.core)
    return Footprint(
        reads=(*handed, *(Region(name, read) for name in _PAIRS), fit),
        writes=tuple(Region(name, core) for name in _RESULTS),
    )


def _far(job: Job) -> tuple[str, ...]:
    return compose_far.ARRAYS if compose_far.wanted(job) else ()


def _nodes(job: Job, start: int, stop: int, nodes: tuple[slice, slice]) -> Box:
    """The place of nodes (y, x) of some sections, mip-0 px."""
    y, x = (slice(s.start * job.spacing, s.stop * job.spacing) for s in nodes)
    return Box((start, y.start, x.start), (stop, y.stop, x.stop)).clipped(job.shape)


def _chain(task: BlockTask | StitchTask | SectionsTask) -> Footprint:
    job, config = task.job, task.job.compose.chain
    start, stop = task.block * config.block, (task.block + 1) * config.block
    own = ("fields/blocks", "fields/guessed")
    if isinstance(task, BlockTask):
        return Footprint(reads=_all(job, _PAIRS, start, stop + config.stitch), writes=_all(job, own, start, stop))
    if isinstance(task, StitchTask):
        return Footprint(
            reads=_all(job, own, start - config.block, stop), writes=_all(job, ("fields/stitches",), start, stop)
        )
    first = max(1, task.block - ceil_div(config.decay, config.block)) * config.block
    stitches = (job.sections("fields/stitches", first, stop),) if first < stop else ()
    return Footprint(
        reads=(*_all(job, ("fields/blocks", "fields/coarse"), start, stop), *stitches),
        writes=_all(job, ("fields/section",), start, stop),
    )


def _all(job: Job, names: tuple[str, ...], start: int, stop: int) -> tuple[Region, ...]:
    return tuple(job.sections(name, start, stop) for name in names)
