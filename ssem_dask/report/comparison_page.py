"""The page of a comparison: one HTML file with everything in it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssem_dask.report.comparison import Comparison
from ssem_dask.report.comparison_pictures import ComparedSection
from ssem_dask.report.encode import exact_uri, jpeg_uri
from ssem_dask.units import number

_LISTED = 200
"""Sections and settings that a table shows; `--json` has all."""


def render_comparison(comparison: Comparison, drawn: Sequence[ComparedSection], *, now: datetime | None = None) -> str:
    """Return the page.

    Args:
        comparison: result of `compare`.
        drawn: sections with pictures, see `draw_changes`.
        now: date and time of the page; None: the present.
    """
    environment = Environment(
        loader=PackageLoader("ssem_dask.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    style = files("ssem_dask.report").joinpath("assets", "report.css").read_text(encoding="utf-8")
    return environment.get_template("comparison.html.j2").render(
        comparison=comparison,
        changed=comparison.changed[:_LISTED],
        left_out=max(0, len(comparison.changed) - _LISTED),
        entries=[(entry, _pictures(entry)) for entry in drawn],
        made=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(style),
        shift=[number(value) for value in comparison.shift_px],
    )


def _pictures(entry: ComparedSection) -> list[dict[str, Any]]:
    # Colours keep their values, since a reader compares them with the scale.
    return [
        {
            "name": name.upper() if len(name) == 1 else name,
            "caption": caption,
            "uri": exact_uri(pixels) if name == "distance" else jpeg_uri(pixels),
        }
        for name, caption, pixels in entry.pictures
    ]
