"""Attacks on the viewer's server: without its key, from other origins, by links in a store, as another user."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
import requests

import ssem_dask
from ssem_dask.report.viewer.http import Site
from ssem_dask.report.viewer.served_files import StoredFiles
from tests.support.browser import start_viewer, stop_viewer
from tests.support.cli import assert_one_sentence
from tests.support.cli import ssem_dask as command
from tests.support.runs import SEPARATE
from tests.support.serving import Serving

CONTENT = b"pixels of a volume"
FOREIGN = "https://viewer.example"
ATTACKER = "http://127.0.0.2:8000"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A served folder with one file, beside a file that must never be served."""
    folder = tmp_path / "store"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "c").write_bytes(CONTENT)
    (tmp_path / "private").write_text("private")
    return folder


def site_of(store: Path, *origins: str) -> Site:
    files = {"thing": StoredFiles(str(store), root=str(store))}
    return Site("mark", files, lambda data, viewpoint: {"data": data}, frozenset(origins))


@pytest.fixture
def serving(store: Path) -> Iterator[tuple[str, Site]]:
    site = site_of(store, FOREIGN)
    with Serving(site) as base:
        yield base, site


def addresses(base: str, key: str) -> list[str]:
    """Every kind of address that is answered."""
    return [
        f"{base}/?key={key}",
        f"{base}/at?key={key}&run=mark&z=0&y=1&x=1&side=2",
        f"{base}/v/{key}/",
        f"{base}/v/{key}-0-1.0-1.0-2/",
        f"{base}/events/{key}",
        f"{base}/data/{key}/thing/0/c",
    ]


def ask(address: str, **headers: str) -> requests.Response:
    with requests.get(address, headers=headers, timeout=20, stream=True, allow_redirects=False) as reply:
        if "event-stream" not in reply.headers.get("Content-Type", ""):
            reply.content  # noqa: B018  read while the connection is open
        return reply


def test_nothing_is_answered_without_the_key(serving: tuple[str, Site]) -> None:
    base, site = serving
    assert [ask(address).status_code for address in addresses(base, site.key)] == 6 * [200]
    for wrong in ("0" * 64, "mark", site.key[:-1], site.key + "0", ""):
        for address in addresses(base, wrong):
            reply = ask(address)
            assert reply.status_code == 403, address
            assert site.key not in reply.text + str(reply.headers)
            assert CONTENT not in reply.content
    for path in ("/", "/at", "/at?run=mark&z=0&y=1&x=1&side=2", "/v/", "/data/", "/nothing", "/state/mark", "/v/mark/"):
        reply = ask(base + path)
        assert reply.status_code == 403, path
        assert site.key not in reply.text + str(reply.headers)
    assert requests.post(f"{base}/state/{64 * '0'}", timeout=20).status_code == 403


def test_each_start_has_a_key_of_its_own(store: Path) -> None:
    assert site_of(store).key != site_of(store).key
    assert len(site_of(store).key) == 64
    assert site_of(store).key not in repr(site_of(store))


def test_pages_of_other_origins_get_nothing_even_with_the_key(serving: tuple[str, Site]) -> None:
    base, site = serving
    for origin in (ATTACKER, "null", "http://127.0.0.1:1", base.replace("127.0.0.1", "localhost")):
        for address in addresses(base, site.key):
            reply = ask(address, Origin=origin)
            assert reply.status_code == 403, (origin, address)
            assert "Access-Control-Allow-Origin" not in reply.headers
    preflight = {"Origin": ATTACKER, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    assert requests.options(f"{base}/data/{site.key}/thing/0/c", headers=preflight, timeout=20).status_code == 403


def test_one_origin_can_be_allowed_and_needs_the_key(serving: tuple[str, Site]) -> None:
    base, site = serving
    data = f"{base}/data/{site.key}/thing/0/c"
    reply = ask(data, Origin=FOREIGN, Range="bytes=0-5")
    assert (reply.status_code, reply.headers["Access-Control-Allow-Origin"]) == (206, FOREIGN)
    assert reply.headers["Vary"] == "Origin"
    assert "Content-Range" in reply.headers["Access-Control-Expose-Headers"]
    preflight = requests.options(data, headers={"Origin": FOREIGN}, timeout=20)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Headers"]) == (204, "Range")
    assert ask(data.replace(site.key, 64 * "0"), Origin=FOREIGN).status_code == 403
    assert ask(f"{base}/v/{site.key}/", Origin=FOREIGN).status_code == 403  # data alone
    assert "Access-Control-Allow-Origin" not in ask(data).headers


@pytest.mark.parametrize("wrong", ["*", "https://*.example", "viewer.example", "https://viewer.example/", "file://x"])
def test_an_origin_is_one_site(wrong: str, tmp_path: Path) -> None:
    assert_one_sentence(command("view", str(tmp_path), "--allow-origin", wrong), naming="--allow-origin")


@pytest.mark.parametrize(
    "host",
    ["evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::1].evil.example", "127.0.0.1@evil"],
)
def test_other_names_of_this_machine_are_refused(host: str, serving: tuple[str, Site]) -> None:
    base, site = serving
    for address in addresses(base, site.key):
        assert ask(address, Host=host).status_code in (400, 403)
    assert ask(f"{base}/data/{site.key}/thing/0/c", Host="localhost:8000").status_code == 200


def test_links_out_of_the_store_are_not_followed(serving: tuple[str, Site], store: Path) -> None:
    base, site = serving
    (store / "inside").symlink_to(store / "0")
    (store / "etc").symlink_to("/etc")
    (store / "up").symlink_to("..")
    (store / "private").symlink_to(store.parent / "private")
    (store / "twice").symlink_to(store / "up")
    (store / "loop").symlink_to(store / "loop")
    (store / "zero").symlink_to("/dev/zero")
    os.mkfifo(store / "pipe")
    data = f"{base}/data/{site.key}/thing"
    assert ask(f"{data}/inside/c").content == CONTENT
    for path in ("etc/passwd", "up/private", "private", "twice/private", "loop", "loop/x", "zero", "pipe", "0"):
        assert ask(f"{data}/{path}").status_code == 404, path


@pytest.mark.parametrize(
    "path",
    ["../private", "%2e%2e/private", "%252e%252e/private", "..%2fprivate", "..%5cprivate", "/etc/passwd",
     "%2fetc/passwd", "0/../../private", "~/.bashrc", "file:%2f%2f/etc/passwd", "s3:%2f%2fbucket/x",
     "0/c%00", "0//c", "./0/c"],
)  # fmt: skip
def test_path_tricks(path: str, serving: tuple[str, Site]) -> None:
    base, site = serving
    session = requests.Session()
    request = requests.Request("GET", base).prepare()
    request.url = f"{base}/data/{site.key}/thing/{path}"  # requests would tidy it
    reply = session.send(request, timeout=20)
    assert reply.status_code in (403, 404)
    assert "private" not in reply.text.replace(path, "")
    for prefix in ("v", "events"):
        request.url = f"{base}/{prefix}/{site.key}/{path}"
        assert session.send(request, timeout=20).status_code in (403, 404)


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-1", "9" * 400, "1e308", "0x1", "", "%00"])
def test_places_that_are_none_do_no_harm(value: str, serving: tuple[str, Site]) -> None:
    base, site = serving
    for name in ("z", "y", "x", "side"):
        place = {"z": "0", "y": "1", "x": "1", "side": "2", name: value}
        asked = "&".join(f"{key}={text}" for key, text in place.items())
        reply = ask(f"{base}/at?key={site.key}&run=mark&{asked}")
        assert reply.status_code in (200, 400), asked
        assert "Traceback" not in reply.text
    assert ask(f"{base}/data/{site.key}/thing/0/c", Range=f"bytes={value}-{value}").status_code in (200, 206, 400, 416)
    assert ask(f"{base}/data/{site.key}/thing/0/c").content == CONTENT


def test_it_listens_on_loopback_alone(serving: tuple[str, Site]) -> None:
    """A socket on all addresses of this machine would take this connection."""
    base, _ = serving
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", urlparse(base).port or 0), timeout=5)


def test_answers_are_sealed(serving: tuple[str, Site]) -> None:
    base, site = serving
    for address in [*addresses(base, site.key), *addresses(base, "0"), f"{base}/nothing"]:
        headers = ask(address).headers
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.fixture(scope="module")
def run(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("access") / "out.zarr")
    assert ssem_dask.align(observed, output, cluster="serial", **SEPARATE).state == "complete"
    return output


def test_another_user_of_the_machine_gets_nothing(run: str) -> None:
    """The command as it is started; the other user sees its port and its process, but not its output."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("only root can act as another user, by setpriv")
    link = Path(run) / "aligned" / "etc"
    link.symlink_to("/etc")
    process, address = start_viewer(run, "--port", "0")
    try:
        key = parse_qs(urlparse(address).query)["key"][0]
        base = address.partition("/?")[0]
        assert ask(f"{base}/data/{key}/aligned/zarr.json").status_code == 200
        assert ask(f"{base}/data/{key}/aligned/etc/passwd").status_code == 404
        script = f"""
import http.client, pathlib
port = {urlparse(base).port}
for path in ("/", "/at", "/v/", "/data/", "/data/aligned/zarr.json", "/events/"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    reply = connection.getresponse()
    print(reply.status, reply.headers, reply.read())
for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
        print(file.read_bytes())
    except OSError:
        pass
for name in ("environ", "mem", "fd/1"):
    try:
        print(open("/proc/{process.pid}/" + name, "rb").read(1 << 20))
    except OSError as error:
        print("refused", error.errno)
"""
        spying = ["/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-c", script]
        seen = subprocess.run(
            [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--", *spying],
            capture_output=True, text=True, check=True, cwd="/",
        ).stdout  # fmt: skip
        assert seen.count("403 ") == 6
        assert seen.count("\nrefused 13") == 3
        assert key not in seen
    finally:
        link.unlink()
        stop_viewer(process)


def test_the_browser_is_started_without_the_key_among_its_arguments(run: str, tmp_path: Path) -> None:
    """Arguments of a process can be read by everybody, so the browser gets a file that nobody else can read."""
    browser = tmp_path / "browser"
    browser.write_text(
        f"#!/bin/sh\nprintf '%s' \"$1\" > {tmp_path}/given\n"
        f'stat -c \'%a\' "$(dirname "${{1#file://}}")" > {tmp_path}/mode\ncat "${{1#file://}}" > {tmp_path}/page\n'
    )
    browser.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "ssem_dask.cli", "view", run, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": f"{browser} %s"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        address = process.stdout.readline().strip()
        assert any("Serving" in line for line in process.stderr)
        stop_viewer(process)
    key = address.partition("key=")[2]
    assert len(key) == 64
    given = (tmp_path / "given").read_text()
    assert given.startswith("file://")
    assert key not in given
    assert address in (tmp_path / "page").read_text()
    assert (tmp_path / "mode").read_text().strip() == "700"
    assert not Path(given.removeprefix("file://")).exists()
