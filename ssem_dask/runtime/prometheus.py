"""Numbers of a run as Prometheus metrics, in the registry that a Dask scheduler's process serves at `/metrics`."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Gauge

_STAGE_GAUGES = {
    "tasks": ("ssem_dask_tasks", "Tasks of the stage"),
    "done": ("ssem_dask_tasks_done", "Tasks that ended well, including those of earlier runs"),
    "failed": ("ssem_dask_tasks_failed", "Tasks that failed"),
    "running": ("ssem_dask_tasks_running", "Tasks that run"),
    "pixels": ("ssem_dask_pixels", "Source pixels of the stage's tasks"),
    "pixels_done": ("ssem_dask_pixels_done", "Source pixels of the tasks that have ended"),
    "pixels_per_second": ("ssem_dask_pixels_per_second", "Source pixels per second since the stage began"),
    "bytes_read": ("ssem_dask_read_bytes", "Bytes that tasks have read"),
    "bytes_written": ("ssem_dask_written_bytes", "Bytes that tasks have written"),
    "seconds": ("ssem_dask_stage_seconds", "Seconds since the stage began"),
    "seconds_left": ("ssem_dask_remaining_seconds", "Estimated seconds until the stage ends"),
}


def set_metrics(numbers: Mapping[str, Any]) -> None:
    """Set the gauges of a stage; those of other stages keep their last value.

    Args:
        numbers: result of `StageProgress.numbers`.
    """
    if find_spec("prometheus_client") is None:
        return  # an optional package; a scheduler without it serves no metrics
    stage = numbers["stage"]
    for name, gauge in _stage_gauges().items():
        value = numbers.get(name)
        gauge.labels(stage=stage).set(float("nan") if value is None else value)
    _workers_gauge().set(numbers["workers"])


@cache
def _stage_gauges() -> "dict[str, Gauge]":
    from prometheus_client import Gauge

    return {name: Gauge(metric, help_text, ["stage"]) for name, (metric, help_text) in _STAGE_GAUGES.items()}


@cache
def _workers_gauge() -> "Gauge":
    from prometheus_client import Gauge

    return Gauge("ssem_dask_workers", "Workers alive")
