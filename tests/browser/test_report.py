"""The report as a reader sees it: everything is drawn, everything answers, nothing is fetched."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from ssem_dask.report.ledger_summary import FAILED
from ssem_dask.report.page import render_report
from tests.support.browser import Watched
from tests.support.made_up_report import report_data

CURVES = ("similarity", "uncertainty", "drift", "strain", "coverage", "confidence")
CUTS = ("xz-before", "xz-after", "yz-before", "yz-after")
_COLOURS = """(selector) => {
  const canvas = document.querySelector(selector + " canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4)
    if (pixels[i + 3] > 200) seen.add((pixels[i] << 16) | (pixels[i + 1] << 8) | pixels[i + 2]);
  return seen.size;
}"""
_COUNT = """([selector, colour]) => {
  const canvas = document.querySelector(selector + " canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const wanted = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  let count = 0;
  for (let i = 0; i < pixels.length; i += 4)
    if (pixels[i + 3] > 200 && wanted.every((c, j) => Math.abs(c - pixels[i + j]) < 12)) count++;
  return count;
}"""


def opened(found: Watched, report: Path) -> Page:
    found.page.goto(report.as_uri())
    found.page.wait_for_function("document.body.dataset.ready === 'true' && document.body.dataset.map")
    found.page.wait_for_timeout(300)
    return found.page


def variable(page: Page, name: str) -> str:
    value: str = page.evaluate(
        "(name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()", f"--{name}"
    )
    return value


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_charts_are_drawn(scheme: str, watched: Callable[[str], Watched], report: Path) -> None:
    found = watched(scheme)
    page = opened(found, report)
    main = variable(page, "main")
    for name in CURVES:
        assert page.locator(f"#chart-{name} canvas").count() == 1, name
        assert page.evaluate(_COUNT, [f"#chart-{name}", main]) > 100, f"no curve in {name}"
    for name in CUTS:
        assert page.evaluate(_COLOURS, f"#chart-{name}") > 50, f"no picture in {name}"
    assert page.evaluate(_COLOURS, "#chart-windows") > 10
    assert page.locator("#legend").inner_text().strip()
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []


def test_nothing_overflows_and_axes_have_units(watched: Callable[[str], Watched], report: Path) -> None:
    found = watched("light")
    page = opened(found, report)
    for width in (1300, 800, 420):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    assert all(chart["unit"] for chart in data["curves"])
    assert all(map_["unit"] for map_ in data["maps"])


def test_zooming_one_chart_zooms_all_and_a_double_click_shows_all(
    watched: Callable[[str], Watched], report: Path
) -> None:
    found = watched("light")
    page = opened(found, report)
    legend = "document.querySelector('#chart-{} .u-legend').innerText"
    shots = {name: page.locator(f"#chart-{name}").screenshot() for name in ("similarity", "strain", "xz-after")}
    area = page.locator("#chart-similarity .u-over")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 40)
    assert "section" in page.evaluate(legend.format("similarity"))
    page.mouse.down()
    page.mouse.move(box["x"] + 0.85 * box["width"], box["y"] + 60, steps=5)
    page.mouse.up()
    page.mouse.move(5, 5)
    page.wait_for_timeout(300)
    for name, before in shots.items():
        assert page.locator(f"#chart-{name}").screenshot() != before, name
    area.dblclick()
    page.mouse.move(5, 5)
    page.wait_for_timeout(300)
    assert page.locator("#chart-xz-after").screenshot() == shots["xz-after"]
    assert found.complaints == []


def test_hovering_tells_values(watched: Callable[[str], Watched], report: Path) -> None:
    page = opened(watched("light"), report)
    over = page.locator("#chart-confidence .u-over")
    over.hover()
    legend = page.locator("#chart-confidence .u-legend").inner_text()
    assert "0." in legend
    # The cursor is shared: the other charts show the values of the same section.
    assert "0." in page.locator("#chart-similarity .u-legend").inner_text()
    page.locator("#chart-windows .u-over").hover()
    assert page.locator("#mapvalue").inner_text().startswith("section ")
    assert "window" in page.locator("#mapvalue").inner_text()


def test_the_map_can_be_changed(watched: Callable[[str], Watched], report: Path) -> None:
    page = opened(watched("light"), report)
    first = page.locator("#chart-windows").screenshot()
    page.select_option("#which", "confidence")
    page.wait_for_function("document.body.dataset.map === 'confidence'")
    page.wait_for_timeout(200)
    assert page.locator("#chart-windows").screenshot() != first


def test_a_failed_window_is_seen_among_many(watched: Callable[[str], Watched], tmp_path: Path) -> None:
    """One failed window of one block of sections, in a map that is shrunk along both axes."""
    data = report_data(sections=9000, side=8192, cut=8)
    data.windows["similarity"][:] = 0.5
    data.windows["similarity"][0, 0, 0] = 0.4
    data.ledger.window_codes[4000:4001, 3, 3] = FAILED
    page = tmp_path / "map.html"
    page.write_text(render_report(data, worst=0, viewer=None).html)
    found = watched("light")
    shown = opened(found, page)
    assert shown.evaluate(_COUNT, ["#chart-windows", variable(shown, "failed")]) >= 4
    assert found.complaints == []


def test_places_have_pictures_and_links(watched: Callable[[str], Watched], report: Path) -> None:
    page = opened(watched("light"), report)
    assert page.locator("article.hotspot").count() == 3
    sizes = page.evaluate("[...document.querySelectorAll('article.hotspot img')].map((i) => i.naturalWidth)")
    assert len(sizes) == 12
    assert min(sizes) > 10
    assert page.locator("article.hotspot a.open").count() == 3


def test_reslices_have_true_proportions_and_change_places(watched: Callable[[str], Watched], report: Path) -> None:
    page = opened(watched("light"), report)
    box = page.locator("#chart-xz-after .u-over").bounding_box()
    assert box is not None
    depth, extent = 10 * 40.0, 256 * 5.0  # nm
    assert box["width"] / box["height"] == pytest.approx(depth / extent, rel=0.05)
    assert "True proportions." in page.locator("#reslice-charts").inner_text()
    white = page.evaluate(_COUNT, ["#chart-xz-after", "#ffffff"])
    assert white > 100, "no scale bar"
    title, button = page.locator("#chart-xz-after h3"), page.locator("#reslice-charts .blink").first
    assert title.inner_text() == "xz, after alignment"
    after = page.locator("#chart-xz-after").screenshot()
    button.click()
    page.wait_for_timeout(100)  # ms; pictures are exchanged every 700
    assert title.inner_text() == "xz, before alignment"
    assert page.locator("#chart-xz-after").screenshot() != after
    button.click()
    page.wait_for_timeout(100)
    assert title.inner_text() == "xz, after alignment"
    assert "Fold rate: 0" in page.locator("#constants").inner_text()  # and no chart of it


def test_it_prints_on_white_with_everything_open(watched: Callable[[str], Watched], report: Path) -> None:
    found = watched("dark")
    page = opened(found, report)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(200)
    assert variable(page, "paper") == "#ffffff"
    assert page.evaluate(_COUNT, ["#chart-similarity", "#0072b2"]) > 100
    assert page.locator("#parameters").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#parameters").is_visible()
    assert len(page.pdf()) > 50_000
    assert found.complaints == []
