"""Digests of what determines a run's results, and the configuration in its stored form."""

from dataclasses import replace
from typing import Any

from ssem_dask.stages.job import Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.json_digest import digest_of


def stored_config(job: Job) -> dict[str, Any]:
    """Return every resolved setting as plain JSON values, for the run's attributes."""
    info = job.info
    channel = {} if info.channel is None else {"channel": info.channel}
    return {
        "volume": {"pixel_size": info.pixel_size, "section_thickness": info.section_thickness, **channel},
        **_slabs(job),
        **{name: table.model_dump(mode="json") for name, table in job.tables.items()},
    }


def config_digest(job: Job) -> str:
    """Return the digest of source, weights and configuration: on one device, equal digests give equal results."""
    return digest_of({**_source(job), "weights": job.encoder_digest, **stored_config(job)})


def with_digests(job: Job) -> Job:
    """Return the job with one digest per stage.

    A digest covers exactly what determines a stage's results: its own settings and those of its upstream stages.
    """
    digests: dict[str, str] = {}
    for stage in STAGES:
        upstream: Any = [digests[name] for name in stage.upstream]
        settings = stage.decisive(job)
        digests[stage.name] = digest_of(
            {"source": _source(job), "upstream": upstream, "stage": stage.name, "own": settings}
        )[:16]
    return replace(job, digests=digests)


def _source(job: Job) -> dict[str, Any]:
    info = job.info
    sizes = {"pixel_size": info.pixel_size, "section_thickness": info.section_thickness}
    # Nothing is added for a source without channels, so that its digests stay those of earlier versions.
    channels = {"channels": len(info.channels), "channel": info.channel} if info.channels else {}
    # Sections that were appended belong to the digests of the tasks that use them.
    shape = [job.deepest, *job.shape_yx]
    return {"source": job.source_identity, "shape": shape, "dtype": info.dtype.str, **sizes, **channels, **_slabs(job)}


def _slabs(job: Job) -> dict[str, Any]:
    # Nothing is added without slabs, so that digests stay those of earlier versions.
    return {"slabs": {"borders": list(job.slabs)}} if job.slabs else {}
