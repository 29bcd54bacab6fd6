"""The report: one self-contained HTML file, whose size does not depend on that of the volume."""

import json
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from markupsafe import Markup

from ssem_dask.fixes.proposals import proposals_text
from ssem_dask.report.binning import LEVELS
from ssem_dask.report.charts import make_charts
from ssem_dask.report.encode import palette
from ssem_dask.report.glossary import GLOSSARY, RUN, Entry
from ssem_dask.report.hotspot_pictures import Picture, draw_hotspot
from ssem_dask.report.hotspots import Hotspot, find_hotspots
from ssem_dask.report.report_data import ReportData, read_report_data
from ssem_dask.report.summary import size_facts, stage_rows, summary_facts
from ssem_dask.report.viewer.viewer_address import run_token, viewer_address
from ssem_dask.report.words import WORDS
from ssem_dask.section_record import SectionRecord
from ssem_dask.storage.section_names import section_label
from ssem_dask.units import number

_MAX_LISTED = 200
"""Sections that need a look and are listed; the attributes of the volume have all."""

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class HotspotEntry:
    """A hotspot with its pictures and its link."""

    hotspot: Hotspot
    title: str
    link: str
    pictures: list[Picture]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionEntry:
    """A section that needs a look, with its link."""

    record: SectionRecord
    label: str
    """The section with its name, if it has one."""
    what: str
    """Its fault in a few words."""
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GlossaryEntry:
    """A kind that the page names, explained."""

    kind: str
    entry: Entry
    command: str
    """Command of this run that helps; empty: there is none."""
    is_set: str
    """Setting by which the run does this already; empty: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished page."""

    html: str
    hotspots: list[HotspotEntry]
    verdict: str
    """The result in one line; empty if nothing is known of it."""
    proposals: str = ""
    """Fixes that the run proposes, as TOML; empty if there are none."""


def make_report(
    run: str, *, worst: int, viewer: str | None, now: datetime | None = None, source: str | None = None
) -> Report:
    """Make the page of a run, complete or not.

    Args:
        run: URL of the run.
        worst: number of hotspots to show.
        viewer: address of `ssem-dask view`; None: its default for this run.
        now: date and time of the page; None: the present.
        source: URL of the source volume; None: where the run has recorded it.

    Raises:
        SourceError: there is no run.
        OutputError: something that is not a run is there.
    """
    return render_report(read_report_data(run, source=source), worst=worst, viewer=viewer, now=now)


def render_report(data: ReportData, *, worst: int, viewer: str | None, now: datetime | None = None) -> Report:
    """Render the page of a run from its data; the other arguments are those of `make_report`."""
    address = viewer or viewer_address(data.run.config_digest)
    hotspots = [_hotspot_entry(data, hotspot, viewer=address) for hotspot in find_hotspots(data, count=worst)]
    charts = make_charts(data)
    usual = [entry for entry in hotspots if not entry.hotspot.is_outlier]
    html = _load_template().render(
        data=data,
        facts=summary_facts(data),
        sizes=size_facts(data),
        words=WORDS,
        stages=stage_rows(data),
        remarks=data.describe_coarse_state(),
        charts=charts,
        chart_data=_script_json(charts.plain() | {"palette": palette(LEVELS), "levels": LEVELS}),
        hotspots=[entry for entry in hotspots if entry.hotspot.is_outlier],
        usual=usual,
        attention=_attention_entries(data, viewer=address),
        glossary=_glossary_entries(data),
        quiet=bool(hotspots) and len(usual) == len(hotspots),
        viewer=address,
        evaluation=data.evaluation,
        provenance=[
            ("run", data.run.url),
            ("source", data.run.source),
            *data.run.versions,
            ("report made by ssem_dask", version("ssem_dask")),
        ],
        made=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(_asset("uplot/uPlot.min.css") + _asset("report.css")),
        code=_page_code(),
    )
    records = () if data.attention is None else data.attention.records
    return Report(html=html, hotspots=hotspots, verdict=data.verdict, proposals=proposals_text(records))


def _load_template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # slow to import; needed only to render a page

    environment = Environment(
        loader=PackageLoader("ssem_dask.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("report.html.j2")


def _hotspot_entry(data: ReportData, hotspot: Hotspot, *, viewer: str) -> HotspotEntry:
    z = hotspot.z
    box = data.window_box(z=z, row=hotspot.row, column=hotspot.column)
    y, x = ((a + b) / 2 for a, b in zip(box.start_yx, box.stop[1:], strict=True))
    label = section_label(z, data.run.section_names)
    name = label[0].upper() + label[1:]
    query = urlencode({"run": run_token(data.run.config_digest), "z": z, "y": y, "x": x, "side": max(box.shape_yx)})
    return HotspotEntry(
        hotspot=hotspot,
        title=f"{name}, y {box.start[1]:,}–{box.stop[1]:,}, x {box.start[2]:,}–{box.stop[2]:,} px",
        link=f"{viewer}/at?{query}",
        pictures=draw_hotspot(data, hotspot),
    )


def _attention_entries(data: ReportData, *, viewer: str) -> list[AttentionEntry]:
    """Return the sections that need a look, at most `_MAX_LISTED`; the links show whole sections."""
    entries = []
    for record in () if data.attention is None else data.attention.records[:_MAX_LISTED]:
        y, x = (n / 2 for n in data.shape[1:])
        side = max(data.shape[1:])
        query = urlencode({"run": run_token(data.run.config_digest), "z": record.z, "y": y, "x": x, "side": side})
        what = record.kind.replace("_", " ")
        if record.detail:
            what = record.detail if record.detail.startswith(what) else f"{what}: {record.detail}"
        label = section_label(record.z, data.run.section_names).removeprefix("section ")
        entries.append(AttentionEntry(record=record, label=label, what=what, link=f"{viewer}/at?{query}"))
    return entries


def _glossary_entries(data: ReportData) -> list[GlossaryEntry]:
    """Return the kinds that the list of sections names, in the order of the glossary."""
    kinds = {record.kind for record in (() if data.attention is None else data.attention.records[:_MAX_LISTED])}
    run, parameters = shlex.quote(data.run.url), dict(data.run.parameters)
    entries = []
    for kind in (kind for kind in GLOSSARY if kind in kinds):
        entry = GLOSSARY[kind]
        key, _, value = entry.setting.partition("=")
        is_set = bool(key) and parameters.get(key, "").strip('"').lower() == value
        entries.append(
            GlossaryEntry(
                kind=kind.replace("_", " "),
                entry=entry,
                command="" if is_set else entry.command.replace(RUN, run),
                is_set=entry.setting if is_set else "",
            )
        )
    return entries


def _asset(name: str) -> str:
    return files("ssem_dask.report").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


def _page_code() -> Markup:
    """Return the code of the page, whose names are its own."""
    own = "\n".join(_asset(name) for name in ("report_plots.js", "report_pictures.js", "report.js"))
    return Markup(f'{_asset("uplot/uPlot.iife.min.js")}\n(() => {{\n"use strict";\n{own}\n}})();')


def _script_json(value: object) -> Markup:
    """Return JSON that is safe inside a script element."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
