"""Charts whose curves are flat: a line of text says the same in less space."""

from ssem_dask.report.chart import Chart, Line
from ssem_dask.units import number


def is_constant(chart: Chart) -> bool:
    """Return whether no curve of a chart changes from section to section."""
    return all(len(_values(line)) <= 1 for line in chart.lines)


def describe_constant(chart: Chart) -> str:
    """Return what a chart of constant curves would show, in one line.

    Args:
        chart: chart of which something is known.
    """
    values = [(line.label, value) for line in chart.lines for value in _values(line)]
    if all(value == 0 for _, value in values):
        shown = f"0 ({', '.join(label for label, _ in values)})"
    else:
        shown = ", ".join(f"{label} {number(value, 3)}" for label, value in values)
    return f"{chart.title}: {shown}, in {chart.unit}, in all sections"


def _values(line: Line) -> set[float]:
    """Return the different known values of a curve."""
    return {value for value in line.values if value is not None}
