"""The viewer: a link of the report leads to the pixels of that place, and every layer shows something."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
import zarr
from PIL import Image
from playwright.sync_api import Page

import ssem_dask
from ssem_dask.api.results import Viewer
from ssem_dask.geometry.box import Box
from ssem_dask.report.viewer.http import Site, Viewpoint
from ssem_dask.report.viewer.served_files import StoredFiles
from ssem_dask.storage.exports.target import Target
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import read_run, update_run
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from ssem_dask.volumes.exporting import checked_plan
from ssem_dask.volumes.neuroglancer_link import neuroglancer_state
from tests.support.browser import Watched, start_viewer, stop_viewer, wait_until

_LOADED = """() => viewer.isReady() && viewer.layerManager.managedLayers.filter((l) => l.visible).every(
  (l) => l.layer !== null && l.isReady() && l.layer.dataSources.every((d) => d.loadState !== undefined))"""
_SHOW = "(names) => viewer.layerManager.managedLayers.forEach((l) => l.setVisible(names.includes(l.name)))"


def settle(page: Page) -> None:
    wait_until(page, "window.viewer !== undefined")
    for _ in range(3):  # chunks are asked for only once their source is known
        page.wait_for_timeout(400)
        wait_until(page, _LOADED)


def sections_only(page: Page, *layers: str) -> AnyArray:
    """Return the part of the picture that shows sections face on, without annotations and lines; (y, x) gray."""
    page.evaluate(_SHOW, list(layers))
    page.evaluate(
        """() => { viewer.layout.restoreState("xy"); viewer.showAxisLines.value = false;
        viewer.showScaleBar.value = false; viewer.showDefaultAnnotations.value = false; }"""
    )
    settle(page)
    panel = page.locator(".neuroglancer-rendered-data-panel").first.bounding_box()
    assert panel is not None
    shot = page.screenshot(clip=panel)
    return np.asarray(Image.open(io.BytesIO(shot)).convert("L"), dtype=np.float64)


def expected(volume: Volume, page: Page, shape: tuple[int, int], *, origin: float = 0.5) -> AnyArray:
    """The pixels of the volume that belong there, nearest; NaN outside.

    `origin` is where position 0 of neuroglancer is: the centre of pixel 0 in OME-Zarr, its corner in precomputed.
    """
    x, y, z = page.evaluate("Array.from(viewer.navigationState.position.value)")
    scale = page.evaluate("viewer.navigationState.zoomFactor.value")
    plane = int(np.floor(z + origin))
    section = volume.read(Box((plane, 0, 0), (plane + 1, *volume.info.shape[1:])))[0].astype(float)
    rows = np.floor(y + origin + (np.arange(shape[0]) + 0.5 - shape[0] / 2) * scale).astype(int)
    columns = np.floor(x + origin + (np.arange(shape[1]) + 0.5 - shape[1] / 2) * scale).astype(int)
    inside = ((rows >= 0) & (rows < section.shape[0]))[:, None] & ((columns >= 0) & (columns < section.shape[1]))
    taken = section[rows.clip(0, section.shape[0] - 1)][:, columns.clip(0, section.shape[1] - 1)]
    return np.where(inside, taken, np.nan)


def likeness(shown: AnyArray, wanted: AnyArray) -> float:
    known = np.isfinite(wanted)
    assert known.mean() > 0.2
    return float(np.corrcoef(shown[known], wanted[known])[0, 1])


def test_a_link_of_the_report_leads_to_the_pixels_of_the_place(
    watched: Callable[[str], Watched], report: Path, run: str, viewer: str
) -> None:
    found = watched("light")
    found.page.goto(viewer)  # this browser now has the key
    found.page.goto(report.as_uri())
    link = found.page.locator("article.hotspot a.open").nth(1)
    wanted = {
        key: float(value[0])
        for key, value in parse_qs(urlparse(link.get_attribute("href") or "").query).items()
        if key != "run"
    }
    with found.page.context.expect_page() as opening:
        link.click()
    page = found.watch(opening.value)
    settle(page)
    x, y, z = page.evaluate("Array.from(viewer.navigationState.position.value)")
    assert (round(z), y + 0.5, x + 0.5) == (wanted["z"], wanted["y"], wanted["x"])
    shown = sections_only(page, "aligned")
    assert (shown > 30).mean() > 0.2
    assert shown.std() > 10
    aligned = Volume.open(join(run, "aligned"))
    # This section and not the next one, and to the pixel: neighbours and shifts of 2 px are less alike.
    right = likeness(shown, expected(aligned, page, shown.shape))
    assert right > 0.95
    assert (
        likeness(
            np.roll(shown, 2 * round(shown.shape[0] / wanted["side"]), axis=0), expected(aligned, page, shown.shape)
        )
        < right - 0.03
    )
    # The link itself has no key, so its page is refused, and leads on with the key that this browser has.
    assert [line for line in found.complaints if "/at?run=" not in line] == []
    assert {urlparse(url).hostname for url in found.requests if url.startswith("http")} == {"127.0.0.1"}


def test_every_layer_shows_something(watched: Callable[[str], Watched], run: str, viewer: str) -> None:
    found = watched("light")
    found.page.goto(viewer)
    settle(found.page)
    names = found.page.evaluate("viewer.layerManager.managedLayers.map((l) => l.name)")
    confidence, uncertainty = "confidence (0 … 1, coarse-aligned)", "uncertainty (px)"
    assert names == ["source", "coarse-aligned", "aligned", confidence, uncertainty, "worst places"]
    source = Volume.open(read_run(run).source)
    shown = sections_only(found.page, "source")
    assert likeness(shown, expected(source, found.page, shown.shape)) > 0.95
    for name in ("coarse-aligned", confidence, uncertainty):
        assert sections_only(found.page, name).std() > 3, name
    places = found.page.evaluate(
        "viewer.layerManager.managedLayers.find((l) => l.name === 'worst places').layer.toJSON().annotations.length"
    )
    assert places > 0
    assert found.complaints == []


def test_a_volume_that_is_warped_as_it_is_looked_at_shows_the_aligned_pixels(
    watched: Callable[[str], Watched], run: str
) -> None:
    source = read_run(run).source
    process, address = start_viewer(run, "--volume", source, "--port", "0")
    try:
        found = watched("light")
        found.page.goto(address)
        settle(found.page)
        shown = sections_only(found.page, f"warped, {Path(source).name}")
        aligned = Volume.open(join(run, "aligned"))
        assert likeness(shown, expected(aligned, found.page, shown.shape)) > 0.95
        assert found.complaints == []
    finally:
        stop_viewer(process)


@pytest.mark.parametrize(("form", "origin"), [("ngff-0.4", 0.5), ("precomputed", 0.0)])
def test_an_exported_volume_opens(
    form: str, origin: float, watched: Callable[[str], Watched], run: str, tmp_path: Path
) -> None:
    """The files are served as they were written, and the state is that of the link that `export` shows.

    The client of this version does not open OME-Zarr 0.6.
    """
    out = str(tmp_path / "exported")
    assert ssem_dask.export(run, out, form=form, cluster="serial").state == "complete"
    target = checked_plan(
        run,
        out,
        form=form,
        chunk=None,
        labels=False,
        sharded=True,
        pixel_size=None,
        section_thickness=None,
        inverse_spacing=None,
    ).target
    assert isinstance(target, Target)

    def state(data: str, viewpoint: Viewpoint | None) -> dict[str, Any]:
        del viewpoint
        made = neuroglancer_state(target)
        assert made is not None
        made["layers"][0]["source"] = made["layers"][0]["source"].replace(out, f"{data}/exported")
        return {**made, "position": [*made["position"][:2], 5 + 0.5 - origin]}

    site = Site("0" * 16, {"exported": StoredFiles(out, out)}, state, frozenset())
    with Viewer(site, port=0, missing=[]) as shown_at:
        found = watched("light")
        found.page.goto(shown_at.url)
        settle(found.page)
        shown = sections_only(found.page, "exported")
        wanted = expected(Volume.open(join(run, "aligned")), found.page, shown.shape, origin=origin)
        assert likeness(shown, wanted) > 0.95
        # The client asks for an array before it takes a group for one, and for chunks that hold zeros.
        assert [line for line in found.complaints if "404" not in line] == []


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plain_array_as_source_and_labels(
    zarr_format: int, watched: Callable[[str], Watched], run: str, tmp_path: Path
) -> None:
    """Arrays without a pixel size are shown in the right place too."""
    output = str(tmp_path / "out.zarr")
    shutil.copytree(run, output)
    volume = Volume.open(read_run(run).source)
    pixels = volume.read(Box((0, 0, 0), volume.info.shape))
    for name, values in (("plain", pixels), ("labels", (pixels // 64 + 1).astype("uint32"))):
        array = zarr.create_array(
            str(tmp_path / f"{name}.zarr"),
            shape=values.shape,
            chunks=(1, 128, 128),
            dtype=values.dtype,
            zarr_format=zarr_format,  # type: ignore[arg-type]
        )
        array[:] = values
    update_run(output, source=str(tmp_path / "plain.zarr"))
    process, address = start_viewer(output, "--labels", str(tmp_path / "labels.zarr"), "--port", "0")
    try:
        found = watched("light")
        found.page.goto(address)
        settle(found.page)
        shown = sections_only(found.page, "source")
        assert likeness(shown, expected(volume, found.page, shown.shape)) > 0.95
        assert sections_only(found.page, "labels").std() > 3
        # Of Zarr v2, neuroglancer asks whether the group is an array; Chromium reports that it is none.
        assert [
            line for line in found.complaints if "/source/.zarray" not in line and "/labels/.zarray" not in line
        ] == []
    finally:
        stop_viewer(process)
