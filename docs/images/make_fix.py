"""Make the pictures of docs/bad-section.md: a stack with an upside-down section and a foreign one, as `fix` shows it.

The search that finds upside-down sections by itself is off, so that there is one to fix.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import ssem_dask
from docs.images.make import ARGUMENTS, COMMAND, keep, screenshot
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

SECTIONS, SIDE = 14, 512
TURNED, FOREIGN = 5, 9


def main() -> None:
    """Align the stack, fix it on the page, and take the pictures on the way."""
    browser_path = shutil.which("chromium")
    if browser_path is None:
        sys.exit("chromium is not installed; apt-get install chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = phantom(folder / "volume.zarr", seed=11)
        pixels[TURNED] = pixels[TURNED, ::-1, ::-1]
        pixels[FOREIGN] = phantom(folder / "other.zarr", seed=12)[0]
        volume = Volume.open(str(folder / "volume.zarr"))
        volume.write(Box((0, 0, 0), volume.info.shape), pixels)
        run = str(folder / "aligned.zarr")
        ssem_dask.align(volume.url, run, cluster="serial", coarse={"search": False})
        # From inside the folder, so that the pictures name files as a reader would have them.
        words = ["fix", "aligned.zarr", "--print-url", "--port", "0", "--cluster", "serial"]
        server = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, text=True, cwd=name)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=browser_path, args=ARGUMENTS)
                page = browser.new_page(viewport={"width": 1200, "height": 720})
                page.goto(address)
                settle(page)
                take(page)
                browser.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)


def take(page: Page) -> None:
    """Fix the stack by keys, as the document describes it."""
    page.evaluate(
        f"[...document.querySelectorAll('#places button')].find(b => /ection {TURNED}\\b/.test(b.innerText)).click()"
    )
    page.locator("canvas").nth(1).focus()
    settle(page)
    keep(screenshot(page), "fix-before.png")
    page.keyboard.press("t")
    settle(page)
    keep(screenshot(page), "fix-turned.png")
    for _ in range(FOREIGN - TURNED):
        page.keyboard.press("]")
    page.select_option("#fill", "nearest")
    page.locator("canvas").nth(1).focus()
    page.keyboard.press("x")
    # A fold line and a region without tissue, to show how drawings look.
    for _ in range(2):
        page.keyboard.press("]")
    settle(page)
    page.keyboard.press("l")
    draw(page, [(-3, -8), (-1, -2), (2, 5)])
    page.keyboard.press("g")
    draw(page, [(4, -9), (4, -4), (9, -5), (9, -9)])
    settle(page)
    keep(screenshot(page), "fix-drawn.png")
    for _ in range(2):
        page.keyboard.press("z")
    for _ in range(FOREIGN + 2 - TURNED):
        page.keyboard.press("[")
    page.keyboard.press("A")
    until(page, "fixPage.job.state === 'done'")
    settle(page)
    keep(screenshot(page), "fix-after.png")


def draw(page: Page, points: list[tuple[int, int]]) -> None:
    """Set points, in steps of the cross from the middle, and finish."""
    y, x = 0, 0
    page.keyboard.press("0")
    for to_y, to_x in points:
        for key, count in (
            ("ArrowDown", to_y - y),
            ("ArrowUp", y - to_y),
            ("ArrowRight", to_x - x),
            ("ArrowLeft", x - to_x),
        ):
            for _ in range(max(0, count)):
                page.keyboard.press(key)
        page.keyboard.press("Enter")
        y, x = to_y, to_x
    page.keyboard.press("f")
    page.keyboard.press("Escape")


def phantom(url: Path, *, seed: int) -> AnyArray:
    """Return the pixels `(z, y, x)` of a deformed phantom."""
    simulate_phantom(
        PhantomConfig(seed=seed, shape=(SECTIONS, SIDE, SIDE), oblique=0.0),
        str(url),
        seed=seed,
        deformation=DeformationConfig(shift=6.0, elastic=2.0),
        damage=DamageConfig(),
    )
    volume = Volume.open(str(url))
    return volume.read(Box((0, 0, 0), volume.info.shape))


def settle(page: Page) -> None:
    """Wait until nothing is saved and all tiles are drawn."""
    page.wait_for_timeout(600)
    until(page, "!fixPage.busy && document.body.dataset.settled === 'true'")
    page.wait_for_timeout(300)


def until(page: Page, condition: str) -> None:
    """Wait until an expression is true; Playwright's own way is forbidden by the page's policy."""
    while not page.evaluate(condition):
        page.wait_for_timeout(200)


if __name__ == "__main__":
    main()
