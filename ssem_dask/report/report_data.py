"""The data of a report: the run's attributes, ledger and quality tables. Neither images nor fields are read."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.report.ledger_summary import LOW_QUALITY, OK, LedgerSummary, summarise_ledger
from ssem_dask.section_record import Attention
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_STATE, SectionState
from ssem_dask.stages.measure.measure_stage import MeasureStage
from ssem_dask.stages.register import RegisterStage
from ssem_dask.storage import quality
from ssem_dask.storage.arrays import is_node, open_array
from ssem_dask.storage.attention import read_attention
from ssem_dask.storage.contrast_table import ContrastTable, read_contrast
from ssem_dask.storage.evaluation_file import Evaluation, read_evaluation
from ssem_dask.storage.fields import open_coarse, shape_mip0_of
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.quality import SECTION_COLUMNS, WINDOW_COLUMNS, QualityInfo
from ssem_dask.storage.run_group import RunRecord, read_run
from ssem_dask.storage.section_names import section_list
from ssem_dask.storage.untrusted import COUNT
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Outcome, TaskReport, box_name
from ssem_dask.types import AnyArray, Float32Array, ShapeYX, ShapeZYX
from ssem_dask.units import flat, plural

_SECTIONS_SHOWN = 12
_COARSE_REMARKS = {
    SectionState.BRIDGED: "without a matching neighbour, or not connected to the other sections",
    SectionState.MISPLACED: "apparently out of order (nothing was reordered)",
    SectionState.REPEATED: "with the same image as an earlier section",
    SectionState.EXCLUDED: "left out by a fix",
}
_STAGE_RECORDS = ("calibration.json", "relax.json")
"""Records in `quality/` whose `summary` is a sentence for the user, in the order of the stages."""


_VOLUME_TABLE: TypeAdapter[dict[str, float | None]] = TypeAdapter(
    dict[Literal["pixel_size", "section_thickness", "channel"], float | None]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeader:
    """The attributes of a run."""

    url: str
    source: str
    state: str
    section_names: tuple[str, ...]
    """Name of each section of the source; empty if sections have no names."""
    config_digest: str
    neighbours: int
    """Previous sections with which each section is registered."""
    depth: int
    """Sections that one register task covers."""
    volume: dict[str, float | None]
    """Table `[volume]` of the configuration: options with which the source is opened."""
    parameters: tuple[tuple[str, str], ...]
    """All parameters by dotted name."""
    versions: tuple[tuple[str, str], ...]
    """Versions and digests by name."""
    slabs: tuple[int, ...] = ()
    """First section of each slab but the first."""

    @classmethod
    def of_record(cls, url: str, record: RunRecord) -> "RunHeader":
        """Return the header of a run."""
        config = record.config
        return cls(
            url=url,
            source=record.source,
            state=record.state,
            section_names=record.section_names,
            config_digest=record.config_digest,
            neighbours=record.setting("register", "neighbours", wanted=COUNT),
            depth=record.setting("register", "sections", wanted=COUNT),
            volume=record.setting("volume", wanted=_VOLUME_TABLE),
            parameters=tuple(flat(config)),
            versions=(
                ("ssem_dask", record.version),
                ("format", str(record.format)),
                ("config digest", record.config_digest),
                ("encoder digest", record.encoder_digest or "no encoder"),
                *record.environment.items(),
            ),
            slabs=_slab_borders(record),
        )

    def open_source(self) -> Volume:
        """Open the source; SourceError if it is gone."""
        pixel_size, thickness = (self.volume.get(name) for name in ("pixel_size", "section_thickness"))
        channel = self.volume.get("channel")
        return Volume.open(
            self.source,
            pixel_size=pixel_size,
            section_thickness=thickness,
            channel=None if channel is None else int(channel),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """All data of a report except the pictures of hotspots."""

    run: RunHeader
    shape: ShapeZYX
    """(z, y, x) of the volume, mip 0."""
    pixel_size: float
    """nm per mip-0 px."""
    section_thickness: float
    """nm per section."""
    window: ShapeYX
    """Extent (y, x) of a register window's core, mip-0 px."""
    ledger: LedgerSummary
    quality: QualityInfo | None
    """Description of the quality tables; None if nothing was measured yet."""
    sections: dict[str, Float32Array]
    """Columns `(z,)` of `quality/sections`; all unknown if nothing was measured."""
    windows: dict[str, Float32Array]
    """Columns `(z, y, x)` of `quality/windows`."""
    reslices: dict[tuple[str, str], AnyArray]
    """Reslices `(z, pixel)` by cut and time."""
    coarse_state: NDArray[np.uint8]
    """`fields/coarse_state` `(z,)`."""
    evaluation: Evaluation | None
    """The last evaluation of this result, if any."""
    findings: tuple[str, ...]
    """Summaries that stages left for the user."""
    attention: Attention | None = None
    """Sections that a person should look at; None if they are not known."""
    contrast: ContrastTable | None = None
    """Gains and offsets of the sections; None if their contrast was not matched."""
    lost_px: float = math.nan
    """Standard deviation of the distortion of a section of which nothing was undone, px per component."""

    @property
    def has_truth(self) -> bool:
        """Whether errors were measured against a known truth."""
        return self.evaluation is not None and bool(self.evaluation.truth)

    def window_box(self, *, z: int, row: int, column: int) -> Box:
        """Return the core of a window in section z, mip-0 px."""
        y, x = row * self.window[0], column * self.window[1]
        return Box((z, y, x), (z + 1, y + self.window[0], x + self.window[1])).clipped(self.shape)

    def register_report(self, *, z: int, row: int, column: int) -> TaskReport | None:
        """Return the ledger's report of the task that registered a window of section z; None if there is none."""
        start = z - z % self.run.depth, row * self.window[0], column * self.window[1]
        return open_ledger(self.run.url).read(f"{RegisterStage.name}/{box_name(start)}")

    @property
    def verdict(self) -> str:
        """The result in one line; empty if nothing is known of it."""
        if self.attention is None:
            return ""
        verdict = self.attention.verdict(self.run.state)
        return f"{verdict[0].upper()}{verdict[1:]}."

    def describe_coarse_state(self) -> list[str]:
        """Return a line about each kind of section that the coarse stage reported; none if sections have names."""
        lines: list[str] = []
        if self.attention is not None:  # its records say more, and of the right sections
            return lines
        for code, meaning in _COARSE_REMARKS.items():
            sections = np.flatnonzero(self.coarse_state == code)
            if sections.size:
                listed = section_list(sections.tolist(), self.run.section_names, limit=_SECTIONS_SHOWN)
                lines.append(f"{plural(sections.size, 'section')} {meaning}: {listed}")
        return lines


def read_report_data(url: str, *, source: str | None = None) -> ReportData:
    """Read the data of a report. An unfinished run has less of it, which is no error.

    Args:
        url: of the run.
        source: URL of the source volume; None: where the run has recorded it.

    Raises:
        SourceError: there is no run, or its source has to be asked for its size and is gone.
        OutputError: something that is not a run is there.
    """
    record = read_run(url)
    if source is not None:
        record = replace(record, source=source)
    run = RunHeader.of_record(url, record)
    shape = _volume_shape(run)
    info = quality.read_info(url) if quality.has_quality(url) else None
    window = info.window if info is not None else _window_extent(record, shape)
    counts = ceil_div(shape[1], window[0]), ceil_div(shape[2], window[1])
    ledger = summarise_ledger(
        open_ledger(url).reports(None),
        sections=shape[0],
        windows=counts,
        window=window,
        depth=min(run.depth, shape[0]),
    )
    data = ReportData(
        run=run,
        shape=shape,
        pixel_size=record.pixel_size,
        section_thickness=record.section_thickness,
        window=window,
        ledger=ledger,
        quality=info,
        sections={name: np.full(shape[0], np.nan, np.float32) for name in SECTION_COLUMNS},
        windows={name: np.full((shape[0], *counts), np.nan, np.float32) for name in WINDOW_COLUMNS},
        reslices={},
        coarse_state=_read_coarse_state(url, shape[0]),
        evaluation=read_evaluation(url, config_digest=run.config_digest),
        findings=_read_findings(url),
        attention=_read_attention(url, ledger, sections=shape[0]),
        lost_px=_lost_px(url),
        contrast=_read_contrast(url, record, sections=shape[0]),
    )
    mark_unplaced(data)
    if info is None:
        return data
    return replace(
        data,
        sections={**data.sections, **quality.read_sections(url)},
        windows={name: quality.read_window_column(url, name) for name in WINDOW_COLUMNS},
        reslices={
            (cut, time): quality.read_reslice(url, cut=cut, time=time) for cut in quality.CUTS for time in quality.TIMES
        },
    )


def _slab_borders(record: RunRecord) -> tuple[int, ...]:
    """Return the borders of slabs that the configuration has; a run that was made before there were any has none."""
    table = record.config.get("slabs")
    borders = table.get("borders") if isinstance(table, dict) else None
    return tuple(z for z in borders if isinstance(z, int)) if isinstance(borders, list | tuple) else ()


def _volume_shape(run: RunHeader) -> ShapeZYX:
    coarse = COARSE.at(run.url)
    if is_node(coarse):
        return shape_mip0_of(open_coarse(coarse), coarse)
    return run.open_source().info.shape


def _window_extent(record: RunRecord, shape: ShapeZYX) -> ShapeYX:
    """Return the extent (y, x) of a window's core: no larger than the section, in whole nodes."""
    spacing = record.setting("register", "spacing", wanted=COUNT)
    window = record.setting("register", "window", wanted=COUNT)
    y, x = (min(window, ceil_div(n, spacing) * spacing) for n in shape[1:])
    return y, x


def _read_coarse_state(url: str, sections: int) -> NDArray[np.uint8]:
    array = COARSE_STATE.at(url)
    if not is_node(array):
        return np.zeros(sections, dtype=np.uint8)
    return np.asarray(open_array(array, mode="r")[:], dtype=np.uint8)


def _read_findings(url: str) -> tuple[str, ...]:
    records = (quality.read_record(url, name) or {} for name in _STAGE_RECORDS)
    return tuple(str(record["summary"]) for record in records if record.get("summary"))


def mark_unplaced(data: ReportData) -> None:
    """Mark the windows of sections without a place as of low quality; those of other sections show their values."""
    if data.attention is not None and data.attention.unplaced:
        codes = data.ledger.window_codes[list(data.attention.unplaced)]
        data.ledger.window_codes[list(data.attention.unplaced)] = np.where(codes == OK, LOW_QUALITY, codes)


def _read_attention(url: str, ledger: LedgerSummary, *, sections: int) -> Attention | None:
    """Return the sections that need a look; None if they are not those of the present results."""
    counts = ledger.stages[MeasureStage.name].counts if MeasureStage.name in ledger.stages else {}
    is_current = bool(counts) and all(Outcome(outcome).is_done for outcome in counts)
    attention = read_attention(url) if is_current else None
    return attention if attention is not None and attention.sections == sections else None


def _read_contrast(url: str, record: RunRecord, *, sections: int) -> ContrastTable | None:
    """Return gains and offsets of all sections; None if grey values are those of the source, or not known yet."""
    render = record.config.get("render")
    if not isinstance(render, dict) or render.get("contrast") != "match":
        return None  # a table of an earlier configuration may be there
    table = read_contrast(url)
    return table if table is not None and len(table.gain) == sections and table.matched.any() else None


def _lost_px(url: str) -> float:
    """Return the fitted distortion of a section, px per component; NaN if it was not fitted."""
    record = quality.read_record(url, "relax.json") or {}
    try:
        parts = [group["distortion_px"] for group in (record.get("affine") or {}).values()]
        parts += [band["distortion_px"] for band in record.get("bands") or []]
        return float(np.hypot.reduce(parts)) / math.sqrt(2.0) if parts else math.nan
    except (KeyError, TypeError, AttributeError):
        return math.nan
