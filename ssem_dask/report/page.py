"""The report: one HTML file that needs nothing beside it, whatever the size of the volume."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssem_dask.report.binning import LEVELS
from ssem_dask.report.charts import make_charts
from ssem_dask.report.encode import palette
from ssem_dask.report.hotspots import Place, stands_out, worst_places
from ssem_dask.report.places import Picture, draw_place
from ssem_dask.report.report_data import Material, collect, window_box
from ssem_dask.report.summary import facts, stage_rows
from ssem_dask.report.viewer.viewer_address import address_of, run_mark
from ssem_dask.units import flat, number


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPlace:
    """A place as the page shows it."""

    place: Place
    title: str
    usual: bool
    """Within the usual scatter of the volume."""
    link: str
    pictures: list[Picture]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A page that was made."""

    html: str
    places: list[ShownPlace]


def make_report(run: str, *, worst: int, viewer: str | None, now: datetime | None = None) -> Report:
    """Make the page of a run, complete or not.

    Args:
        run: URL of the run.
        worst: how many of the worst places are shown.
        viewer: address where `ssem-dask view` answers; None: the one that it takes by itself for this run.
        now: what the page says it was made at; None: the present.

    Raises:
        SourceError: there is no run.
        OutputError: something else is there.
    """
    return render_report(collect(run), worst=worst, viewer=viewer, now=now)


def render_report(material: Material, *, worst: int, viewer: str | None, now: datetime | None = None) -> Report:
    """The page about what was collected; arguments as of `make_report`."""
    base = viewer or address_of(material.attributes)
    places = [_shown(material, place, viewer=base) for place in worst_places(material, count=worst)]
    attributes = material.attributes
    environment = Environment(
        loader=PackageLoader("ssem_dask.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    html = environment.get_template("report.html.j2").render(
        material=material,
        facts=facts(material),
        stages=stage_rows(material),
        remarks=material.remarks_on_sections(),
        findings=[str(record["summary"]) for record in material.records.values() if record.get("summary")],
        charts=_script(make_charts(material).plain() | {"palette": palette(LEVELS), "levels": LEVELS}),
        places=places,
        viewer=base,
        evaluation=material.evaluation,
        parameters=flat(attributes["config"]),
        provenance=[
            ("run", material.url),
            ("source", str(attributes["source"])),
            ("ssem_dask", str(attributes.get("version"))),
            ("format", str(attributes.get("format"))),
            ("config digest", str(attributes.get("config_digest"))),
            ("encoder digest", str(attributes.get("encoder_digest")) or "no encoder"),
            *(attributes.get("environment") or {}).items(),
            ("report made by ssem_dask", version("ssem_dask")),
        ],
        made=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(_asset("uplot/uPlot.min.css") + _asset("report.css")),
        code=Markup(_asset("uplot/uPlot.iife.min.js") + "\n" + _asset("report.js")),
    )
    return Report(html=html, places=places)


def _shown(material: Material, place: Place, *, viewer: str) -> ShownPlace:
    box = window_box(material, z=place.z, row=place.row, column=place.column)
    y, x = ((a + b) / 2 for a, b in zip(box.start_yx, box.stop[1:], strict=True))
    query = urlencode({"run": run_mark(material.attributes), "z": place.z, "y": y, "x": x, "side": max(box.shape_yx)})
    return ShownPlace(
        place=place,
        title=f"Section {place.z}, y {box.start[1]:,}–{box.stop[1]:,}, x {box.start[2]:,}–{box.stop[2]:,} px",
        usual=not stands_out(place),
        link=f"{viewer}/at?{query}",
        pictures=draw_place(material, place),
    )


def _asset(name: str) -> str:
    return files("ssem_dask.report").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


def _script(value: object) -> Markup:
    """JSON that may stand inside a script element."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
