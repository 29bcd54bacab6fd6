"""What the tasks of stage compose read and write, section by section; in y and x they hold whole sections."""

from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages import compose_wide
from ssem_dask.stages.compose_chain import BlockTask, SectionsTask, StitchTask
from ssem_dask.stages.compose_relax import FitTask, RelaxTask, SplitTask
from ssem_dask.stages.compose_wide import WIDE_TASKS
from ssem_dask.stages.job import Job
from ssem_dask.task import Task

_PAIRS = "fields/pairs", "fields/confidence"
_TURNS = "fields/turn", "fields/turn_natural", "fields/turn_variance"
_FIT = "quality/relax.json"
_RESULTS = "fields/section", "fields/uncertainty", "fields/natural"


def footprint(task: Task) -> Footprint:
    """Of any task of either method.

    Raises:
        TypeError: a kind of task that nobody has said this of.
    """
    if isinstance(task, SplitTask | FitTask | RelaxTask):
        return _relax(task)
    if isinstance(task, BlockTask | StitchTask | SectionsTask):
        return _chain(task)
    if isinstance(task, WIDE_TASKS):
        return compose_wide.footprint(task)
    raise TypeError(f"{task.key}: what a {type(task).__name__} reads and writes is not said here; add it.")


def _relax(task: SplitTask | FitTask | RelaxTask) -> Footprint:
    """The statistics are taken from the whole volume, so a change of any pair field changes all sections a little."""
    job = task.job
    if isinstance(task, FitTask):
        return Footprint(
            reads=_all(job, ("fields/pair_affines", "fields/coarse", *_PAIRS), 0, job.shape[0]),
            writes=_all(job, (*_TURNS, _FIT), 0, job.shape[0]),
        )
    depth = min(job.compose.relax.window, job.shape[0])
    start, stop = task.window * depth, (task.window + 1) * depth
    if isinstance(task, SplitTask):
        return Footprint(reads=_all(job, _PAIRS, start, stop), writes=_all(job, ("fields/pair_affines",), start, stop))
    overlap = job.compose.relax.overlap
    reads = _all(job, (*_PAIRS, *_TURNS, "fields/coarse", _FIT), start - overlap, stop + overlap)
    return Footprint(reads=reads, writes=_all(job, _RESULTS, start, stop))


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
