"""Make the pictures of the README from the phantom: `make pictures`.

`demo.png` is the demo's reslice before and after, `report.png` and `viewer.png` are screenshots of its report and of
neuroglancer at the first place that the report points to.
"""

import io
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
COMMAND = [sys.executable, "-m", "ssem_dask.cli"]


def main() -> None:
    """Run the demo, open what it made, and take the pictures."""
    browser_path = shutil.which("chromium")
    if browser_path is None:
        sys.exit("chromium is not installed; apt-get install chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "demo"
        # From inside the folder, so that the pictures name files as a reader of the README would have them.
        subprocess.run([*COMMAND, "demo", "--dir", "demo"], check=True, cwd=name)
        keep(Image.open(folder / "reslice.png"), "demo.png")
        viewer = subprocess.Popen(
            [*COMMAND, "view", "demo/aligned.zarr", "--print-url"], stdout=subprocess.PIPE, text=True, cwd=name
        )
        try:
            assert viewer.stdout is not None
            address = viewer.stdout.readline().strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=browser_path, args=ARGUMENTS)
                page = browser.new_page(viewport={"width": 1200, "height": 1180})
                page.goto((folder / "report.html").as_uri())
                page.wait_for_function("document.body.dataset.map")
                page.wait_for_timeout(500)
                top = screenshot(page)
                page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
                page.evaluate("document.getElementById('curves').scrollIntoView()")
                keep(beside(top, screenshot(page)), "report.png")
                page.set_viewport_size({"width": 1200, "height": 760})
                link = page.locator("a.open").first.get_attribute("href") or ""
                page.goto(address)  # the browser needs the key before the link opens
                page.wait_for_url("**/v/**")
                page.goto(link)
                page.wait_for_url("**/v/**")
                page.wait_for_function("window.viewer !== undefined && viewer.isReady()", timeout=60_000)
                page.wait_for_timeout(3000)
                keep(screenshot(page), "viewer.png")
                browser.close()
        finally:
            viewer.send_signal(signal.SIGINT)
            viewer.wait(timeout=20)


def screenshot(page: Page) -> Image.Image:
    """Return a picture of the window."""
    return Image.open(io.BytesIO(page.screenshot()))


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Return two pictures of the same height side by side, with a line between them."""
    both = Image.new("RGB", (left.width + right.width + 2, left.height), "gray")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 2, 0))
    return both


def keep(image: Image.Image, name: str) -> None:
    """Write a picture in 256 colours: a third of the bytes, and no difference to the eye."""
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


if __name__ == "__main__":
    main()
