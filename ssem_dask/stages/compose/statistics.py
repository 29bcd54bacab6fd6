"""What both ways of composing by `relax` find out of all sections before they solve for any.

Three generations of tasks: the sections' affines, all at once since they are few numbers; the spectra, fitted on some
windows of sections side by side; and what follows from them, `quality/relax.json`.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ssem_dask.composition.relax.relax_report import (
    ALL_REMOVED,
    affine_records,
    in_words,
    jump_records,
    jumps_in_words,
    slow_in_words,
    slow_record,
)
from ssem_dask.composition.relax.section_fields import turn_affines
from ssem_dask.composition.relax.uncertainty import affine_parameter_variance
from ssem_dask.composition.separation.anchored import Beside
from ssem_dask.composition.separation.sequence import Variances
from ssem_dask.errors import OutputError
from ssem_dask.stages.compose.anchors import landmarks_of
from ssem_dask.stages.compose.far_pairs import read_far_pairs
from ssem_dask.stages.compose.section_windows import grid_of, windows_of
from ssem_dask.stages.job import Job
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.fields import open_coarse
from ssem_dask.storage.location import read_bytes, write_bytes
from ssem_dask.task import Outcome, Result, Task
from ssem_dask.types import Float64Array

NAME = "compose"
FIT_WINDOWS = 3
"""Windows of sections that the spectra are fitted on."""
AFFINES = "quality/compose/affines.json"
FIT = "quality/relax.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AffinesTask(Task):
    """Solve for the sections' affines."""

    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFitTask(Task):
    """Fit the spectra to a window of sections."""

    job: Job
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FitTask(Task):
    """Take the mean over the windows, and tell what was found."""

    job: Job


FIT_TASKS = (AffinesTask, WindowFitTask, FitTask)


def fit_generations(job: Job) -> Iterator[Iterable[Task]]:
    """Affines, windows, their mean."""
    output, digest = job.output, job.digests[NAME]
    yield [AffinesTask(key=f"{NAME}/affines-all", output=output, digest=digest, pixels=0, job=job)]
    yield [
        WindowFitTask(key=f"{NAME}/fit-{w:05d}", output=output, digest=digest, pixels=0, job=job, window=w)
        for w in fit_windows(job)
    ]
    yield [FitTask(key=f"{NAME}/fit", output=output, digest=digest, pixels=0, job=job)]


def fit_windows(job: Job) -> list[int]:
    """The windows that the spectra are fitted on: some, spread over all sections."""
    count = windows_of(job)
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, FIT_WINDOWS))})


def fit_name(window: int) -> str:
    """Where a window's fit is written, in the run."""
    return f"quality/compose/fit-{window:05d}.json"


def run_affines(task: AffinesTask) -> Result:
    """Solve for the sections' affines, all at once, and write them."""
    job = task.job
    affine = np.asarray(open_array(job.url("fields", "pair_affines"), mode="r")[:])
    coarse = np.asarray(open_coarse(job.url("fields", "coarse"))[:])
    level = turn_affines(
        affine, coarse=coarse, grid=grid_of(job), thickness=job.thickness, config=job.compose.relax, beside=_beside(job)
    )
    variance = affine_parameter_variance(level.weights, fitted=level.fitted, certainty=level.certainty)
    for name, values in (("turn", level.turn), ("turn_natural", level.natural), ("turn_variance", variance)):
        open_array(job.url("fields", name), mode="r+")[:] = values
    shape = job.shape[1], job.shape[2]
    record = {
        "affine": affine_records(level.fitted),
        "evidence": level.evidence,
        "certainty": level.certainty,
        "jumps": jump_records(level.breaks, shape_yx=shape),
        "reference": None if level.slow is None else slow_record(level.slow, shape_yx=shape),
    }
    content = _json(record)
    write_bytes(job.url(AFFINES), content)
    return Result(bytes_read=affine.nbytes, bytes_written=level.turn.nbytes + level.natural.nbytes + len(content))


def read_affine_level(job: Job, first: int, last: int) -> tuple[Float64Array, float]:
    """C `(z, 2, 3)` of some sections, and the certainty that sections were displaced one by one."""
    turn = np.asarray(open_array(job.url("fields", "turn"), mode="r")[first:last])
    return turn, float(json.loads(read_bytes(job.url(AFFINES)))["certainty"])


def write_window_fit(job: Job, window: int, variances: Mapping[str, Sequence[Variances]]) -> int:
    """Write what was fitted to a window, by the name of what it was fitted to; returns how many bytes."""
    fits = {name: [asdict(v) for v in fitted] for name, fitted in variances.items()}
    content = _json({"digest": job.digests[NAME], **fits})
    write_bytes(job.url(fit_name(window)), content)
    return len(content)


def read_window_fits(job: Job, name: str) -> list[Variances]:
    """The mean over the windows, band by band; empty where nothing was fitted.

    Raises:
        OutputError: not one window's task ended well.
    """
    found, ended = [], False
    for window in fit_windows(job):
        with contextlib.suppress(FileNotFoundError):
            record = json.loads(read_bytes(job.url(fit_name(window))))
            if record.get("digest") == job.digests[NAME]:  # else its task failed, and this is from an earlier run
                ended = True
                found.append([Variances(**v) for v in record.get(name, [])])
    if not ended:
        raise OutputError(f"{job.output}: the spectra were not fitted to any window of sections; do that again first.")
    return [_mean(band) for band in zip(*(fitted for fitted in found if fitted), strict=True)]


def write_record(job: Job, *, records: list[dict[str, Any]], variances: dict[str, list[Variances]]) -> Result:
    """Write `quality/relax.json`: what was fitted, in words, in px and as the solve takes it."""
    removed = job.compose.relax.natural_motion == "remove"
    level = json.loads(read_bytes(job.url(AFFINES)))
    jumps, slow = level["jumps"], level["reference"]
    told = in_words(records, affine=level["affine"], thickness=job.info.section_thickness)
    message = ALL_REMOVED if removed else " ".join([told, *jumps_in_words(jumps), *slow_in_words(slow)])
    content = _json(
        {
            "summary": message,
            "pixel_size": job.info.pixel_size,
            "section_thickness": job.info.section_thickness,
            "affine": level["affine"],
            "bands": records,
            "evidence": round(level["evidence"], 2),
            "certainty": round(level["certainty"], 4),
            "jumps": jumps,
            "reference": slow,
            **{name: [asdict(v) for v in fitted] for name, fitted in variances.items()},
        }
    )
    write_bytes(job.url(FIT), content)
    remarkable = jumps or (slow and slow["doubted"])
    outcome = Outcome.OK if (records or removed) and not remarkable else Outcome.LOW_QUALITY
    return Result(outcome=outcome, message=message, bytes_written=len(content))


def read_fit(job: Job, name: str) -> tuple[list[Variances] | None, float]:
    """Variances of the bands, None where they were not fitted, and the certainty that goes with them."""
    record = json.loads(read_bytes(job.url(FIT)))
    return [Variances(**v) for v in record[name]] or None, float(record["certainty"])


def _beside(job: Job) -> Beside | None:
    """What pins slow distortion."""
    landmarks, far = landmarks_of(job), read_far_pairs(job)
    if landmarks is None and far is None:
        return None
    return Beside(landmarks=landmarks, far=far, adopt=job.compose.reference.frame == "reference")


def _mean(variances: tuple[Variances, ...]) -> Variances:
    return Variances(
        distortion=float(np.mean([v.distortion for v in variances])),
        motion=float(np.mean([v.motion for v in variances])),
        correlation=float(np.mean([v.correlation for v in variances])),
        noise=float(np.mean([v.noise for v in variances])),
        erratic=float(np.mean([v.erratic for v in variances])),
        tilt=float(np.mean([v.tilt for v in variances])),
        least=variances[0].least,
    )


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
