"""Stage calibrate: settings that all windows of Gauss-Newton registration share, from a few sample windows.

These are the smoothness length, and the normalisation constants of residuals, Hessians and confidences
(`gauss_newton.scales`). Generation 1 registers each sample window with several lengths and writes to
`quality/calibration/` how much each shorter length adds, and the window's scales. Generation 2 takes the median over
the windows and writes `quality/calibration.json`, which stage register reads. If the user gives a smoothness, no
lengths are tried. Other methods need no calibration, and the stage then has no tasks.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from ssem_dask.field.device import compute_device
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.geometry.region import Footprint
from ssem_dask.registration.damage import TISSUE
from ssem_dask.registration.gauss_newton.gauss_newton_window import measure_scales
from ssem_dask.registration.gauss_newton.scales import ResidualScales, median_scales
from ssem_dask.registration.gauss_newton.smoothness import (
    LengthStep,
    SmoothnessChoice,
    choose_smoothness,
    probe_window,
)
from ssem_dask.registration.registration_method import WindowImages
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_INVERTED
from ssem_dask.stages.coarse_parts import part_regions, read_parts
from ssem_dask.stages.configs import ResolvedRegister
from ssem_dask.stages.fixed_sections import fix_codes, has_codes
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import CALIBRATION, calibration_window
from ssem_dask.stages.source_sections import open_source, read_aligned_sections
from ssem_dask.stages.stage import Estimate, JobTask, Stage
from ssem_dask.storage.untrusted import interpreting
from ssem_dask.task import Outcome, Result

_SMOOTHNESS = TypeAdapter(tuple[float, ...])
_MAX_WINDOWS = 6
_VOLUME_SHARE = 0.2  # at most, but for the first window: a pixel costs half of what its registration does
_SIDE_PX = 384  # px of the working image
_SECTIONS = 8
_MAX_PLACES = 3  # that a window may take, until one shows tissue
_R2_STEP = (0.7548776662, 0.5698402910)  # of the R2 sequence, which spreads points evenly (Roberts 2018)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTask(JobTask):
    """Smoothness lengths tried in one sample window, and its residual scales."""

    index: int
    places: tuple[Box, ...]
    """Candidate boxes at the working mip; the first that shows tissue is taken."""

    def run(self) -> Result:
        """Register the window with several lengths and measure its scales."""
        job = self.job
        volume, device = open_source(job), compute_device()
        config, neighbours = job.register.gauss_newton, job.register.neighbours
        steps: tuple[LengthStep, ...] = ()
        scales: ResidualScales | None = None
        read = 0
        for box in self.places:
            sections = list(
                read_aligned_sections(
                    volume,
                    sections=box.sections,
                    box=box,
                    affines=COARSE.read(job, z=box.sections),
                    inverted=COARSE_INVERTED.read(job, z=box.sections),
                    parts=read_parts(job, box.sections),
                    device=device,
                )
            )
            read += job.source_bytes(_source_pixels(job, box), mip=box.mip)
            grid = Grid.of_box(box)
            image, valid = (torch.stack(parts) for parts in zip(*sections, strict=True))
            for i, z in enumerate(box.sections):
                fix = job.fitted_fixes.of(z)
                if has_codes(fix):
                    codes = fix_codes(job, fix, box=box, affine=COARSE.read(job, z=z))
                    valid[i] &= (codes == TISSUE).to(valid.device)
            window = WindowImages(images=image, valid=valid, grid=grid.relative_to(grid.origin))
            if config.smoothness is None:
                steps = probe_window(window, config=config, device=device)
            # As few sections as show pairs of every kind, since the scales cost as much as the lengths.
            first = max(0, (len(image) - 1 - neighbours) // 2)
            middle = slice(first, first + 1 + neighbours)
            window = replace(window, images=image[middle], valid=valid[middle])
            scales = measure_scales(window, neighbours=neighbours, config=config, device=device)
            if steps or scales:
                break
        written = calibration_window(self.index).write(
            job,
            {
                "start": list(box.start),
                "stop": list(box.stop),
                "mip": box.mip,
                "steps": _records(steps),
                "scales": None if scales is None else scales.model_dump(),
            },
        )
        return Result(
            outcome=Outcome.OK if steps or scales else Outcome.NO_TISSUE, bytes_read=read, bytes_written=written
        )

    def footprint(self) -> Footprint:
        """Read the window's sections, wherever the coarse affine leads; write its record."""
        job, z = self.job, self.places[0].sections
        arrays = COARSE, COARSE_INVERTED
        return Footprint(
            reads=(
                *job.source_regions(z.start, z.stop),
                *(array.region(job, z.start, z.stop) for array in arrays),
                *part_regions(job, z.start, z.stop),
            ),
            writes=(calibration_window(self.index).region(self.job, z.start, z.stop),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseTask(JobTask):
    """The choice of smoothness and scales from all sample windows."""

    windows: int
    """Number of sample windows."""

    def run(self) -> Result:
        """Take the median over the windows and write the calibration."""
        job = self.job
        windows = []
        for i in range(self.windows):
            with contextlib.suppress(FileNotFoundError):  # its task failed, and the run continues without it
                windows.append(calibration_window(i).read(job))
        given = job.register.gauss_newton.smoothness
        if given is not None:
            choice = SmoothnessChoice(given, f"smoothness {given} px, given by the user")
        else:
            names = [f.name for f in fields(LengthStep)]
            with interpreting(job.url("quality", "calibration"), what="a record of its sample windows"):
                steps = [[LengthStep(**{name: step[name] for name in names}) for step in w["steps"]] for w in windows]
                choice = choose_smoothness(steps, pixel_size=job.info.pixel_size * 2.0 ** (job.register.mip))
        chosen_by = "user" if given is not None else "data" if any(w.get("steps") for w in windows) else "default"
        with interpreting(job.url("quality", "calibration"), what="a record of its sample windows"):
            scales = median_scales([ResidualScales.model_validate(w["scales"]) for w in windows if w.get("scales")])
        written = CALIBRATION.write(
            job,
            {
                "smoothness": list(choice.smoothness),
                "chosen_by": chosen_by,
                "reason": choice.reason,
                "scales": None if scales is None else scales.model_dump(),
                "windows": windows,
            },
        )
        return Result(message=choice.reason if given is None else "", bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the records of all windows; write the calibration."""
        return Footprint(
            reads=tuple(calibration_window(i).region(self.job) for i in range(self.windows)),
            writes=(CALIBRATION.region(self.job),),
        )


class CalibrateStage(Stage):
    """Smoothness and residual scales that all windows share, from a few sample windows."""

    name = "calibrate"
    upstream = ("coarse",)
    uses_gpu = True

    def decisive(self, job: Job) -> dict[str, Any]:
        """Return the settings of registration that the samples depend on, and the encoder."""
        register = job.register.model_dump(mode="json")
        keys = ("method", "mip", "neighbours", "gauss_newton")
        used = {key: register[key] for key in keys if key != "gauss_newton" or _wanted(job)}
        return {key: used.get(key) for key in keys} | {"weights": job.encoder_digest}

    def prepare(self, job: Job) -> None:
        """Do nothing: the results are small JSON files."""

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield the windows, then the choice; nothing if the method needs no calibration."""
        if not _wanted(job):
            return
        job = job.fit
        windows = sample_windows(job)
        yield [
            ProbeTask(
                **self.task_fields(
                    job,
                    f"window-{i}",
                    pixels=_source_pixels(job, places[0]),
                    fixes=job.fitted_fixes.matching().within(places[0].sections),
                ),
                index=i,
                places=places,
            )
            for i, places in enumerate(windows)
        ]
        yield [ChooseTask(**self.task_fields(job, "choose"), windows=len(windows))]

    def estimate(self, job: Job) -> Estimate:
        """Return the cost: a few windows and the choice, or nothing."""
        boxes = [places[0] for places in sample_windows(job)] if _wanted(job) else []
        pixels = sum(_source_pixels(job, box) for box in boxes)
        # Features of the sections; for one section the network's activations, the pairs' fields and gradients.
        memory = max((box.size * 22 + box.shape[1] * box.shape[2] * 175 for box in boxes), default=0)
        return Estimate(
            tasks=len(boxes) + _wanted(job),
            pixels=pixels,
            bytes_read=job.source_bytes(pixels, mip=job.register.mip),
            bytes_written=2000 * (len(boxes) + _wanted(job)),
            files=len(boxes) + _wanted(job),
            memory=memory,
            gpu_memory=memory,
        )


def calibrated(job: Job) -> ResolvedRegister:
    """Return the settings of registration with the chosen smoothness and the measured scales."""
    if not _wanted(job):
        return job.register
    with CALIBRATION.reading(job) as record:
        smoothness = _SMOOTHNESS.validate_python(record["smoothness"])
        solver = job.register.gauss_newton.model_copy(update={"smoothness": smoothness})
        found = record.get("scales")  # runs that were begun by earlier versions have none
        if solver.scales is None and found is not None:
            solver = solver.model_copy(update={"scales": ResidualScales.model_validate(found)})
    return job.register.model_copy(update={"gauss_newton": solver})


def sample_windows(job: Job) -> list[tuple[Box, ...]]:
    """Return the sample windows, each with its candidate boxes, spread over the volume by a fixed rule."""
    mip = job.register.mip
    if job.deepest < 2:
        return []
    extent = job.deepest, *shape_at_mip((job.shape[1], job.shape[2]), mip=mip)
    size = min(_SECTIONS, extent[0]), min(_SIDE_PX, extent[1]), min(_SIDE_PX, extent[2])
    count = int(np.clip(_VOLUME_SHARE * np.prod(extent) / np.prod(size), 1, _MAX_WINDOWS))
    windows = []
    for i in range(count):
        z = round((extent[0] - size[0]) * (i + 0.5) / count)
        places = []
        for j in range(_MAX_PLACES):
            share = [(0.5 + step * (i + j * count)) % 1.0 for step in _R2_STEP]
            y, x = (round((n - side) * s) for n, side, s in zip(extent[1:], size[1:], share, strict=True))
            places.append(Box((z, y, x), (z + size[0], y + size[1], x + size[2]), mip))
        windows.append(tuple(dict.fromkeys(places)))
    return windows


def _wanted(job: Job) -> bool:
    return job.register.registration_method.needs_calibration


def _source_pixels(job: Job, box: Box) -> int:
    return box.at_mip(0).clipped(job.shape).size


def _records(steps: tuple[LengthStep, ...]) -> list[dict[str, float]]:
    return [{**asdict(step), "distortion": round(step.distortion, 4)} for step in steps]
