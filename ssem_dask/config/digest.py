"""Digests of what determines a run's results, and the configuration as it is stored."""

import hashlib
import json
from dataclasses import replace
from typing import Any

from ssem_dask.registration.methods import METHODS
from ssem_dask.stages.job import Job
from ssem_dask.storage.quality import BLOCK

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


def with_digests(job: Job) -> Job:
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
    for method in METHODS:
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
