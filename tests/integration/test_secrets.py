"""Passwords and signatures in URLs: a volume behind a server that wants them is used, and no output has them."""

import base64
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ssem_dask import shown
from ssem_dask.config.schema import make_config
from ssem_dask.driver import pipeline
from ssem_dask.errors import OutputError, SourceError
from ssem_dask.report.viewer.site import make_site
from ssem_dask.runtime import execute
from ssem_dask.runtime.events import SilentObserver, StageStarted
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.volume import Volume
from tests.support.cli import Ended
from tests.support.cli import ssem_dask as command
from tests.support.runs import SMALL, to_toml

USER, PASSWORD, SIGNATURE = "reader", "S3cr/t+Pässw0rd", "aB3+/signature=="
USER_INFO = f"{USER}:S3cr%2Ft+P%C3%A4ssw0rd"
QUERY = "X-Amz-Expires=9&X-Amz-Signature=aB3%2B%2Fsignature%3D%3D"
TRACES = ("S3cr", "ssw0rd", "aB3", "signature=", "X-Amz", base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())


class Guarded(http.server.SimpleHTTPRequestHandler):
    """Files for those who know the password and sign every request; with byte ranges."""

    expired = False

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        parts = urlsplit(self.path)
        right = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        signed = parse_qs(parts.query).get("X-Amz-Signature") == [SIGNATURE]
        if self.headers.get("Authorization") != right or not signed or Guarded.expired:
            self.send_error(401)
            return
        file = Path(self.translate_path(parts.path))
        if not file.is_file():
            self.send_error(404)
            return
        content, wanted = file.read_bytes(), self.headers.get("Range")
        size = len(content)
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, size - int(last))
            stop = min(size, int(last) + 1) if first and last else size
            content = content[start:stop]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(observed: str) -> Iterator[str]:
    """Host and port of a server with the volume `observed.zarr`."""
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(Path(observed).parent)))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of one test are not known to the next."""
    monkeypatch.setattr(shown, "_SECRETS", {})


def assert_clean(text: str | bytes) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    assert [trace for trace in TRACES if trace.encode() in content] == []


def assert_files_clean(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert_clean(path.read_bytes())
        assert_clean(str(path))


def run_clean(*words: str, code: int = 0) -> Ended:
    ended = command(*words)
    assert ended.returncode == code, ended.stderr
    assert_clean(ended.stdout)
    assert_clean(ended.stderr)
    return ended


def test_no_output_of_any_command_has_a_secret(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"http://{USER_INFO}@{server}/observed.zarr"
    url = f"{place}?{QUERY}"
    run, serial = str(tmp_path / "run.zarr"), ("--cluster", "serial")
    config = tmp_path.parent / f"{tmp_path.name}.toml"
    config.write_text(to_toml(SMALL))
    sizes = ("--pixel-size", "5", "--section-thickness", "50")
    run_clean("import", url, str(tmp_path / "imported.zarr"), *sizes)
    run_clean("align", url, run, "--config", str(config), *serial)
    assert read_run(run).source == f"http://{server}/observed.zarr"
    for words in (
        ("align", url, run, "--config", str(config), *serial, "--json"),  # the same run, resumed
        ("status", run),
        ("status", run, "--json"),
        ("report", run, "--file", str(tmp_path / "report.html"), "--worst", "2"),
        ("warp", run, url, str(tmp_path / "warped.zarr"), *serial),
        ("export", url, str(tmp_path / "exported.zarr"), "--ngff", "0.4", *serial),
        ("rerun", run, "--stage", "render", *serial),
        ("verify", run, *serial),
    ):
        run_clean(*words)
    # Signed again, with the password in the file for it: the same run.
    monkeypatch.setattr(shown, "_SECRETS", {})
    netrc = tmp_path.parent / f"{tmp_path.name}.netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    again = f"http://{server}/observed.zarr?{QUERY.replace('Expires=9', 'Expires=10')}"
    run_clean("align", again, run, "--config", str(config), *serial)
    assert_files_clean(tmp_path)


def test_a_signature_is_given_again_to_a_later_process(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run keeps none. Each command says what to do without it, and takes it with `--source`."""
    url, run, serial = (
        f"http://{USER_INFO}@{server}/observed.zarr?{QUERY}",
        str(tmp_path / "run.zarr"),
        "--cluster=serial",
    )
    config = tmp_path.parent / f"{tmp_path.name}.toml"
    config.write_text(to_toml(SMALL))
    run_clean("align", url, run, "--config", str(config), serial)
    report = ("report", run, "--file", str(tmp_path / "report.html"), "--worst", "2")
    for words, code in ((("rerun", run, "--stage", "render", serial), 2), (("verify", run, serial), 2), (report, 0)):
        monkeypatch.setattr(shown, "_SECRETS", {})
        assert "--source" in run_clean(*words, code=code).stderr or code == 0
        monkeypatch.setattr(shown, "_SECRETS", {})
        run_clean(*words, "--source", url)
    monkeypatch.setattr(shown, "_SECRETS", {})
    _, missing = make_site(run, labels=None, worst=1)
    assert "--source" in missing[0]
    site, missing = make_site(run, labels=None, worst=1, source=shown.without_secrets(url))
    assert missing == []
    assert site.files["source"].size("0/zarr.json")
    assert_files_clean(tmp_path)


def test_errors_have_no_secret(server: str, tmp_path: Path) -> None:
    """A wrong password or signature, a path that does not exist, and a server that is not there."""
    for url in (
        f"http://{USER_INFO}x@{server}/observed.zarr?{QUERY}",
        f"http://{USER_INFO}@{server}/observed.zarr?{QUERY}x",
        f"http://{USER_INFO}@{server}/nothing.zarr?{QUERY}",
        f"http://{USER_INFO}@127.0.0.1:9/observed.zarr?{QUERY}",
        f"nosuchprotocol://{USER_INFO}@{server}/observed.zarr",
        f"http://{USER_INFO}@{server}/stack.tif?{QUERY}",
        f"http://{USER_INFO}@{server}/volume.h5?{QUERY}",
    ):
        ended = run_clean("import", url, str(tmp_path / "out.zarr"), code=2)
        assert ended.stderr.startswith("error: ")
        assert server.partition(":")[0] in ended.stderr
        run_clean("align", url, str(tmp_path / "run.zarr"), "--cluster", "serial", code=2)
        with pytest.raises((SourceError, OutputError)) as caught:
            Volume.open(url)
        assert_clean(str(caught.value))


def test_workers_get_the_secrets_and_keep_them(server: str, tmp_path: Path) -> None:
    url = f"http://{USER_INFO}@{server}/observed.zarr?{QUERY}"
    config = tmp_path.parent / f"{tmp_path.name}.toml"
    config.write_text(to_toml(SMALL))
    words = ["align", url, str(tmp_path / "run.zarr"), "--config", str(config), "--workers", "1"]
    ended = subprocess.run([sys.executable, "-m", "ssem_dask.cli", *words], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    assert_clean(ended.stdout)
    assert_clean(ended.stderr)
    assert_files_clean(tmp_path)


def test_a_failed_chunk_has_no_secret(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message and the log of a task whose signature has run out in the middle."""
    url = f"http://{USER_INFO}@{server}/observed.zarr?{QUERY}"
    run = str(tmp_path / "run.zarr")
    planned = pipeline.plan(make_config({"source": url, "output": run, **SMALL}))
    monkeypatch.setattr(Guarded, "expired", False)  # so that it is so again at the end

    class Expiring(SilentObserver):
        def stage_started(self, _event: StageStarted) -> None:
            Guarded.expired = True

    with SerialExecutor() as executor, pytest.MonkeyPatch.context() as impatient:
        impatient.setattr(execute, "LONG_RETRY_S", 0.5)
        with pytest.raises(SourceError) as caught:  # the source cannot be compared with the one that was read
            pipeline.run(planned, executor=executor, observer=Expiring())
    assert_clean(str(caught.value))
    assert [report for report in open_ledger(run).reports(None) if "401" in report.message and "401" in report.log]
    run_clean("status", run, code=1)
    run_clean("status", run, "--json", code=1)
    assert_files_clean(tmp_path)


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("http://u:p@h/a.zarr", "http://h/a.zarr"),
        ("https://token@h:8/a.zarr/", "https://h:8/a.zarr/"),
        ("https://h/a.tif?sig=x&se=1", "https://h/a.tif"),
        ("--set=mask.user=https://u:p@h/m.zarr?sig=x", "--set=mask.user=https://h/m.zarr"),
        ("precomputed://https://u:p@h/v", "precomputed://https://h/v"),
        ("simplecache::http://u:p@h/v", "simplecache::http://h/v"),
        ("sftp://u:p@h/v", "sftp://h/v"),
        ("http://u:p@ss@h/v", "http://h/v"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("abfs://container@account.dfs.core.windows.net/v", "abfs://container@account.dfs.core.windows.net/v"),
        ("github://org:repo@main/v", "github://org:repo@main/v"),
        ("/data/what?/a@b", "/data/what?/a@b"),
        ("tcp://h:8786", "tcp://h:8786"),
    ],
)
def test_a_location_without_its_secrets(given: str, clean: str) -> None:
    assert shown.without_secrets(given) == clean
    assert shown.without_secrets(clean) == clean
    assert shown.redacted(f"cannot read {given}: no") == f"cannot read {clean}: no"
