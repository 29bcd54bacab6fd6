"""Statistics of all sections that both variants of method `relax` need before they solve for any.

Three generations of tasks: the sections' affines; the spectra, fitted to a few windows of sections in parallel; and
their mean, `quality/relax.json`.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ssem_dask.composition.relax.relax_report import (
    ALL_REMOVED,
    AffineReport,
    BandRecord,
    DriftRecord,
    JumpRecord,
    MotionStatistics,
    RelaxReport,
    SlabRecord,
    describe_drift,
    describe_jumps,
    describe_motion,
    describe_slabs,
)
from ssem_dask.composition.relax.slab_levels import correct_slabs, slabs_alike
from ssem_dask.composition.separation.anchor_observations import Anchors
from ssem_dask.composition.separation.sequence import Variances
from ssem_dask.composition.separation.slabs import slab_ranges
from ssem_dask.errors import OutputError
from ssem_dask.field.affine import compose_affine, invert_affine
from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_GROSS, COARSE_SIMILARITY
from ssem_dask.stages.array_rows.compose_arrays import (
    AFFINE_CORRECTION,
    AFFINE_NATURAL,
    AFFINE_VARIANCE,
    PAIR_AFFINE_WEIGHTS,
    PAIR_AFFINES,
)
from ssem_dask.stages.compose.anchors import landmarks_of
from ssem_dask.stages.compose.far_pairs import FAR_ARRAYS, read_far_pairs, uses_far_pairs
from ssem_dask.stages.compose.layout import window_count
from ssem_dask.stages.compose.method import STAGE, compose_fields
from ssem_dask.stages.compose.section_windows import AFFINE_ARRAYS, SlabStatistics, WindowTask
from ssem_dask.stages.compose.slab_results import slab_records
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import AFFINE_STATISTICS, RELAX_STATISTICS, spectrum_fit
from ssem_dask.stages.stage import JobTask
from ssem_dask.task import Outcome, Result
from ssem_dask.types import Float64Array

FIT_WINDOWS = 3
"""Windows of sections that the spectra are fitted to."""
SPECTRA = "variances"
"""Name in the records of the spectra of the whole plane, or of the restricted one if sections are wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AffinesTask(JobTask):
    """The affine corrections of all sections, solved at once since they are few numbers."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Solve for the affine corrections, their natural motion and variance."""
        job = self.job
        affine, gross = PAIR_AFFINES.read(job), COARSE_GROSS.read(job)
        # Seen from upright sections: what one was turned by as a whole is no part of the statistics of distortion.
        coarse = np.stack(
            [compose_affine(outer=invert_affine(g), inner=a) for g, a in zip(gross, COARSE.read(job), strict=True)]
        )
        joined = correct_slabs(
            affine,
            PAIR_AFFINE_WEIGHTS.read(job),
            borders=job.slabs,
            coarse=coarse,
            grid=job.grid,
            thickness=job.thickness,
            config=job.compose.relax,
            anchors=_anchors(job),
            kept_jumps=job.fitted_fixes.kept_jumps,
            undone_jumps=job.fitted_fixes.undone_jumps,
        )
        written = AFFINE_CORRECTION.write(job, joined.correction) + AFFINE_NATURAL.write(job, joined.natural)
        AFFINE_VARIANCE.write(job, joined.variance)
        # Of slabs the longest speaks for all where one number is shown; each has its own beside.
        level, shape = joined.longest, job.shape_yx
        report = AffineReport(
            statistics={name: MotionStatistics.of(fitted) for name, fitted in level.variances.items()},
            variances=level.variances,
            evidence=level.evidence,
            certainty=level.certainty,
            jumps=tuple(JumpRecord.of(jump, shape_yx=shape) for jump in joined.jumps),
            drift=None if level.drift is None else DriftRecord.of(level.drift, shape_yx=shape),
            slabs=slab_records(job, joined),
        )
        written += AFFINE_STATISTICS.write(job, report.to_json())
        return Result(bytes_read=affine.nbytes, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read all pair affines, coarse affines and far pairs; write the affine level of all sections."""
        far = FAR_ARRAYS if uses_far_pairs(self.job) else ()
        likeness = (COARSE_SIMILARITY,) if self.job.slabs else ()
        return Footprint(
            reads=tuple(
                array.region(self.job)
                for array in (PAIR_AFFINES, PAIR_AFFINE_WEIGHTS, COARSE, COARSE_GROSS, *far, *likeness)
            ),
            writes=tuple(row.region(self.job) for row in (*AFFINE_ARRAYS, AFFINE_STATISTICS)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsTask(JobTask):
    """The mean of the spectra over the windows. Subclasses say which spectra there are."""

    def footprint(self) -> Footprint:
        """Read the affine statistics and every window's spectra; write the statistics.

        Statistics are taken from the whole volume, so a change of any pair field changes all sections a little.
        """
        job = self.job
        fits = (spectrum_fit(window).region(job) for window in fitted_windows(job))
        return Footprint(reads=(AFFINE_STATISTICS.region(job), *fits), writes=(RELAX_STATISTICS.region(job),))


def statistics_generations(
    job: Job, *, spectra: type[WindowTask], statistics: type[StatisticsTask]
) -> Iterator[Iterable[JobTask]]:
    """Yield the affines, the spectra of some windows, and their mean."""
    # A dash in the name gives this task a ledger page of its own. Without it, the task would share page `compose` with
    # `fit`, which belongs to a later generation (`storage.ledger.page_of`).
    yield [AffinesTask(**compose_fields(job, "affines-all", fixes=job.fitted_fixes.jumps()))]
    yield [spectra(**compose_fields(job, f"fit-{w:05d}"), window=w) for w in fitted_windows(job)]
    yield [statistics(**compose_fields(job, "fit"))]


def fitted_windows(job: Job) -> list[int]:
    """Return the windows that the spectra are fitted to: a few, spread over all sections; of slabs one of each."""
    if job.slabs:
        return list(range(len(slab_ranges(job.slabs, count=job.shape[0]))))
    count = window_count(job)
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, FIT_WINDOWS))})


def read_affine_level(job: Job, sections: range) -> tuple[Float64Array, float]:
    """Return the affine corrections `(z, 2, 3)` of some sections of a slab, and the certainty of their displacement."""
    with AFFINE_STATISTICS.reading(job) as record:
        own = [slab for slab in record.get("slabs", []) if sections.start in range(slab["start"], slab["stop"])]
        certainty = float((own[0] if own else record)["certainty"])
    return AFFINE_CORRECTION.read(job, z=sections), certainty


def write_spectra(job: Job, window: int, variances: Mapping[str, Sequence[Variances]]) -> int:
    """Write the spectra of a window, by the name of the grid they were fitted on; return the number of bytes."""
    fits = {name: [asdict(v) for v in fitted] for name, fitted in variances.items()}
    return spectrum_fit(window).write(job, {"digest": job.digests[STAGE], **fits})


def mean_spectra(job: Job, name: str) -> list[Variances]:
    """Return the mean over the windows, band by band; empty if nothing was fitted.

    Raises:
        OutputError: no window's task ended well.
    """
    windows = [fitted for fitted in _window_spectra(job, name) if fitted is not None]
    if not windows:
        raise OutputError(
            f"{job.output}: the spectra were not fitted to any window of sections; rerun the failed tasks of stage "
            "compose first."
        )
    return [_mean(band) for band in zip(*(fitted for fitted in windows if fitted), strict=True)]


def _window_spectra(job: Job, name: str) -> list[list[Variances] | None]:
    """Return the spectra of each fitted window, empty if it has too few sections; None if its task failed."""
    windows: list[list[Variances] | None] = []
    for window in fitted_windows(job):
        fitted = None
        with contextlib.suppress(FileNotFoundError), spectrum_fit(window).reading(job) as record:
            if record.get("digest") == job.digests[STAGE]:  # else its task failed, and the record is an older run's
                fitted = [Variances(**v) for v in record.get(name, [])]
        windows.append(fitted)
    return windows


def _slab_spectra(job: Job, name: str, slabs: Sequence[SlabRecord]) -> list[list[Variances]]:
    """Return the spectra of each slab, empty if it has none: the mean over those that share their statistics."""
    spectra = [each or [] for each in _window_spectra(job, name)]
    for alike in slabs_alike([slab.certainty if own else None for slab, own in zip(slabs, spectra, strict=True)]):
        mean = [_mean(band) for band in zip(*(spectra[i] for i in alike), strict=True)]
        for i in alike:
            spectra[i] = mean
    return spectra


def write_statistics(job: Job, *, records: list[BandRecord], variances: dict[str, list[Variances]]) -> Result:
    """Write `quality/relax.json`: the fit in words, in px and as variances for the solve."""
    removed = job.compose.relax.natural_motion == "remove"
    with AFFINE_STATISTICS.reading(job) as record:
        affine = AffineReport.from_json(record)
    motion = describe_motion(records, affine=affine.statistics, thickness=job.info.section_thickness)
    slabs = describe_slabs(affine.slabs, thickness=job.info.section_thickness)
    message = " ".join([motion, *slabs, *describe_jumps(affine.jumps), *describe_drift(affine.drift)])
    report = RelaxReport(
        summary=" ".join([ALL_REMOVED, *slabs]) if removed else message,
        pixel_size=job.info.pixel_size,
        section_thickness=job.info.section_thickness,
        affine=affine,
        bands=tuple(records),
        variances=variances,
        slab_variances={name: _slab_spectra(job, name, affine.slabs) for name in variances} if job.slabs else {},
    )
    written = RELAX_STATISTICS.write(job, report.to_json())
    outliers = affine.drift is not None and bool(affine.drift.landmark_outliers)
    remarkable = bool(affine.jumps) or outliers or any(slab.is_remarkable for slab in affine.slabs[1:])
    outcome = Outcome.OK if (records or removed) and not remarkable else Outcome.LOW_QUALITY
    return Result(outcome=outcome, message=report.summary, bytes_written=written)


def read_statistics(job: Job, name: str) -> tuple[list[Variances] | None, float]:
    """Return the variances of the bands, None if they were not fitted, and the certainty that goes with them."""
    with RELAX_STATISTICS.reading(job) as record:
        return [Variances(**v) for v in record[name]] or None, float(record["certainty"])


def read_slab_statistics(job: Job, name: str) -> list[SlabStatistics]:
    """Return the statistics of each slab, by the name of the fit."""
    if not job.slabs:
        return [SlabStatistics(range(job.shape[0]), *read_statistics(job, name))]
    with RELAX_STATISTICS.reading(job) as record:
        return [
            SlabStatistics(
                range(slab["start"], slab["stop"]),
                [Variances(**v) for v in slab[name]] or None,
                float(slab["certainty"]),
            )
            for slab in record["slabs"]
        ]


def _anchors(job: Job) -> Anchors | None:
    """Return what pins slow distortion; None if there is nothing."""
    landmarks, far = landmarks_of(job), read_far_pairs(job)
    if landmarks is None and far is None:
        return None
    anchors = Anchors(landmarks=landmarks, far=far, use_reference_frame=job.compose.reference.frame == "reference")
    return anchors.upright(COARSE_GROSS.read(job))


def _mean(variances: tuple[Variances, ...]) -> Variances:
    return Variances(
        distortion=float(np.mean([v.distortion for v in variances])),
        motion=float(np.mean([v.motion for v in variances])),
        correlation=float(np.mean([v.correlation for v in variances])),
        noise=float(np.mean([v.noise for v in variances])),
        erratic=float(np.mean([v.erratic for v in variances])),
        tilt=float(np.mean([v.tilt for v in variances])),
        min_distortion=variances[0].min_distortion,
    )
