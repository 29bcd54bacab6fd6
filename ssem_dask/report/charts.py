"""The charts of a run: its curves, the heat maps of its windows, and its cuts."""

import numpy as np

from ssem_dask.report.binning import COLUMNS, bin_size, heat_map
from ssem_dask.report.chart import Charts, Cut, HeatMap
from ssem_dask.report.curves import measured, outcomes, true_errors
from ssem_dask.report.encode import exact_uri, gray_uri, limits, stretched
from ssem_dask.report.report_data import Material

_CUT_PIXELS = 1 << 20
_CUT_ROWS = 512


def make_charts(material: Material) -> Charts:
    """The charts of a run; those of which nothing is known are left out."""
    size = bin_size(material.shape[0], most=COLUMNS)
    charts = [*true_errors(material, size), *measured(material, size), outcomes(material, size)]
    return Charts(
        z=list(range(0, material.shape[0], size)),
        bin=size,
        curves=[chart for chart in charts if any(v is not None for line in chart.lines for v in line.values)],
        maps=list(_maps(material)),
        cuts=list(_cuts(material)),
    )


def _maps(material: Material) -> list[HeatMap]:
    count = material.shape[0]
    codes = material.ended.windows.reshape(count, -1)
    wanted = (
        ("similarity", "Similarity with the section before", "correlation", "low"),
        ("confidence", "Confidence of registration", "confidence", "low"),
        ("motion", "Motion left against the section before", "px", "high"),
    )
    maps = []
    for name, title, unit, bad in wanted:
        values = material.windows[name].reshape(count, -1)
        known = values[np.isfinite(values)]
        if known.size:
            low, high = (float(v) for v in np.percentile(known, [1, 99]))
        elif name != "confidence":
            continue  # one map is enough to show how tasks ended
        else:
            low, high = 0.0, 1.0
        image, windows, _ = heat_map(values, codes, low=low, high=high, bad=bad)
        maps.append(
            HeatMap(
                id=name,
                title=title,
                unit=unit,
                low=low,
                high=high,
                image=exact_uri(image),
                rows=image.shape[0],
                columns=image.shape[1],
                windows=windows,
                across=material.ended.windows.shape[2],
            )
        )
    return maps


def _cuts(material: Material) -> list[Cut]:
    cuts = []
    for (cut, time), pixels in material.cuts.items():
        if material.info is None or not pixels.any():
            continue
        image = pixels[:: bin_size(len(pixels), most=COLUMNS)].T
        step = max(1, -(-image.size // _CUT_PIXELS), -(-len(image) // _CUT_ROWS))
        low, high = limits(pixels)
        cuts.append(
            Cut(
                id=f"{cut}-{time}",
                title=f"{cut}, {'as they came' if time == 'before' else 'aligned'}",
                image=gray_uri(stretched(image[::step], low=low, high=high)),
                extent=len(image) * material.pixel_size * 2**material.info.probe.mip / 1000,
            )
        )
    return cuts
