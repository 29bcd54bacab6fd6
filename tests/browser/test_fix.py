"""The page of `fix` as a person uses it: by keys alone, by mouse, by two people, and after a kill."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

import ssem_dask
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.fixes.fix_records import Fixes
from ssem_dask.fixes.fixes_toml import parse_fixes
from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from tests.support.browser import Watched, start_viewer, stop_viewer, wait_until
from tests.support.runs import SEPARATE

TURNED = 5
_SETTINGS = {**SEPARATE, "coarse": {"sections": "separate", "search": False}}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a volume in which one section is upside down, a run that does not find that, and one without it."""
    folder = tmp_path_factory.mktemp("fix")
    simulate_phantom(
        PhantomConfig(seed=5, shape=(10, 256, 256), oblique=0.0),
        str(folder / "sound.zarr"),
        seed=5,
        deformation=DeformationConfig(shift=6.0, elastic=2.0),
        damage=DamageConfig(),
    )
    shutil.copytree(folder / "sound.zarr", folder / "observed.zarr")
    volume = Volume.open(str(folder / "observed.zarr"))
    for mip in volume.mips:
        box = Box((0, 0, 0), volume.shape_at(mip), mip)
        pixels = volume.read(box)
        pixels[TURNED] = pixels[TURNED, ::-1, ::-1]
        volume.write(box, pixels)
    for name in ("sound", "observed"):
        source, output = str(folder / f"{name}.zarr"), str(folder / f"{name}-aligned.zarr")
        assert ssem_dask.align(source, output, cluster="serial", **_SETTINGS).state == "complete"
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fixes.toml"


@pytest.fixture
def run(stack: Path, tmp_path: Path) -> str:
    """A copy of the run with the upside-down section: a run keeps what was applied to it."""
    return str(shutil.copytree(stack / "observed-aligned.zarr", tmp_path / "aligned.zarr"))


@pytest.fixture
def address(run: str, file: Path) -> Iterator[str]:
    """The page of the run."""
    words = ["--port", "0", "--file", str(file), "--cluster", "serial"]
    process, address = start_viewer(run, *words, command="fix")
    yield address
    stop_viewer(process)


def displacement(run: str, sound: str) -> AnyArray:
    """Median distance (z,), px, of the sections of a run from where they are in the run without the fault."""
    fields, wanted = (ssem_dask.open_alignment(url).fields().astype(np.float64) for url in (run, sound))
    spacing = ssem_dask.open_alignment(run).spacing
    nodes = (np.indices(fields.shape[2:]) + 0.5) * spacing
    # A place of the upside-down image is that of the sound one, seen from the opposite corner.
    fields[TURNED] = 256 - (nodes + fields[TURNED]) - nodes
    distance = fields - wanted
    distance -= np.nanmedian(distance, axis=(0, 2, 3), keepdims=True)
    return np.asarray(np.nanmedian(np.hypot(distance[:, 0], distance[:, 1]), axis=(1, 2)))


def opened(watched: Watched, address: str) -> Page:
    page = watched.page
    page.goto(address)
    wait_until(page, "document.body.dataset.ready === 'true' && document.body.dataset.settled === 'true'")
    return page


def complaints(found: Watched) -> list[str]:
    """Complaints about the page, without those about how these tests read its pictures."""
    return [line for line in found.complaints if "getImageData" not in line]


def saved(file: Path) -> Fixes:
    return parse_fixes(file.read_text()) if file.exists() else Fixes()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    wait_until(page, "!fixPage.busy")


def brightness(page: Page, panel: int) -> float:
    """Standard deviation of what a panel shows."""
    return float(
        page.evaluate(
            """(i) => { const c = document.querySelectorAll('canvas')[i];
            const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let s = 0, q = 0, n = 0;
            for (let k = 0; k < p.length; k += 4) if (p[k + 3]) { s += p[k]; q += p[k] * p[k]; n++; }
            return Math.sqrt(q / n - (s / n) ** 2); }""",
            panel,
        )
    )


def test_an_upside_down_section_is_fixed_by_three_keys(
    watched: Callable[[str], Watched], address: str, run: str, stack: Path, file: Path
) -> None:
    sound = str(stack / "sound-aligned.zarr")
    assert displacement(run, sound)[TURNED] > 50
    found = watched("light")
    page = opened(found, address)
    assert page.evaluate("fixPage.z") == TURNED  # the first place is the section that needs a look
    press(page, "t")
    assert [(fix.z, fix.action, fix.angle) for fix in saved(file).section] == [(TURNED, "turn", 180)]
    page.keyboard.press("A")
    wait_until(page, "fixPage.job.state === 'done'", timeout=240)
    wait_until(page, "fixPage.results === 1 && document.body.dataset.settled === 'true'")
    text = page.inner_text("#result")
    assert "Applied in" in text
    assert f"Section {TURNED} moved by" in text
    assert page.evaluate("fixPage.view") == "result"
    moved = displacement(run, sound)
    assert moved[TURNED] < 1.5
    # The variances stay those that were fitted without the section, so that the ends of a short stack differ a little.
    assert moved.max() < 2.5
    # The result before can be looked at beside the new one.
    page.keyboard.press("b")
    wait_until(page, "document.body.dataset.settled === 'true'")
    assert page.evaluate("fixPage.panels[1].view") == "previous"
    assert brightness(page, 1) > 10
    assert complaints(found) == []


def test_everything_can_be_drawn_by_keys_alone(watched: Callable[[str], Watched], address: str, file: Path) -> None:
    page = opened(watched("dark"), address)
    press(page, "2", "g", "Enter", *["ArrowRight"] * 4, "Enter", *["ArrowDown"] * 4, "Enter", "f")
    press(page, "l", "Enter", *["ArrowLeft"] * 4, "Enter", "f", "Escape")
    press(page, "]", "o", "s", "s", "Enter", "s", "Enter", "Escape")
    press(page, "]", "x", "z", "[", "i", "k", "m")
    fixes = saved(file)
    drawn = [fix for fix in fixes.section if fix.z == TURNED]
    assert [len(line) for fix in drawn for line in fix.mask or ()] == [3]
    assert [len(line) for fix in drawn for line in fix.split or ()] == [2]
    assert [(pair.fixed, pair.moving, len(pair.points)) for pair in fixes.pair] == [(TURNED, TURNED + 1, 1)]
    said = [fix for fix in fixes.section if fix.z == TURNED + 1]
    assert [(fix.action, fix.mirror) for fix in said] == [("invert", False), ("turn", True)]
    assert [(jump.z, jump.action) for jump in fixes.jump] == [(TURNED + 1, "keep")]
    press(page, *["z"] * 6)
    assert saved(file).is_empty
    press(page, *["y"] * 6)
    assert saved(file) == fixes


def test_a_proposal_is_taken_over_by_one_key(watched: Callable[[str], Watched], address: str, file: Path) -> None:
    page = opened(watched("light"), address)
    assert page.is_visible("#propose")
    assert "exclude" in page.inner_text("#propose")
    press(page, "p")
    assert [(fix.z, fix.action) for fix in saved(file).section] == [(TURNED, "exclude")]
    assert not page.is_visible("#propose")
    press(page, "p")
    assert len(saved(file).section) == 1
    press(page, "z")
    wait_until(page, "!document.getElementById('propose').hidden")


def test_sections_that_have_changed_places_take_one_key(
    watched: Callable[[str], Watched], address: str, file: Path
) -> None:
    page = opened(watched("light"), address)
    press(page, "w")
    assert [(fix.z, fix.action, fix.other) for fix in saved(file).section] == [(TURNED, "swap", TURNED + 1)]
    press(page, "]", "[", "w")
    assert saved(file).section == ()
    page.fill("#through", str(TURNED + 3))
    page.click("[data-do=swap]")
    wait_until(page, "!fixPage.busy && fixPage.fixes.tables.length === 1")
    assert [(fix.z, fix.other) for fix in saved(file).section] == [(TURNED, TURNED + 3)]


def test_points_drawn_by_mouse_are_where_they_were_drawn(
    watched: Callable[[str], Watched], address: str, file: Path
) -> None:
    found = watched("light")
    page = opened(found, address)
    press(page, "1", "0")  # source: what is clicked is what is saved
    page.click("[data-tool=pair]")
    for panel, part in ((0, 0.4), (1, 0.6)):
        box = page.locator("canvas").nth(panel).bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + part * box["width"], box["y"] + 0.5 * box["height"])
    wait_until(page, "!fixPage.busy")
    (pair,) = saved(file).pair
    scale = page.evaluate("fixPage.camera.scale")
    widths = [page.locator("canvas").nth(i).evaluate("(c) => c.clientWidth") for i in (0, 1)]
    wanted = [128, 128 + (0.4 - 0.5) * widths[0] * scale, 128, 128 + (0.6 - 0.5) * widths[1] * scale]
    assert np.allclose(pair.points[0], wanted, atol=3 * scale)
    assert (pair.fixed, pair.moving) == (TURNED - 1, TURNED)
    assert complaints(found) == []


def test_a_fix_can_hold_for_several_sections(watched: Callable[[str], Watched], address: str, file: Path) -> None:
    page = opened(watched("light"), address)
    page.keyboard.press("e")
    page.keyboard.type(str(TURNED + 2))
    page.keyboard.press("Enter")
    page.select_option("#fill", "nearest")
    page.locator("canvas").nth(1).focus()
    press(page, "x")
    (fix,) = saved(file).section
    assert (fix.sections, fix.action, fix.fill) == (f"{TURNED}:{TURNED + 3}", "exclude", "nearest")
    press(page, "x")
    page.keyboard.press("a")
    page.keyboard.type("90")
    page.keyboard.press("Enter")
    wait_until(page, "fixPage.fixes.tables.length > 0")


def test_of_two_people_the_second_is_warned_and_can_reload(
    watched: Callable[[str], Watched], address: str, file: Path
) -> None:
    first, second = opened(watched("light"), address), opened(watched("light"), address)
    press(first, "x")
    press(second, "i")
    assert [fix.action for fix in saved(file).section] == ["exclude"]
    assert second.is_visible("#banner")
    assert "omebody else" in second.inner_text("#banner")
    second.click("#reload")
    wait_until(second, "fixPage.fixes.tables.length === 1")
    assert not second.is_visible("#banner")
    press(second, "]", "i")
    assert [fix.action for fix in saved(file).section] == ["exclude", "invert"]
    # The first one hears of it without doing anything.
    wait_until(first, "!document.getElementById('banner').hidden")


def test_what_is_half_drawn_survives_the_browser(watched: Callable[[str], Watched], address: str, file: Path) -> None:
    found = watched("light")
    page = opened(found, address)
    press(page, "g", "Enter", *["ArrowRight"] * 3, "Enter", *["ArrowDown"] * 3, "Enter")
    again = found.watch(page.context.new_page())
    page.close(run_before_unload=False)
    again.goto(address)
    wait_until(again, "window.fixPage && fixPage.draft !== null && document.body.dataset.settled === 'true'")
    press(again, "f")
    assert [len(line) for fix in saved(file).section for line in fix.mask or ()] == [3]


def test_a_server_that_is_gone_is_said_and_the_drawing_kept(
    watched: Callable[[str], Watched], stack: Path, file: Path
) -> None:
    run = str(stack / "observed-aligned.zarr")
    process, address = start_viewer(run, "--port", "0", "--file", str(file), command="fix")
    page = opened(watched("light"), address)
    press(page, "l", "Enter", *["ArrowRight"] * 3, "Enter")
    stop_viewer(process)
    page.keyboard.press("f")
    wait_until(page, "document.getElementById('status').textContent.includes('does not answer')")
    assert json.loads(page.evaluate("JSON.stringify(fixPage.draft)"))["points"]
    assert not file.exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(scheme: str, watched: Callable[[str], Watched], address: str) -> None:
    found = watched(scheme)
    page = opened(found, address)
    for width, height in ((1400, 900), (1000, 800), (800, 1000), (420, 900)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wait_until(page, "document.body.dataset.settled === 'true'")
        # A slow machine draws later than it notices the new size.
        for _ in range(100):
            if brightness(page, 1) > 10:
                break
            page.wait_for_timeout(100)
        assert brightness(page, 1) > 10
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    assert complaints(found) == []
