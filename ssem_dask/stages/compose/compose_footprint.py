"""What the tasks of stage compose read and write, section by section; in y and x whole sections, but for tiles."""

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.compose import far_pairs as compose_far
from ssem_dask.stages.compose.chain_tasks import BlockTask, SectionsTask, StitchTask
from ssem_dask.stages.compose.far_pairs import FarTask
from ssem_dask.stages.compose.relax_planes import RelaxTask, SplitTask
from ssem_dask.stages.compose.relax_tiles import LongTask, ThinTask, TileTask, factor_of
from ssem_dask.stages.compose.section_windows import core_of, reach_of
from ssem_dask.stages.compose.statistics import AFFINES, FIT, AffinesTask, FitTask, WindowFitTask, fit_name, fit_windows
from ssem_dask.stages.job import Job
from ssem_dask.task import Task

_PAIRS = "fields/pairs", "fields/confidence"
_TURNS = "fields/turn", "fields/turn_natural", "fields/turn_variance"
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
    if isinstance(task, AffinesTask | WindowFitTask | FitTask):
        return _fit(task)
    if isinstance(task, SplitTask | RelaxTask):
        return _relax(task)
    if isinstance(task, BlockTask | StitchTask | SectionsTask):
        return _chain(task)
    if isinstance(task, ThinTask | LongTask | TileTask):
        return _wide(task)
    raise TypeError(f"{task.key}: what a {type(task).__name__} reads and writes is not said here; add it.")


def _fit(task: AffinesTask | WindowFitTask | FitTask) -> Footprint:
    """The statistics are taken from the whole volume, so a change of any pair field changes all sections a little."""
    job = task.job
    if isinstance(task, AffinesTask):
        return Footprint(
            reads=_all(job, ("fields/pair_affines", "fields/coarse", *_far(job)), 0, job.shape[0]),
            writes=_all(job, (*_TURNS, AFFINES), 0, job.shape[0]),
        )
    if isinstance(task, WindowFitTask):
        first, last = reach_of(job, task.window)
        own = (*_THINNED, *_PAIRS) if factor_of(job) > 1 else ("fields/pair_affines", *_PAIRS)
        return Footprint(
            reads=(*_all(job, (*own, *_TURNS), first, last), job.sections(AFFINES)),
            writes=(job.sections(fit_name(task.window)),),
        )
    return Footprint(
        reads=_all(job, (AFFINES, *(fit_name(w) for w in fit_windows(job))), 0, job.shape[0]),
        writes=(job.sections(FIT),),
    )


def _relax(task: SplitTask | RelaxTask) -> Footprint:
    job = task.job
    depth = min(job.compose.relax.window, job.shape[0])
    start, stop = task.window * depth, (task.window + 1) * depth
    if isinstance(task, SplitTask):
        return Footprint(reads=_all(job, _PAIRS, start, stop), writes=_all(job, ("fields/pair_affines",), start, stop))
    overlap = job.compose.relax.overlap
    handed = ("fields/pair_affines", "fields/coarse", *_TURNS, FIT)
    reads = _all(job, (*_PAIRS, *handed), start - overlap, stop + overlap)
    return Footprint(reads=reads, writes=_all(job, _RESULTS, start, stop))


def _wide(task: ThinTask | LongTask | TileTask) -> Footprint:
    job, fit = task.job, task.job.sections(FIT)
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
