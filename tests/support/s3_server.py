"""A real S3 server (SeaweedFS, one process), and a proxy before it that fails requests as often as a test asks for."""

import http.client
import http.server
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "testaccess", "AWS_SECRET_ACCESS_KEY": "testsecret"}
_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


def weed() -> str | None:
    """Path of the server's program; None where it is not installed."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def free_port() -> int:
    """A port whose number plus 10000 is free too: the server's gRPC ports are there."""
    while True:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port: int = low.getsockname()[1]
            try:
                high.bind(("127.0.0.1", port + 10000))
            except (OSError, OverflowError):
                continue
            return port


class Server:
    """The S3 server; its bucket is `test`."""

    def __init__(self, folder: Path) -> None:
        program = weed()
        assert program is not None
        folder.mkdir()
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        credentials = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
        identities = {"identities": [{"name": "test", "credentials": credentials, "actions": actions}]}
        (folder / "s3.json").write_text(json.dumps(identities))
        self.port = free_port()
        master, volume, filer = free_port(), free_port(), free_port()
        self._log = (folder / "weed.log").open("wb")
        self._process = subprocess.Popen(
            [
                *(program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
                *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={self.port}"),
                *(f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=256", "-volume.max=20"),
                *(
                    "-master.volumePreallocate=false",
                    "-s3.allowDeleteBucketNotEmpty=true",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                ),
            ],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=2):
                    return
            except OSError:
                alive = self._process.poll() is None and time.monotonic() < end
                assert alive, (folder / "weed.log").read_text()[-2000:]
                time.sleep(0.2)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


class BadProxy:
    """Hands requests on to a server; some it answers with 500 or 503, or cuts the connection, before or midway."""

    def __init__(self, target: int, *, seed: int) -> None:
        self.share = 0.0
        """Share of the requests that fail, at random; but at least one in `2 / share`."""
        self.dead = False
        """Every connection is cut."""
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self._fate = random.Random(seed)
        self._since = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or the second packet of an answer waits 40 ms

            def do_GET(self) -> None:
                proxy.handle(self, target)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: http.server.BaseHTTPRequestHandler, target: int) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            self.requests += 1
            self._since += 1
            bad = self.dead or self._fate.random() < self.share or self._since * self.share >= 2.0
            fault = "cut" if self.dead else self._fate.choice(["500", "503", "cut", "cut in the middle"])
            if bad:
                self.faults[fault] += 1
                self._since = 0
        if bad and fault != "cut in the middle":
            self._fail(request, fault)
            return
        connection = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
        connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        request.send_response_only(answer.status)
        length = answer.headers.get("Content-Length") if request.command == "HEAD" else str(len(content))
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                request.send_header(name, value)
        request.send_header("Content-Length", length or "0")
        request.end_headers()
        if bad:  # the server has done it, but the client does not learn it
            request.wfile.write(content[: len(content) // 2])
            self._cut(request)
            return
        request.wfile.write(content)

    def _fail(self, request: http.server.BaseHTTPRequestHandler, fault: str) -> None:
        if fault == "cut":
            self._cut(request)
            return
        content = _SLOW_DOWN if fault == "503" else b""
        request.send_response_only(int(fault))
        request.send_header("Content-Length", str(0 if request.command == "HEAD" else len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

    @staticmethod
    def _cut(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.flush()
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)
