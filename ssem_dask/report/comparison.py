"""Comparison of two runs of one source: settings, sections, and whether they match better or worse."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.report.field_changes import FieldChanges, measure_field_changes, open_fields
from ssem_dask.report.hotspots import find_hotspots
from ssem_dask.report.report_data import ReportData, read_report_data
from ssem_dask.section_record import Action
from ssem_dask.shown import without_secrets
from ssem_dask.storage.run_group import RunRecord, read_run
from ssem_dask.storage.section_names import section_list
from ssem_dask.types import BoolArray, Float64Array
from ssem_dask.units import flat, number, plural

CHANGED_PX = 0.25
"""A section counts as changed if the 95th percentile of its distances is larger; less is no visible difference."""
_LISTED = 8
_PLACES = 12
_NOT_SETTINGS = ("source", "output", "cluster.")
_MAJORITY = 3
"""One run is better as a whole if it is better in this many times as many sections as it is worse in."""


@dataclass(frozen=True, slots=True)
class _Measure:
    column: str
    title: str
    unit: str
    sign: int
    """+1 if large values are good, -1 if small values are."""
    least: float
    """Smallest change of a section that counts; infinite if the measure is only shown."""


_MEASURES = (
    _Measure("ncc", "Match with the previous section, NCC", "1", 1, 0.02),
    _Measure("cpc", "Match with the previous section, CPC", "1", 1, 0.02),
    _Measure("likeness_1", "Match of the whole section, at a coarse mip", "1", 1, 0.02),
    _Measure("fold_rate", "Folded tissue, share of the field's cells", "1", -1, 0.001),
    _Measure("motion_median", "Residual motion relative to the previous section", "px", -1, 0.25),
    # A run that is certain of a wrong place has a low uncertainty, so this one does not decide.
    _Measure("uncertainty", "Uncertainty", "px", -1, math.inf),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """A setting or version that differs; an empty text is one that a run does not have."""

    name: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionChange:
    """How far a section is from where it was; lengths are mip-0 px, after one translation of the whole volume."""

    z: int
    label: str
    median_px: float
    p95_px: float
    largest_px: float
    """Largest distance; NaN if no node is known in both runs."""
    position: tuple[float, float]
    """Position (y, x) of the largest distance, mip-0 px of A's aligned section."""
    one_sided: float
    """Share of the nodes that are known in one of the runs alone."""
    is_identical: bool
    """Whether the fields are equal to the bit."""
    judgement: str
    """`better`, `worse`, `mixed` or `alike`: how B matches the previous section, compared with A; `unknown`."""

    @property
    def is_changed(self) -> bool:
        """Whether the section moved visibly, or is known in one run alone."""
        return self.p95_px > CHANGED_PX or (not math.isfinite(self.p95_px) and self.one_sided > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureChange:
    """A measure of quality in both runs."""

    name: str
    title: str
    unit: str
    a: float
    """Median over the sections that both runs measured."""
    b: float
    better: tuple[int, ...]
    """Sections in which B is better."""
    worse: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place outside the usual scatter of one run."""

    z: int
    y: float
    x: float
    """Centre, mip-0 px of the aligned section."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of `compare`."""

    a: str
    b: str
    pixel_size: float
    """nm per mip-0 px."""
    judgement: str
    """`equal` (to the bit), `alike`, `better`, `worse` or `mixed`: B compared with A."""
    verdict: str
    """The result in one line."""
    shift_px: tuple[float, float]
    """Translation (y, x) of the whole volume, left out of all distances: B shows at p what A shows at p + shift."""
    settings: tuple[SettingChange, ...]
    sections: tuple[SectionChange, ...]
    measures: tuple[MeasureChange, ...]
    attention: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    """Sections that need a look in A and in B; None if a run does not know them."""
    places_gone: tuple[Place, ...]
    """Outliers of A that B does not have."""
    places_new: tuple[Place, ...]
    remarks: tuple[str, ...]
    """A sentence about everything that limits the comparison."""

    @property
    def changed(self) -> tuple[SectionChange, ...]:
        """The sections that changed visibly, the most changed first."""
        changed = [section for section in self.sections if section.is_changed]
        return tuple(sorted(changed, key=lambda s: (-np.nan_to_num(s.p95_px, nan=math.inf), s.z)))

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values; NaN is null."""
        values = asdict(self)
        values["changed"] = [section.z for section in self.changed]
        return {name: _plain(value) for name, value in values.items()}

    def __str__(self) -> str:
        return self.verdict


def compare(run_a: str, run_b: str, *, other_source: bool = False) -> Comparison:
    """Compare two runs of one source: what changed from A to B, where, by how much, and whether it is better.

    Args:
        run_a: URL of the first run.
        run_b: URL of the second run.
        other_source: whether the runs may be of different sources of the same extents.

    Raises:
        SourceError: there is no such run, a run has no section fields yet, or the runs do not fit each other.
    """
    run_a, run_b = without_secrets(run_a), without_secrets(run_b)
    a, b = read_run(run_a), read_run(run_b)
    if not other_source:
        _refuse_other_source(run_a, a, run_b, b)
    fields_a, fields_b = open_fields(run_a), open_fields(run_b)
    if fields_a.shape != fields_b.shape:
        raise SourceError(
            f"{run_a} and {run_b}: their volumes have extents {fields_a.shape} and {fields_b.shape} (z, y, x); only "
            "runs of volumes with equal extents can be compared."
        )
    data_a, data_b = read_report_data(run_a), read_report_data(run_b)
    changes = measure_field_changes(fields_a, fields_b)
    measures, judgements = _compare_measures(data_a, data_b)
    sections = _section_changes(data_a, changes, judgements)
    attention = _attention(data_a), _attention(data_b)
    judgement = _judge(sections, attention)
    gone, new = _compare_places(data_a, data_b)
    return Comparison(
        a=run_a,
        b=run_b,
        pixel_size=data_a.pixel_size,
        judgement=judgement,
        verdict=_verdict(judgement, sections, attention, pixel_size=data_a.pixel_size, names=data_a.run.section_names),
        shift_px=changes.shift,
        settings=_compare_settings(a, b),
        sections=sections,
        measures=measures,
        attention=attention,
        places_gone=gone,
        places_new=new,
        remarks=tuple(_remarks(data_a, data_b, sections)),
    )


def _refuse_other_source(run_a: str, a: RunRecord, run_b: str, b: RunRecord) -> None:
    if a.source.rstrip("/") != b.source.rstrip("/"):
        raise SourceError(
            f"{run_a} and {run_b}: they are runs of different sources, {a.source} and {b.source}; compare runs of one "
            "source, or add --other-source if both show the same sections."
        )


def _compare_settings(a: RunRecord, b: RunRecord) -> tuple[SettingChange, ...]:
    texts = []
    for record in (a, b):
        tree = {name: value for name, value in flat(record.config) if not name.startswith(_NOT_SETTINGS)}
        tree |= {"encoder digest": record.encoder_digest or "", "ssem_dask": record.version, **record.environment}
        texts.append(tree)
    names = dict.fromkeys([*texts[0], *texts[1]])
    return tuple(
        SettingChange(name=name, a=texts[0].get(name, ""), b=texts[1].get(name, ""))
        for name in names
        if texts[0].get(name) != texts[1].get(name)
    )


def _compare_measures(a: ReportData, b: ReportData) -> tuple[tuple[MeasureChange, ...], list[str]]:
    """Return the measures of both runs, and the judgement of each section."""
    # A section that was left out, and the next one, are compared with a picture that is not theirs.
    skipped = np.zeros(a.shape[0], dtype=bool)
    for data in (a, b):
        for record in () if data.attention is None else data.attention.records:
            if record.action is Action.LEFT_OUT:
                skipped[record.z : record.z + 2] = True
    better_any, worse_any, known_any = (np.zeros(a.shape[0], dtype=bool) for _ in range(3))
    rows = []
    for measure in _MEASURES:
        first, second = (data.sections[measure.column].astype(np.float64) for data in (a, b))
        known = np.isfinite(first) & np.isfinite(second)
        gain = np.where(known & ~skipped, measure.sign * (second - first), 0.0)
        better, worse = gain > measure.least, gain < -measure.least
        if math.isfinite(measure.least):
            better_any |= better
            worse_any |= worse
            known_any |= known
        rows.append(
            MeasureChange(
                name=measure.column,
                title=measure.title,
                unit=measure.unit,
                a=_median(first, known),
                b=_median(second, known),
                better=tuple(np.flatnonzero(better).tolist()),
                worse=tuple(np.flatnonzero(worse).tolist()),
            )
        )
    judgements = np.where(better_any, np.where(worse_any, "mixed", "better"), np.where(worse_any, "worse", "alike"))
    judgements[~known_any | skipped] = "unknown"
    return tuple(rows), [str(judgement) for judgement in judgements]


def _median(values: Float64Array, known: BoolArray) -> float:
    return float(np.median(values[known])) if known.any() else math.nan


def _section_changes(a: ReportData, changes: FieldChanges, judgements: Sequence[str]) -> tuple[SectionChange, ...]:
    return tuple(
        SectionChange(
            z=z,
            label=a.run.section_names[z] if z < len(a.run.section_names) else "",
            median_px=float(changes.median[z]),
            p95_px=float(changes.p95[z]),
            largest_px=float(changes.largest[z]),
            position=(float(changes.position[z, 0]), float(changes.position[z, 1])),
            one_sided=float(changes.one_sided[z]),
            is_identical=bool(changes.identical[z]),
            judgement=judgements[z],
        )
        for z in range(a.shape[0])
    )


def _attention(data: ReportData) -> tuple[int, ...] | None:
    return None if data.attention is None else tuple(record.z for record in data.attention.records)


def _compare_places(a: ReportData, b: ReportData) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Return the places that stand out in A alone and in B alone; places in one section at one window are the same."""
    places = []
    for data in (a, b):
        found = {}
        for hotspot in find_hotspots(data, count=_PLACES):
            if hotspot.is_outlier:
                box = data.window_box(z=hotspot.z, row=hotspot.row, column=hotspot.column)
                y, x = ((low + high) / 2 for low, high in zip(box.start_yx, box.stop[1:], strict=True))
                found[hotspot.z, y, x] = Place(z=hotspot.z, y=y, x=x, reason=hotspot.reason)
        places.append(found)
    return (
        tuple(place for key, place in places[0].items() if key not in places[1]),
        tuple(place for key, place in places[1].items() if key not in places[0]),
    )


def _judge(sections: Sequence[SectionChange], attention: tuple[tuple[int, ...] | None, tuple[int, ...] | None]) -> str:
    if all(section.is_identical for section in sections):
        return "equal"
    better = sum(section.judgement == "better" for section in sections)
    worse = sum(section.judgement == "worse" for section in sections)
    mixed = sum(section.judgement == "mixed" for section in sections)
    if attention[0] is not None and attention[1] is not None:
        better += len(set(attention[0]) - set(attention[1]))
        worse += len(set(attention[1]) - set(attention[0]))
    if better == worse == mixed == 0:
        return "alike"
    if better >= _MAJORITY * worse and better > mixed:
        return "better"
    if worse >= _MAJORITY * better and worse > mixed:
        return "worse"
    return "mixed"


def _verdict(
    judgement: str,
    sections: Sequence[SectionChange],
    attention: tuple[tuple[int, ...] | None, tuple[int, ...] | None],
    *,
    pixel_size: float,
    names: Sequence[str],
) -> str:
    if judgement == "equal":
        return f"Equal: the fields of all {plural(len(sections), 'section')} are the same to the bit."
    changed = [section for section in sections if section.is_changed]
    parts = []
    if changed:
        most = max(changed, key=lambda section: np.nan_to_num(section.p95_px, nan=math.inf))
        listed = section_list([section.z for section in changed], names, limit=_LISTED)
        parts.append(
            f"{len(changed):,} of {plural(len(sections), 'section')} changed by more than {CHANGED_PX} px: {listed}"
        )
        if math.isfinite(most.p95_px):
            nm = most.p95_px * pixel_size
            parts.append(f"section {most.z} most, by {number(most.p95_px)} px or {number(nm)} nm (p95)")
        else:
            parts.append(f"section {most.z} has a field in one of the runs only")
    else:
        parts.append(f"no section changed by more than {CHANGED_PX} px")
    identical = sum(section.is_identical for section in sections)
    if identical:
        parts.append(f"{identical:,} are the same to the bit")
    counts = {name: sum(section.judgement == name for section in sections) for name in ("better", "worse", "mixed")}
    if any(counts.values()):
        text = f"better matches in {plural(counts['better'], 'section')} and worse ones in {counts['worse']:,}"
        parts.append(
            text + (f", better by some measures and worse by others in {counts['mixed']:,}" if counts["mixed"] else "")
        )
    if attention[0] is not None and attention[1] is not None and attention[0] != attention[1]:
        parts.append(f"sections that need a look: {len(attention[1]):,} instead of {len(attention[0]):,}")
    return f"{judgement.capitalize()}: {'; '.join(parts)}."


def _remarks(a: ReportData, b: ReportData, sections: Sequence[SectionChange]) -> list[str]:
    lines = []
    for name, data in (("A", a), ("B", b)):
        if data.run.state != "complete":
            lines.append(
                f"{name} ({data.run.url}) is {data.run.state}: what is missing there reads as unknown; the command "
                "that started it completes it."
            )
        if data.quality is None:
            lines.append(f"{name} ({data.run.url}) was not measured yet, so better and worse are not known.")
        elif data.attention is None:
            lines.append(f"{name} ({data.run.url}): which sections need a look is not known.")
    unknown = [section.z for section in sections if not math.isfinite(section.p95_px)]
    if unknown:
        lines.append(f"No node is known in both runs in {section_list(unknown, a.run.section_names)}.")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
