"""A page of another origin, in the browser in which the viewer is open, gets nothing."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import Page

from tests.support.browser import Watched, start_viewer, stop_viewer, wait_until

# All that a page can do to another origin: read it, embed it, run it, open it, and look for what other pages keep.
_ATTACK = """async ({base, key}) => {
  const got = {};
  const paths = ["/", "/at", "/data/aligned/zarr.json", `/data/${key}/aligned/zarr.json`, `/v/${key}/`, `/?key=${key}`,
    `/data/${key}/aligned/0/c/0/0/0`, `/events/${key}`];
  for (const path of paths)
    for (const mode of ["cors", "no-cors"])
      for (const options of [{}, {headers: {Range: "bytes=0-9"}}, {credentials: "include"}])
        try {
          const reply = await fetch(base + path, {mode, ...options});
          got[`${mode} ${path} ${JSON.stringify(options)}`] = [reply.status, (await reply.text()).length, reply.url];
        } catch (error) { got[`${mode} ${path} ${JSON.stringify(options)}`] = "refused"; }
  const load = (tag, path) => new Promise((done) => {
    const element = document.createElement(tag);
    element.onerror = () => done("refused");
    if (tag !== "iframe") element.onload = () => done("loaded");
    else setTimeout(() => {
      try { done(element.contentDocument ? element.contentDocument.body.innerText || "closed" : "closed"); }
      catch { done("closed"); } }, 1500);
    element.src = base + path; document.body.append(element); });
  got.script = await load("script", `/data/${key}/aligned/zarr.json`);
  got.image = await load("img", `/data/${key}/aligned/0/c/0/0/0`);
  got.frame = await load("iframe", `/?key=${key}`);
  got.remembered = [JSON.stringify({...localStorage}), document.cookie];
  return got; }"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """Address of a page of another origin on this machine."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><link rel=icon href='data:,'><body>elsewhere")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.2", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.2:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def viewer(run: str) -> Iterator[str]:
    """Address of the run's viewer; the port that it takes by itself may be that of another test process."""
    process, address = start_viewer(run, "--port", "0")
    yield address
    stop_viewer(process)


def ready(page: Page) -> None:
    wait_until(page, "window.viewer !== undefined")


def test_a_page_of_another_origin_gets_nothing(
    watched: Callable[[str], Watched], run: str, viewer: str, elsewhere: str
) -> None:
    """It even knows the key, which it cannot: what another origin asks for is refused all the same."""
    key = parse_qs(urlparse(viewer).query)["key"][0]
    base = viewer.partition("/?")[0]
    link = Path(run) / "aligned" / "etc"
    link.symlink_to("/etc")
    try:
        found = watched("light")
        found.page.goto(viewer)
        ready(found.page)
        attacker = found.page.context.new_page()
        attacker.goto(elsewhere)
        got = attacker.evaluate(_ATTACK, {"base": base, "key": key})
        assert got.pop("remembered") == ["{}", ""]
        assert (got.pop("script"), got.pop("image")) == ("refused", "refused")
        assert got.pop("frame") in ("closed", "refused")
        assert len(got) == 8 * 6
        # An opaque answer (no-cors) has neither status nor content nor address.
        assert [name for name, value in got.items() if value != "refused" and value[:2] != [0, 0]] == []
        assert key not in json.dumps([value for value in got.values() if value != "refused"])
        popup = attacker.evaluate(
            """async (base) => { const opened = window.open(base + "/at");
            await new Promise((r) => setTimeout(r, 3000));
            try { return String(opened?.location.href); } catch { return "closed"; } }""",
            base,
        )
        assert key not in popup
        # The viewer's own page reaches its data, and nothing else.
        own = found.page.evaluate(
            "async (path) => { const reply = await fetch(path); return [reply.status, (await reply.text()).length]; }",
            f"{base}/data/{key}/aligned/zarr.json",
        )
        assert own[0] == 200
        status = found.page.evaluate(
            "async (path) => (await fetch(path)).status", f"{base}/data/{key}/aligned/etc/passwd"
        )
        assert status == 404
    finally:
        link.unlink()


def test_a_link_without_the_key_says_what_to_do(watched: Callable[[str], Watched], viewer: str) -> None:
    """In a browser in which the printed address was never opened, or with the key of an earlier start."""
    base = viewer.partition("/?")[0]
    found = watched("light")
    found.page.goto(f"{base}/at?run=x&z=1&y=1&x=1&side=5")
    assert "ssem-dask view" in found.page.inner_text("body")
    found.page.evaluate("localStorage.setItem('ssem-dask-view', 'of another start')")
    found.page.goto(f"{base}/at?run=x&z=1&y=1&x=1&side=5")
    found.page.wait_for_url("**key=of*")
    wait_until(found.page, "localStorage.length === 0")
    assert "ssem-dask view" in found.page.inner_text("body")


def test_an_allowed_origin_reads_data(watched: Callable[[str], Watched], run: str, elsewhere: str) -> None:
    process, address = start_viewer(run, "--port", "0", "--allow-origin", elsewhere)
    try:
        base, _, key = address.partition("/?key=")
        found = watched("light")
        found.page.goto(elsewhere)
        ask = "async (url) => (await fetch(url, {headers: {Range: 'bytes=0-9'}}).catch(() => ({status: 0}))).status"
        assert found.page.evaluate(ask, f"{base}/data/{key}/aligned/zarr.json") == 206
        assert found.page.evaluate(ask, f"{base}/data/{64 * '0'}/aligned/zarr.json") == 0
        assert found.page.evaluate(ask, f"{base}/v/{key}/") == 0
    finally:
        stop_viewer(process)
