"""Align a volume, see how far a run is, repeat parts of it, and append to it."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from ssem_dask.api.sources import ArrayLike, Place, source_url, url_of
from ssem_dask.api.stage_bars import StageBars, in_notebook
from ssem_dask.api.stage_lines import StageLines
from ssem_dask.config.schema import make_config
from ssem_dask.driver import pipeline
from ssem_dask.driver.append import execute_append, plan_append
from ssem_dask.driver.rerun import Selection, execute_rerun, plan_rerun
from ssem_dask.driver.run_fixes import GivenFixes
from ssem_dask.driver.run_status import Summary, run_status
from ssem_dask.driver.tasks import run_on_cluster
from ssem_dask.errors import SourceError
from ssem_dask.runtime.events import Observer, SilentObserver
from ssem_dask.storage.arrays import is_node

Plan = pipeline.Plan


def align(
    source: Place | ArrayLike,
    output: Place,
    *,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    cluster: str = "local",
    workers: int | None = None,
    progress: bool | None = None,
    observer: Observer | None = None,
    allow_missing: bool = False,
    fixes: Place | None = None,
    **config: Any,
) -> Summary:
    """Align a volume with defaults.

    Args:
        source: path or URL of the volume (Zarr; see `import_volume` for other formats), or an array (z, y, x) of numpy,
            dask, xarray or zarr. An array is first written beside the output, to `….source.zarr`.
        output: path or URL of the run's Zarr group, created if it does not exist, resumed if it does.
        pixel_size: nm per pixel in y and x; needed for an array, else it overrides the source's own value.
        section_thickness: nm per section; likewise.
        cluster: `serial`, `local`, `local-gpu`, `slurm`, the address of a Dask scheduler, or a TOML file with a
            `[cluster]` table.
        workers: number of workers of a started cluster; None: one per core.
        progress: show a bar per stage in a notebook, else a line on stderr; None: in notebooks and terminals.
        observer: receives events; None: nobody does but these lines.
        allow_missing: complete the run although some of its tasks failed.
        fixes: path or URL of a file of fixes; None: those that the run has already.
        config: tables of the configuration, e.g. `register={"neighbours": 2}`.

    Returns:
        The status of the run: `.state`, `.verdict`, `.failed`.

    Raises:
        SsemDaskError: bad input, configuration or output, in one sentence.

    Examples:
        >>> import ssem_dask
        >>> summary = ssem_dask.align("volume.zarr", "aligned.zarr", cluster="serial")
        >>> summary.state
        'complete'
        >>> import numpy as np
        >>> ssem_dask.align(np.zeros((4, 64, 64)), "out.zarr", pixel_size=5, section_thickness=40)
        Traceback (most recent call last):
        ssem_dask.errors.SourceError: array: its values are float64, but pixels and labels are integers; ...
    """
    shown = _observer(observer, progress)
    planned, settings = _planned(
        source,
        output,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
        fixes=fixes,
        config=config,
    )
    return run_on_cluster(
        partial(pipeline.run, planned, allow_missing=allow_missing),
        planned,
        cluster=cluster,
        workers=workers,
        observer=shown,
        table=settings.cluster,
    )


def plan(
    source: Place | ArrayLike,
    output: Place,
    *,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    fixes: Place | None = None,
    **config: Any,
) -> Plan:
    """Resolve the configuration of a run and estimate its cost; arguments and errors as in `align`.

    Returns:
        The plan: `.choices` made from the data, `.estimates` of each stage, `.worker_memory` in bytes.

    Examples:
        >>> import ssem_dask
        >>> planned = ssem_dask.plan("volume.zarr", "another.zarr")
        >>> list(planned.estimates)
        ['coarse', 'calibrate', 'register', 'compose', 'render', 'measure']
    """
    return _planned(
        source,
        output,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
        fixes=fixes,
        config=config,
    )[0]


def status(output: Place) -> Summary:
    """Return the status of a run, or of a warped or exported volume.

    Args:
        output: path or URL of the run or the volume.

    Raises:
        SourceError: nothing is there.
        OutputError: something else is there.

    Examples:
        >>> import ssem_dask
        >>> ssem_dask.status("aligned.zarr").state
        'complete'
    """
    return run_status(url_of(output))


def rerun(
    output: Place,
    *,
    failed: bool = False,
    stages: Sequence[str] = (),
    sections: range | None = None,
    chunks: Sequence[str] = (),
    changes: dict[str, Any] | None = None,
    source: Place | None = None,
    fixes: Place | None = None,
    refit: bool = False,
    allow_missing: bool = False,
    cluster: str = "local",
    workers: int | None = None,
    progress: bool | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Repeat selected parts of a run, and everything that depends on them.

    Without a selection, all is repeated that failed or no longer agrees with the configuration, the weights or the
    source.

    Args:
        output: path or URL of the run.
        failed: select the tasks that failed.
        stages: select the tasks of these stages.
        sections: select the tasks that write these sections.
        chunks: select the tasks with these keys.
        changes: settings by dotted key: for the selected tasks only or, if none are selected, for the run.
        source: place to which the source was moved; None: where the run has recorded it.
        fixes: path or URL of a file of fixes that hold from now on; None: those that the run has.
        refit: fit statistics again with the fixes.
        allow_missing: as in `align`.
        cluster: as in `align`.
        workers: as in `align`.
        progress: as in `align`.
        observer: as in `align`.

    Raises:
        SsemDaskError: there is no run, its source is gone, or an option does not fit, in one sentence.

    Examples:
        >>> import ssem_dask
        >>> summary = ssem_dask.rerun("aligned.zarr", cluster="serial")  # all is done and agrees
        >>> sum(len(keys) for keys in summary.again.values())
        0
    """
    selection = Selection(failed=failed, stages=tuple(stages), sections=sections, chunks=tuple(chunks))
    planned = plan_rerun(
        url_of(output),
        selection,
        overrides=changes,
        source=None if source is None else url_of(source),
        fixes=None if fixes is None else GivenFixes.read(url_of(fixes)),
        refit=refit,
    )
    return run_on_cluster(
        partial(execute_rerun, planned, allow_missing=allow_missing),
        planned.plan,
        cluster=cluster,
        workers=workers,
        observer=_observer(observer, progress),
    )


def append(
    output: Place,
    source: Place | None = None,
    *,
    refit: bool = False,
    settle: bool = False,
    allow_missing: bool = False,
    cluster: str = "local",
    workers: int | None = None,
    progress: bool | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Extend a run by sections that were imaged since; finished sections stay as they are, to the bit.

    Safe to interrupt: call it again. The command `ssem-dask append` also follows a folder (`--watch`).

    Args:
        output: path or URL of the run.
        source: path or URL of a volume (Zarr) with the sections of the run and, after them, the new ones; None: the
            source of the run, to which they were added.
        refit: fit the statistics again, with all sections; nothing is then locked.
        settle: make of the run what one run over all sections would be, equal to the bit.
        allow_missing: as in `align`.
        cluster: as in `align`.
        workers: as in `align`.
        progress: as in `align`.
        observer: as in `align`.

    Raises:
        SourceError: there is no run, or the volume has fewer sections than the run, or other ones.
        OutputError: the run was never complete, or another process is at work on it.

    Examples:
        >>> import ssem_dask
        >>> summary = ssem_dask.append("aligned.zarr", cluster="serial")  # no section is new
        >>> summary.state
        'complete'
        >>> ssem_dask.append("aligned.zarr", "few.zarr")
        Traceback (most recent call last):
        ssem_dask.errors.SourceError: few.zarr: is no volume (Zarr); ...
    """
    place = None if source is None else url_of(source)
    if place is not None and not is_node(place):
        raise SourceError(
            f"{place}: is no volume (Zarr); give a volume with the sections of the run and the new ones, or follow a "
            f"folder of images with 'ssem-dask append {url_of(output)} {place} --watch'."
        )
    planned = plan_append(url_of(output), place, refit=refit, settle=settle)
    return run_on_cluster(
        partial(execute_append, planned, allow_missing=allow_missing),
        planned.plan,
        cluster=cluster,
        workers=workers,
        observer=_observer(observer, progress),
    )


def _planned(
    source: Place | ArrayLike,
    output: Place,
    *,
    pixel_size: float | None,
    section_thickness: float | None,
    fixes: Place | None,
    config: dict[str, Any],
) -> tuple[Plan, Any]:
    target = url_of(output)
    url = source_url(source, beside=target, pixel_size=pixel_size, section_thickness=section_thickness)
    sizes = {"pixel_size": pixel_size, "section_thickness": section_thickness}
    volume = {name: size for name, size in sizes.items() if size is not None}
    if volume:
        config = {**config, "volume": {**config.get("volume", {}), **volume}}
    settings = make_config({"source": url, "output": target, **config}, where="align")
    return pipeline.plan(settings, fixes=None if fixes is None else GivenFixes.read(url_of(fixes))), settings


def _observer(observer: Observer | None, progress: bool | None) -> Observer:
    """Return the receiver of events: the caller's observer, or bars or lines if somebody sees them."""
    if observer is not None:
        return observer
    notebook = in_notebook()
    if not (notebook or sys.stderr.isatty() if progress is None else progress):
        return SilentObserver()
    return StageBars() if notebook else StageLines()
