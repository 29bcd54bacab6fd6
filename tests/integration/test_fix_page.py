"""The server of `fix`: what it shows, what it saves, and attacks on it; `tests/browser` uses it as a person does."""

import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
import requests
from PIL import Image

import ssem_dask
from ssem_dask.errors import SourceError
from ssem_dask.fixes.fixes_toml import parse_fixes
from ssem_dask.geometry.box import Box
from ssem_dask.report.fixing.fix_server import MAX_BODY, FixServer
from ssem_dask.report.fixing.fix_session import FixSession
from ssem_dask.storage.fixes_store import keep_fixes
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import update_run
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from tests.support.cli import assert_one_sentence
from tests.support.cli import ssem_dask as command
from tests.support.runs import SEPARATE
from tests.support.serving import Serving

pytestmark = pytest.mark.slow
JSON = "application/json"


@pytest.fixture(scope="module")
def run(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("fix") / "out.zarr")
    assert ssem_dask.align(observed, output, cluster="serial", **SEPARATE).state == "complete"
    return output


class Page:
    """A page of the server, as its script uses it."""

    def __init__(self, base: str, key: str) -> None:
        self.base, self.key = base, key
        self.version = self.get("overview").json()["fixes"]["version"]

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(f"{self.base}/api/{self.key}/{path}", headers=headers, timeout=20)

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        sent = {"Origin": self.base, "Content-Type": JSON, **headers}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(f"{self.base}/api/{self.key}/{path}", data=data, headers=sent, timeout=20)

    def edit(self, *operations: dict[str, Any], label: str = "a change") -> requests.Response:
        reply = self.post("edit", {"version": self.version, "label": label, "operations": list(operations)})
        self.version = reply.json().get("version", self.version)
        return reply


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out.fixes.toml"


@pytest.fixture
def page(run: str, file: Path) -> Iterator[Page]:
    server = FixServer(FixSession(run, file))
    with Serving(server) as base:
        yield Page(base, server.key)


def added(**fix: Any) -> dict[str, Any]:
    return {"op": "add", "table": "section", "fix": fix}


def pixels(reply: requests.Response) -> AnyArray:
    assert reply.status_code == 200, reply.text
    return np.asarray(Image.open(io.BytesIO(reply.content)))


def likeness(shown: AnyArray, wanted: AnyArray) -> float:
    known = (shown > 0) & (wanted > 0)
    assert known.mean() > 0.3
    return float(np.corrcoef(shown[known], wanted[known])[0, 1])


def test_the_overview_has_all_that_the_page_needs(page: Page, run: str) -> None:
    overview = page.get("overview").json()
    assert overview["shape"] == [10, 160, 160]
    assert overview["run"] == run
    assert overview["places"]
    assert all(0 <= place["z"] < 10 and place["side"] > 0 and place["reason"] for place in overview["places"])
    assert overview["job"] == {"state": "idle"}
    section = page.get("section/3").json()
    assert section["views"] == ["source", "placed", "result"]
    assert section["label"].startswith("section 3")
    assert page.get("section/10").status_code == 404


def test_tiles_show_the_section_in_every_view(page: Page, run: str, observed: str) -> None:
    box = Box((4, 0, 0), (5, 160, 160))
    source, aligned = Volume.open(observed).read(box)[0], Volume.open(join(run, "aligned")).read(box)[0]
    assert likeness(pixels(page.get("tile/source/0/4/0/0")), source) > 0.99
    assert likeness(pixels(page.get("tile/result/0/4/0/0")), aligned) > 0.99
    assert likeness(pixels(page.get("tile/placed/0/4/0/0")), aligned) > 0.3
    for wrong in ("source/0/10/0/0", "source/9/4/0/0", "source/0/4/1/0", "elsewhere/0/4/0/0", "previous/0/4/0/0"):
        assert page.get(f"tile/{wrong}").status_code == 404, wrong


def test_a_turned_section_is_shown_turned_before_it_is_applied(page: Page) -> None:
    before = pixels(page.get("tile/source/0/4/0/0")).astype(float)
    assert page.edit(added(z=4, action="turn", angle=90)).status_code == 200
    shown = pixels(page.get("tile/placed/0/4/0/0")).astype(float)
    assert likeness(shown, np.rot90(before)) > 0.99
    page.edit({"op": "replace", "table": "section", "number": 1, "fix": {"z": 4, "action": "turn", "mirror": True}})
    assert likeness(pixels(page.get("tile/placed/0/4/0/0")).astype(float), before[:, ::-1]) > 0.99
    page.edit(added(z=4, action="invert"))
    assert likeness(pixels(page.get("tile/placed/0/4/0/0")).astype(float), before[:, ::-1]) < -0.99


def test_points_are_mapped_from_the_result_to_the_source_and_back(page: Page, run: str) -> None:
    points = [[80.0, 80.0], [40.0, 100.0]]
    there = page.post("map", {"z": 5, "to": "source", "points": points}).json()["points"]
    alignment = ssem_dask.open_alignment(run)
    wanted = alignment.map_points(np.array([[5.0, *point] for point in points]), to="source")
    assert np.allclose(there, wanted[:, 1:])
    back = page.post("map", {"z": 5, "to": "view", "points": there}).json()["points"]
    assert np.allclose(back, points, atol=0.01)


def test_changes_are_in_the_file_at_once_and_can_be_undone(page: Page, file: Path) -> None:
    page.edit(added(z=4, action="exclude", fill="nearest"), label="Leave out section 4")
    page.edit({"op": "add", "table": "pair", "fix": {"fixed": 1, "moving": 2, "points": [[1, 2, 3, 4]]}})
    reply = page.edit({"op": "add", "table": "jump", "fix": {"z": 3, "action": "keep"}})
    fixes = parse_fixes(file.read_text())
    assert (fixes.section[0].action, fixes.pair[0].points, fixes.jump[0].action) == ("exclude", ((1, 2, 3, 4),), "keep")
    assert [entry["table"] for entry in reply.json()["tables"]] == ["section", "pair", "jump"]
    for _ in range(3):
        state = page.post("undo", {"version": page.version}).json()
        page.version = state["version"]
    assert state["tables"] == []
    assert file.read_text() == ""
    assert page.post("redo", {"version": page.version}).json()["tables"][0]["fix"]["z"] == 4


def test_a_file_in_nm_stays_in_nm(run: str, file: Path) -> None:
    file.write_text('# mine\nunit = "nm"\n\n[[section]]\nz = 2\nmask = [[[0, 0], [0, 500], [500, 0]]]\n')
    server = FixServer(FixSession(run, file))
    with Serving(server) as base:
        page = Page(base, server.key)
        size = page.get("overview").json()["pixel_size"]
        shown = page.get("state").json()["fixes"]["tables"][0]["fix"]["mask"]
        assert np.allclose(shown, np.array([[[0, 0], [0, 500], [500, 0]]]) / size)
        page.edit(added(z=3, split=[[[10, 20], [30, 40]]]))
    text = file.read_text()
    assert text.startswith('# mine\nunit = "nm"\n')
    assert np.allclose(parse_fixes(text).section[1].split or (), np.array([[[10, 20], [30, 40]]]) * size)


def test_contradictions_and_mistakes_are_refused_in_a_sentence_and_not_saved(page: Page, file: Path) -> None:
    page.edit(added(z=4, action="exclude"))
    before = file.read_bytes()
    for operation, naming in (
        (added(z=4, action="turn", angle=180), "excludes"),
        (added(z=10, action="exclude"), "sections are 0 to 9"),
        (added(z=1, mask=[[[1e6, 0], [1e6, 9], [1e6, 5]]]), "outside"),
        (added(z=1, action="turn"), "needs angle"),
        (added(z=1, mask=[[[0, 0], [1, 1]]]), "needs 3"),
        ({"op": "remove", "table": "section", "number": 9}, "there is no table"),
    ):
        reply = page.edit(operation)
        assert reply.status_code == 422, operation
        assert naming in reply.json()["error"], reply.text
        assert file.read_bytes() == before


def test_of_two_people_the_second_is_warned_and_nothing_is_overwritten(page: Page, run: str, file: Path) -> None:
    second = Page(page.base, page.key)
    page.edit(added(z=4, action="exclude"))
    saved = file.read_bytes()
    reply = second.edit(added(z=5, action="exclude"))
    assert reply.status_code == 409
    assert "somebody else has changed it" in reply.json()["error"]
    assert file.read_bytes() == saved
    assert second.post("undo", {"version": second.version}).status_code == 409
    assert second.post("apply", {"version": second.version}).status_code == 409
    assert second.get("state").json()["job"] == {"state": "idle"}
    # Another server of the same file is no other case.
    other = FixServer(FixSession(run, file))
    with Serving(other) as base:
        third = Page(base, other.key)
        assert third.edit(added(z=6, action="exclude")).status_code == 200
    assert page.edit(added(z=7, action="exclude")).status_code == 409
    page.version = page.get("state").json()["fixes"]["version"]
    assert page.edit(added(z=7, action="exclude")).status_code == 200
    assert [fix.z for fix in parse_fixes(file.read_text()).section] == [4, 6, 7]


def test_a_file_that_is_wrong_is_said_and_not_touched(run: str, file: Path) -> None:
    file.write_text("[[section]]\nz = 3\naction = 'rotate'\n")
    server = FixServer(FixSession(run, file))
    with Serving(server) as base:
        page = Page(base, server.key)
        assert "action" in page.get("state").json()["fixes"]["problem"]
        assert page.edit(added(z=1, action="exclude")).status_code == 422
        assert page.post("apply", {"version": page.version}).status_code == 422
    assert "rotate" in file.read_text()


def test_the_fixes_that_a_run_has_are_those_of_a_file_that_does_not_exist(run: str, file: Path, tmp_path: Path) -> None:
    fixed = str(shutil.copytree(run, tmp_path / "fixed.zarr"))
    text = '[[section]]\nz = 4\naction = "invert"\n'
    update_run(fixed, fixes=keep_fixes(fixed, text))
    server = FixServer(FixSession(fixed, file))
    with Serving(server) as base:
        page = Page(base, server.key)
        state = page.get("state").json()["fixes"]
        assert [entry["fix"]["z"] for entry in state["tables"]] == [4]
        assert state["applied"]
        reply = page.edit(added(z=5, action="exclude")).json()
        assert not reply["applied"]
        assert [fix.z for fix in parse_fixes(file.read_text()).section] == [4, 5]
        assert page.post("undo", {"version": page.version}).json()["applied"]


def test_nothing_is_answered_without_the_key(page: Page, file: Path) -> None:
    paths = [
        "p/{}/",
        "p/{}/fix.js",
        "api/{}/overview",
        "api/{}/state",
        "api/{}/section/1",
        "api/{}/tile/source/0/1/0/0",
    ]
    for key, status in ((page.key, 200), ("0" * 64, 403), (page.key[:-1], 403), (page.key + "0", 403)):
        for path in paths:
            reply = requests.get(f"{page.base}/{path.format(key)}", timeout=20)
            assert reply.status_code == status, path
            if status == 403:
                assert page.key not in reply.text + str(reply.headers)
        assert requests.get(f"{page.base}/?key={key}", timeout=20).status_code == status
    body = {"version": page.version, "label": "x", "operations": [added(z=1, action="exclude")]}
    for key in ("0" * 64, "abc", page.key[1:]):
        stranger = Page.__new__(Page)
        stranger.base, stranger.key = page.base, key
        for name in ("edit", "undo", "redo", "apply", "stop", "map"):
            assert stranger.post(name, body).status_code == 403, name
    assert not file.exists()


def test_pages_of_other_origins_can_neither_read_nor_change(page: Page, file: Path) -> None:
    body = {"version": page.version, "label": "x", "operations": [added(z=1, action="exclude")]}
    port = urlparse(page.base).port
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{(port or 0) + 1}", f"http://localhost:{port}"):
        assert page.post("edit", body, Origin=origin).status_code == 403, origin
        reply = page.get("state", Origin=origin)
        assert reply.status_code == 403
        assert "Access-Control-Allow-Origin" not in reply.headers
    # Requests that a form or a link can send: without an origin, or without JSON.
    plain = requests.post(f"{page.base}/api/{page.key}/edit", json=body, timeout=20)
    assert plain.status_code == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert page.post("edit", body, **{"Content-Type": kind}).status_code in (400, 415), kind
    assert requests.get(f"{page.base}/api/{page.key}/apply", timeout=20).status_code == 405
    rebound = requests.get(f"{page.base}/api/{page.key}/state", headers={"Host": "evil.example"}, timeout=20)
    assert rebound.status_code == 403
    preflight = requests.options(
        f"{page.base}/api/{page.key}/edit", headers={"Origin": "https://evil.example"}, timeout=20
    )
    assert preflight.status_code in (403, 405)
    assert "Access-Control-Allow-Origin" not in preflight.headers
    assert not file.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 1, "label": "x", "operations": []}',
        b'{"version": "v", "label": "", "operations": []}',
        b'{"version": "v", "label": "x", "operations": [{"op": "burn"}]}',
        b'{"version": "v", "label": "x", "operations": [{"op": "remove", "table": "../run", "number": 1}]}',
        b'{"version": "v", "label": "x", "operations": [{"op": "remove", "table": "section", "number": -1}]}',
        b'{"z": 1, "to": "source", "points": [[NaN, 1]]}',
        b'{"z": 1, "to": "source", "points": [[1e300, 1]]}',
        b'{"z": 1, "to": "/etc", "points": []}',
    ],
)
def test_malformed_requests_are_refused_in_a_sentence(page: Page, file: Path, body: bytes) -> None:
    for name in ("edit", "map", "undo", "apply"):
        reply = page.post(name, body)
        assert reply.status_code in (400, 409, 422), (name, reply.status_code)
        assert reply.json()["error"]
        assert "Traceback" not in reply.text
    assert not file.exists()


def test_paths_lead_nowhere_else(page: Page) -> None:
    host, port = urlparse(page.base).netloc.split(":")
    for path in (
        f"/p/{page.key}/../../../../etc/passwd",
        f"/p/{page.key}/..%2f..%2fetc%2fpasswd",
        f"/p/{page.key}/fix_server.py",
        f"/p/{page.key}/fix.js%00.png",
        f"/api/{page.key}/tile/source/0/0/0/-1",
        f"/api/{page.key}/tile/..%2fsource/0/0/0/0",
        f"/api/{page.key}/tile/source/0/99999999999999999999/0/0",
        f"/api/{page.key}/section/-1",
        "/etc/passwd",
    ):
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", path)
        reply = connection.getresponse()
        assert reply.status in (403, 404), path
        assert b"root:" not in reply.read()
        connection.close()


def test_giant_requests_are_refused_without_being_read(page: Page, file: Path) -> None:
    host, port = urlparse(page.base).netloc.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.putrequest("POST", f"/api/{page.key}/edit")
    connection.putheader("Origin", page.base)
    connection.putheader("Content-Type", JSON)
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
        assert connection.getresponse().status in (400, 413)
    body = {"version": page.version, "label": "x", "operations": [added(z=1, mask=[[[0.5, 0.5]] * (MAX_BODY // 8)])]}
    # The server answers or closes the connection while the client still sends.
    with contextlib.suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        assert page.post("edit", body).status_code in (400, 413)
    assert page.get("state").status_code == 200
    assert not file.exists()


def test_a_run_that_has_nothing_to_show_is_refused(tmp_path: Path) -> None:
    assert_one_sentence(command("fix", str(tmp_path / "none.zarr"), "--print-url"), naming="none.zarr")
    with pytest.raises(SourceError):
        FixSession(str(tmp_path / "none.zarr"), tmp_path / "fixes.toml")


def test_the_command_serves_until_it_is_stopped(run: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    words = ["fix", run, "--file", str(file), "--port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ssem_dask.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1].rstrip() != "}":
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr and process.stderr.read()
        answer = json.loads("".join(lines))
        key = answer["url"].partition("key=")[2]
        page = Page(f"http://127.0.0.1:{answer['port']}", key)
        assert page.edit(added(z=4, action="exclude")).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert parse_fixes(file.read_text()).section[0].z == 4
