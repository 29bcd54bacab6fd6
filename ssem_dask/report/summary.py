"""What is read first: what was aligned, how long it took, how good it seems, what failed."""

from dataclasses import dataclass

import numpy as np

from ssem_dask.report.report_data import Material
from ssem_dask.types import AnyArray
from ssem_dask.units import duration, micrometres, number, plural, si


@dataclass(frozen=True, slots=True)
class Fact:
    """One tile of the summary."""

    name: str
    value: str
    more: str = ""
    alarm: bool = False
    """Whether something is wrong."""


def facts(material: Material) -> list[Fact]:
    """The tiles, most important first."""
    z, y, x = material.shape
    ended = material.ended
    pixels = z * y * x
    state = str(material.attributes.get("state"))
    throughput = si(pixels / ended.at_work, "px/s") if ended.at_work > 0 and state == "complete" else "–"
    config = material.attributes["config"]
    workers = len({worker for stage in ended.stages.values() for worker in stage.workers})
    found = [
        Fact("State", state, _failures(ended.failed_count), alarm=state != "complete"),
        Fact("Sections", f"{z:,}", f"{material.thickness:g} nm thick, {z * material.thickness / 1000:.3g} µm in all"),
        Fact(
            "Section size",
            f"{x:,} × {y:,}",
            f"px (x × y), {micrometres(x, material.pixel_size)} × {micrometres(y, material.pixel_size)} µm at "
            f"{material.pixel_size:g} nm",
        ),
        Fact("Volume", si(pixels, "px")),
        Fact("Neighbours", str(config["register"]["neighbours"]), "sections before, that each is registered with"),
        Fact("Time", duration(ended.at_work), f"at work; {duration(ended.wall)} from the first start to the last end"),
        Fact("Throughput", throughput, f"whole volume, all stages, {plural(workers, 'worker')}"),
    ]
    return [*found, *_quality(material)]


def _quality(material: Material) -> list[Fact]:
    column = material.sections
    found = []
    if np.isfinite(column["cpc"]).any():
        found.append(
            Fact(
                "Similarity (CPC)",
                f"{number(_median(column['cpc_before']), 2)} → {number(_median(column['cpc']), 2)}",
                "of adjacent sections, median: as they came → aligned",
            )
        )
    if np.isfinite(column["uncertainty"]).any():
        found.append(
            Fact(
                "Estimated jitter", f"{number(_median(column['uncertainty']), 2)} px", "uncertainty, median of sections"
            )
        )
    elif np.isfinite(column["motion_median"]).any():
        found.append(
            Fact(
                "Motion left",
                f"{number(_median(column['motion_median']), 2)} px",
                "between adjacent sections, natural motion included",
            )
        )
    folds = column["fold_rate"]
    if np.isfinite(folds).any():
        folded = int((folds > 0).sum())
        found.append(
            Fact(
                "Folds by the field",
                f"{folded:,} sections",
                f"mean fold rate {np.nanmean(folds):.2g}",
                alarm=folded > 0,
            )
        )
    rows = (material.evaluation or {}).get("rows", {})
    if material.has_truth and "aligned" in rows:
        for name, key in (("True jitter", "jitter_median"), ("True drift", "drift_max")):
            before, after = (rows.get(row, {}).get(key) for row in ("observed", "aligned"))
            found.append(
                Fact(name, f"{number(before)} → {number(after)} px", "against the known truth: as they came → aligned")
            )
    return found


def _failures(count: int) -> str:
    return "no task failed" if count == 0 else f"{plural(count, 'task')} failed"


def stage_rows(material: Material) -> list[list[str]]:
    """A row for each stage: outcomes, time, throughput, bytes."""
    rows = []
    for name, stage in material.ended.stages.items():
        counts = ", ".join(f"{n:,} {outcome.replace('_', ' ')}" for outcome, n in sorted(stage.counts.items()))
        rate = si(stage.pixels / stage.wall, "px/s") if stage.wall > 0 and stage.pixels else "–"
        rows.append(
            [
                name,
                counts,
                duration(stage.wall),
                duration(stage.busy),
                rate,
                si(stage.bytes_read, "B"),
                si(stage.bytes_written, "B"),
                str(len(stage.workers)),
                f"{stage.retried:,}",
            ]
        )
    return rows


def _median(values: AnyArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
