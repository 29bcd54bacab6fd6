"""One round of fixing: a stack with one spoilt section is aligned, fixed and measured before and after."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fix.actions import Said, proposed, typed
from benchmarks.spoilt.kinds import SpoiltStack
from benchmarks.spoilt.measure import Measured, measure, truth_maps
from benchmarks.spoilt.stacks import DeformedStack
from ssem_dask.storage.attention import read_attention
from ssem_dask.types import Float32Array
from tests.support.fixed_runs import FixedRun

RIGHT_PX = 1.5
"""Median error up to which a section is right."""


@dataclass(frozen=True, slots=True)
class Undamaged:
    """The run of the stack without any fault."""

    run: FixedRun
    maps: Float32Array

    @classmethod
    def of(cls, stack: DeformedStack, folder: Path, config: dict[str, Any]) -> "Undamaged":
        """Align it in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        run = FixedRun(folder, stack.images, stack, config)
        run.align()
        return cls(run, truth_maps(run.fields(), stack, {}))


@dataclass(slots=True)
class Round:
    """The fault, the fixes, and the errors before and after; errors are medians, px."""

    kind: str
    named: str
    """Name that the run gives the section."""
    said: list[Said] = field(default_factory=list)
    seconds: float = 0.0
    """CPU seconds of the applies."""
    section: tuple[float, float] = (np.nan, np.nan)
    """Error of the spoilt sections before and after; the larger one if there are several."""
    others: tuple[float, float] = (np.nan, np.nan)
    """Largest error of another section."""

    @property
    def actions(self) -> int:
        """Keys and clicks, with `n` to each place and one apply."""
        written = [each for each in self.said if each.toml]
        return sum(each.actions + 1 for each in written) + bool(written)


def fix_round(
    kind: str, spoilt: SpoiltStack, undamaged: Undamaged, *, folder: Path, config: dict[str, Any], seed: int
) -> Round:
    """Align a spoilt stack, say what a person would, apply, and measure.

    Args:
        kind: name of the round.
        spoilt: the stack.
        undamaged: the run without the fault.
        folder: folder for the run.
        config: of both runs.
        seed: of the error of points.
    """
    torch.set_num_threads(1)
    stack = undamaged.run.stack
    assert stack is not None
    folder.mkdir(parents=True, exist_ok=True)
    run = FixedRun(folder, spoilt.images, stack, config)
    run.align()
    before = _measured(run, undamaged, spoilt)
    attention = read_attention(run.output)
    names = {} if attention is None else {record.z: str(record.kind) for record in attention.records}
    done = Round(kind, ", ".join(names.get(z, "ok") for z in spoilt.spoilt))
    for z, each in spoilt.spoilt.items():
        if before.back.get(z, (np.inf,))[0] <= RIGHT_PX:
            continue
        if each == "swapped" and any(said.toml for said in done.said):
            continue
        said = proposed(z, attention) if each != "swapped" else None
        done.said.append(
            said or typed(each, z, spoilt, fields=undamaged.run.fields().values, spacing=run.job.spacing, seed=seed)
        )
    text = "\n".join(said.toml for said in done.said)
    after = before
    if text.strip():
        begun = time.process_time()
        run.fix(text)
        done.seconds = time.process_time() - begun
        after = _measured(run, undamaged, spoilt)
    done.section = _worst(before), _worst(after)
    done.others = before.harm_largest, after.harm_largest
    return done


def _measured(run: FixedRun, undamaged: Undamaged, spoilt: SpoiltStack) -> Measured:
    assert run.stack is not None
    return measure(truth_maps(run.fields(), run.stack, spoilt.sources), undamaged.maps, spoilt)


def _worst(measured: Measured) -> float:
    return max((median for median, _ in measured.back.values()), default=np.nan)
