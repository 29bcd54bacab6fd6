"""The charts of a run: its curves, the heat maps of its windows, and its reslices."""

from typing import NamedTuple

import numpy as np

from ssem_dask.geometry.mip import ceil_div
from ssem_dask.report.binning import MAX_COLUMNS, BadEnd, bin_map, bin_size
from ssem_dask.report.chart import Charts, HeatMap, Mark, Reslice
from ssem_dask.report.constant_charts import describe_constant, is_constant
from ssem_dask.report.curves import contrast_charts, error_charts, outcome_chart, quality_charts
from ssem_dask.report.encode import exact_uri, gray_uri
from ssem_dask.report.intensities import intensity_limits, stretch_intensities
from ssem_dask.report.report_data import ReportData
from ssem_dask.units import shortened

_RESLICE_PIXELS = 1 << 20
_RESLICE_ROWS = 512
_MARK_SECTIONS = 5
"""Sections that the text of a mark names."""


class _MapSpec(NamedTuple):
    column: str
    title: str
    unit: str
    bad: BadEnd


_MAPS = (
    _MapSpec("similarity", "Similarity to the previous section", "correlation", "low"),
    _MapSpec("confidence", "Confidence of registration", "confidence", "low"),
    _MapSpec("motion", "Residual motion relative to the previous section", "px", "high"),
)
_ALWAYS_SHOWN = "confidence"
"""The map that is shown even if nothing was measured, since one is enough to show how tasks ended."""


def make_charts(data: ReportData) -> Charts:
    """Return the charts of a run, without those for which nothing is known."""
    size = bin_size(data.shape[0], limit=MAX_COLUMNS)
    charts = [
        *error_charts(data, size),
        *quality_charts(data, size),
        *contrast_charts(data, size),
        outcome_chart(data, size),
    ]
    known = [chart for chart in charts if any(v is not None for line in chart.lines for v in line.values)]
    return Charts(
        z=list(range(0, data.shape[0], size)),
        bin=size,
        thickness=data.section_thickness / 1000,
        borders=data.run.slabs,
        curves=[chart for chart in known if not is_constant(chart)],
        constants=[describe_constant(chart) for chart in known if is_constant(chart)],
        maps=_heat_maps(data),
        reslices=_reslices(data),
        marks=_marks(data, size),
    )


def _marks(data: ReportData, size: int) -> list[Mark]:
    """Return a mark per column with sections that need a look."""
    texts: dict[int, list[str]] = {}
    for record in () if data.attention is None else data.attention.records:
        texts.setdefault(record.z // size, []).append(record.describe())
    return [
        Mark(column=column, text=shortened(found, limit=_MARK_SECTIONS, separator="; "))
        for column, found in texts.items()
    ]


def _heat_maps(data: ReportData) -> list[HeatMap]:
    count = data.shape[0]
    codes = data.ledger.window_codes.reshape(count, -1)
    maps = []
    for spec in _MAPS:
        values = data.windows[spec.column].reshape(count, -1)
        known = values[np.isfinite(values)]
        if known.size:
            low, high = (float(v) for v in np.percentile(known, [1, 99]))
        elif spec.column != _ALWAYS_SHOWN:
            continue
        else:
            low, high = 0.0, 1.0
        binned = bin_map(values, codes, low=low, high=high, bad=spec.bad)
        maps.append(
            HeatMap(
                id=spec.column,
                title=spec.title,
                unit=spec.unit,
                low=low,
                high=high,
                image=exact_uri(binned.image),
                rows=binned.image.shape[0],
                columns=binned.image.shape[1],
                windows=binned.windows_per_row,
                across=data.ledger.window_codes.shape[2],
            )
        )
    return maps


def _reslices(data: ReportData) -> list[Reslice]:
    reslices = []
    for (cut, time), pixels in data.reslices.items():
        if data.quality is None or not pixels.any():
            continue
        image = pixels[:: bin_size(len(pixels), limit=MAX_COLUMNS)].T
        step = max(1, ceil_div(image.size, _RESLICE_PIXELS), ceil_div(len(image), _RESLICE_ROWS))
        low, high = intensity_limits(pixels)
        reslices.append(
            Reslice(
                id=f"{cut}-{time}",
                title=f"{cut}, {time} alignment",
                image=gray_uri(stretch_intensities(image[::step], low=low, high=high)),
                extent=len(image) * data.pixel_size * 2**data.quality.probe.mip / 1000,
            )
        )
    return reslices
