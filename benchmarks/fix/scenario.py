"""Several faults in one stack, fixed as a person does: a foreign image, a half turn, a large fold, a wrong pair.

The wrong pair is a pair of fields that agrees with no image, as a registration that went astray would leave it. A
person sees the step between the two sections, and sets four pairs of points.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fix.actions import NOTHING, Said, points_between, proposed, typed
from benchmarks.fix.rounds import RIGHT_PX, Round, Undamaged
from benchmarks.spoilt.kinds import spoil_sections
from benchmarks.spoilt.measure import measure, truth_maps
from ssem_dask.driver.rerun import Selection, execute_rerun, plan_rerun
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.storage.attention import read_attention
from tests.support.fixed_runs import FixedRun

FAULTS = {7: "fold_large", 12: "foreign", 15: "turn180"}
WRONG_PAIR = 3
"""Section whose fields to all sections before it are wrong."""
_WRONG = 25.0, -18.0
"""Displacement of the wrong fields, px."""


def scenario_rounds(undamaged: Undamaged, *, folder: Path, config: dict[str, Any], seed: int) -> Iterator[Round]:
    """Align the stack with all faults, then fix one after the other; yield what each round did."""
    torch.set_num_threads(1)
    stack = undamaged.run.stack
    assert stack is not None
    spoilt = spoil_sections(stack.images, FAULTS, seed=seed, foreign=stack.foreign)
    folder.mkdir(parents=True, exist_ok=True)
    run = FixedRun(folder, spoilt.images, stack, config)
    run.align()
    _plant(run)
    fields, said = undamaged.run.fields().values, dict[int, Said]()

    def errors() -> dict[int, float]:
        found = measure(truth_maps(run.fields(), stack, spoilt.sources), undamaged.maps, spoilt)
        return {**found.harm, **{z: median for z, (median, _) in found.back.items()}}

    now, attention = errors(), read_attention(run.output)
    yield _round("as aligned", now, now, attention_names=attention)
    for z, kind in {**FAULTS, WRONG_PAIR: "wrong pair"}.items():
        before = now
        if kind == "wrong pair":
            # Four places in the section, and where the person sees them in the one before.
            identity = np.indices(stack.shape_yx).astype(np.float32) + np.float32(0.5)
            said[z] = points_between(identity, z, fields=fields, spacing=run.job.spacing, seed=seed)
        elif now.get(z, np.inf) <= RIGHT_PX:
            said[z] = NOTHING
        else:
            said[z] = proposed(z, attention) or typed(
                kind, z, spoilt, fields=fields, spacing=run.job.spacing, seed=seed
            )
        seconds = 0.0
        if said[z].toml:
            begun = time.process_time()
            run.fix("\n".join(each.toml for each in said.values()))
            seconds, now = time.process_time() - begun, errors()
        made = _round(kind, before, now, attention_names=attention, z=z)
        made.said, made.seconds = [said[z]], seconds
        yield made
    before, begun = now, time.process_time()
    run.fix("\n".join(each.toml for each in said.values()), refit=True)
    seconds, now = time.process_time() - begun, errors()
    made = _round("all, statistics fitted again", before, now, attention_names=read_attention(run.output))
    made.seconds = seconds
    yield made


def _plant(run: FixedRun) -> None:
    """Replace the fields of a section with those before it by wrong ones that seem certain, and compose again."""
    job = run.job
    for k in range(job.register.neighbours):
        values = np.asarray(PAIRS.read(job, k=k, z=WRONG_PAIR))
        wrong = np.where(np.isfinite(values), np.array(_WRONG, dtype=np.float32)[:, None, None] + values, np.nan)
        PAIRS.write(job, wrong.astype(np.float32), k=k, z=WRONG_PAIR)
        CONFIDENCE.write(job, np.ones_like(CONFIDENCE.read(job, k=k, z=WRONG_PAIR)), k=k, z=WRONG_PAIR)
    again = plan_rerun(run.output, Selection(stages=("compose",)))
    execute_rerun(again, executor=SerialExecutor(), observer=SilentObserver())


def _round(
    kind: str, before: dict[int, float], after: dict[int, float], *, attention_names: Any, z: int | None = None
) -> Round:
    names = {} if attention_names is None else {r.z: str(r.kind) for r in attention_names.records}
    shown = ", ".join(f"{n} {name}" for n, name in names.items()) if z is None else names.get(z, "ok")
    made = Round(kind, shown)
    if z is not None:
        made.section = before.get(z, np.nan), after.get(z, np.nan)
    others = [{n: error for n, error in errors.items() if n != z} for errors in (before, after)]
    made.others = max(others[0].values()), max(others[1].values())
    return made
