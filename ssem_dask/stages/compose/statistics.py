"""What both ways of composing by `relax` find out of all sections before they solve for any.

Three generations of tasks: the sections' affines, all at once since they are few numbers; the spectra, fitted on some
windows of sections side by side; and what follows from them, `quality/relax.json`.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ssem_dask.composition.relax.relax_report import (
    ALL_REMOVED,
    AffineReport,
    BandRecord,
    DriftRecord,
    JumpRecord,
    MotionStatistics,
    RelaxReport,
    describe_drift,
    describe_jumps,
    describe_motion,
)
from ssem_dask.composition.relax.section_fields import correct_affines
from ssem_dask.composition.relax.uncertainty import affine_parameter_variance
from ssem_dask.composition.separation.anchored import Anchors
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
    level = correct_affines(
        affine,
        coarse=coarse,
        grid=grid_of(job),
        thickness=job.thickness,
        config=job.compose.relax,
        anchors=_anchors(job),
    )
    variance = affine_parameter_variance(level.weights, fitted=level.variances, certainty=level.certainty)
    for name, values in (("turn", level.correction), ("turn_natural", level.natural), ("turn_variance", variance)):
        open_array(job.url("fields", name), mode="r+")[:] = values
    shape = job.shape[1], job.shape[2]
    report = AffineReport(
        statistics={name: MotionStatistics.of(fitted) for name, fitted in level.variances.items()},
        evidence=level.evidence,
        certainty=level.certainty,
        jumps=tuple(JumpRecord.of(jump, shape_yx=shape) for jump in level.jumps),
        drift=None if level.drift is None else DriftRecord.of(level.drift, shape_yx=shape),
    )
    content = _json(report.to_json())
    write_bytes(job.url(AFFINES), content)
    return Result(bytes_read=affine.nbytes, bytes_written=level.correction.nbytes + level.natural.nbytes + len(content))


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


def write_record(job: Job, *, records: list[BandRecord], variances: dict[str, list[Variances]]) -> Result:
    """Write `quality/relax.json`: what was fitted, in words, in px and as the solve takes it."""
    removed = job.compose.relax.natural_motion == "remove"
    affine = AffineReport.from_json(json.loads(read_bytes(job.url(AFFINES))))
    motion = describe_motion(records, affine=affine.statistics, thickness=job.info.section_thickness)
    message = " ".join([motion, *describe_jumps(affine.jumps), *describe_drift(affine.drift)])
    report = RelaxReport(
        summary=ALL_REMOVED if removed else message,
        pixel_size=job.info.pixel_size,
        section_thickness=job.info.section_thickness,
        affine=affine,
        bands=tuple(records),
        variances=variances,
    )
    content = _json(report.to_json())
    write_bytes(job.url(FIT), content)
    remarkable = affine.jumps or (affine.drift is not None and affine.drift.landmark_outliers)
    outcome = Outcome.OK if (records or removed) and not remarkable else Outcome.LOW_QUALITY
    return Result(outcome=outcome, message=report.summary, bytes_written=len(content))


def read_fit(job: Job, name: str) -> tuple[list[Variances] | None, float]:
    """Variances of the bands, None where they were not fitted, and the certainty that goes with them."""
    record = json.loads(read_bytes(job.url(FIT)))
    return [Variances(**v) for v in record[name]] or None, float(record["certainty"])


def _anchors(job: Job) -> Anchors | None:
    """What pins slow distortion."""
    landmarks, far = landmarks_of(job), read_far_pairs(job)
    if landmarks is None and far is None:
        return None
    return Anchors(landmarks=landmarks, far=far, use_reference_frame=job.compose.reference.frame == "reference")


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
