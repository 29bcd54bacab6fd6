"""Our own modes: `ssem_dask.align` with overrides of its configuration, and the rows that need no alignment."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch

import ssem_dask
from benchmarks.accuracy.digest import PACKAGE, digest_of_sources
from benchmarks.accuracy.methods import SectionFields
from benchmarks.accuracy.scenes import PreparedScene
from ssem_dask.evaluation.candidates import EvaluatedRun
from ssem_dask.field.affine import apply_affine
from ssem_dask.field.grid import Grid
from ssem_dask.registration.triton import kernels_run_on
from ssem_dask.runtime.events import SilentObserver, StageStarted

_AFFINE_SPACING = 16
_FIELD_STAGES = ("coarse", "mask", "calibrate", "register", "compose")
_NOT_DECIDING = {"cli", "evaluation", "report", "__pycache__"}


@dataclass(frozen=True)
class Identity:
    """Every section stays as it came."""

    name: str = "identity"
    title: str = "identity"

    def versions(self) -> dict[str, str]:
        """None."""
        return {}

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Zeros."""
        count, height, width = scene.read().shape
        nodes = Grid.of_section((height, width), spacing=_AFFINE_SPACING).shape
        return SectionFields(np.zeros((count, 2, *nodes), dtype=np.float32), _AFFINE_SPACING)


@dataclass(frozen=True)
class Mode:
    """`align` with some configuration; without any it is what a user gets."""

    name: str
    title: str
    config: dict[str, Any] = field(default_factory=dict)
    coarse_only: bool = False
    """Take the affine per section of such a run, without the elastic fields."""
    device: Literal["cpu", "plain", "kernels"] | None = None
    """Where it is computed: on the CPU, on a GPU in plain PyTorch, or on one by the fused kernels; None: as a user
    would have it here."""

    def versions(self) -> dict[str, str]:
        """The package, by its sources."""
        folders = sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name not in _NOT_DECIDING)
        return {"ssem_dask": digest_of_sources(*folders, extra=list(PACKAGE.glob("*.py")))[:16]}

    def settings(self) -> dict[str, Any]:
        """The overrides."""
        chosen = {} if self.device is None else {"device": self.device}
        return {"config": self.config, "coarse_only": self.coarse_only} | chosen

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Run all stages, one task after the other in this process, and read the fields."""
        clock = _StageClock()
        output = str(folder / "run.zarr")
        with _computing(self.device):
            summary = ssem_dask.align(scene.url, output, cluster="serial", observer=clock, **self.config)
        if summary.state != "complete":
            raise RuntimeError(f"{len(summary.failed)} tasks failed, the first with: {summary.failed[0].message}")
        run = EvaluatedRun.open(output)
        seconds = dict(clock.seconds)
        if self.coarse_only:
            return SectionFields(_affine_fields(run), _AFFINE_SPACING, {**seconds, "fields": seconds["coarse"]})
        seconds["fields"] = sum(seconds.get(stage, 0.0) for stage in _FIELD_STAGES)
        values = np.asarray(run.section[:], dtype=np.float32)
        return SectionFields(values, int(run.info.spacing), seconds, tuple(clock.notes))


@contextmanager
def _computing(device: str | None) -> Iterator[None]:
    """Compute on this device.

    Raises:
        RuntimeError: there is no GPU, or Triton is missing.
    """
    if device is None:
        yield
        return
    if device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
    if device == "kernels" and not kernels_run_on(torch.device("cuda")):
        raise RuntimeError("Triton is not installed")
    with ExitStack() as hidden:
        if device == "cpu":
            hidden.enter_context(mock.patch("torch.cuda.is_available", return_value=False))
        elif device == "plain":
            for user in ("gauss_newton.gauss_newton_window", "encoders.local_contrast"):
                hidden.enter_context(mock.patch(f"ssem_dask.registration.{user}.kernels_run_on", return_value=False))
        yield


class _StageClock(SilentObserver):
    """CPU seconds of every stage, and what the run said of its choices."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self._start = 0.0

    def stage_started(self, event: StageStarted) -> None:
        self._start = time.process_time()

    def stage_ended(self, stage: str) -> None:
        self.seconds[stage] = time.process_time() - self._start

    def note(self, message: str) -> None:
        self.notes.append(message)


def _affine_fields(run: EvaluatedRun) -> np.ndarray:
    grid = Grid.of_section((run.shape[1], run.shape[2]), spacing=_AFFINE_SPACING)
    positions = grid.positions().double()
    return np.stack(
        [
            (apply_affine(np.asarray(run.coarse[z], dtype=np.float64), positions) - positions).float().numpy()
            for z in range(run.shape[0])
        ]
    )
