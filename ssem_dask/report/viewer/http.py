"""The viewer's HTTP server: neuroglancer's client, the served things with Range and CORS, and links to places.

    /                              the whole volume
    /at?run=…&z=…&y=…&x=…&side=…   a place; y, x and side in mip-0 px of the aligned section
    /v/TOKEN/…                     the client; TOKEN is MARK, or MARK-z-y-x-side
    /events/TOKEN                  where the client is told what to show
    /data/MARK/NAME/PATH           bytes

The client could be given its state behind the # of the address, but then it loses a layer now and then where restoring
the state takes longer than the 0.2 s after which it writes the address anew. MARK is the run's: a link of another run's
report leads to a page that says so. Requests are answered only under a loopback name, so that no other site can point
its own name at this server.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from neuroglancer import static
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from ssem_dask.errors import ConfigError, SsemDaskError
from ssem_dask.report.viewer.served import Served

_THREADS = 8
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_PLACE = re.compile(r"^[^-]+-(\d+)-([\d.]+)-([\d.]+)-(\d+)$")
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


@dataclass(frozen=True, slots=True)
class Spot:
    """Where to look."""

    z: int
    y: float
    x: float
    """mip-0 px of the aligned section."""
    side: float
    """How much of it to show, mip-0 px."""


@dataclass(frozen=True, slots=True)
class Site:
    """All that the server needs to know."""

    mark: str
    things: Mapping[str, Served]
    state: Callable[[str, Spot | None], dict[str, Any]]
    """From the address of `/data/MARK` and where to look to the client's state."""


class ViewerServer:
    """The server; lives in the event loop it is started in."""

    def __init__(self, site: Site) -> None:
        self._pool = ThreadPoolExecutor(_THREADS)
        shared = {"site": site, "pool": self._pool}
        mark = re.escape(site.mark)
        self._server = HTTPServer(
            Application(
                [
                    (r"/(at)?", _Look, shared),
                    (r"/favicon\.ico", _NoIcon, shared),
                    (rf"/v/{mark}[^/]*/(.*)", _Client, shared),
                    (rf"/events/({mark}[^/]*)", _Events, shared),
                    (rf"/state/{mark}[^/]*", _ClientState, shared),
                    (rf"/data/{mark}/([^/]+)/(.*)", _Data, shared),
                ],
                log_function=lambda _: None,
            )
        )

    def start(self, *, port: int) -> int:
        """Listen on loopback and return the port (another one where 0 is given).

        Raises:
            ConfigError: the port is taken or forbidden.
        """
        try:
            sockets = bind_sockets(port, address="127.0.0.1")
        except OSError as error:
            raise ConfigError(
                f"view: port {port} cannot be used ({error.strerror}); stop what answers there, or give another --port "
                "(and the same to 'report --viewer http://127.0.0.1:PORT')."
            ) from error
        self._server.add_sockets(sockets)
        return int(sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Handler(RequestHandler):
    def initialize(self, site: Site, pool: ThreadPoolExecutor) -> None:
        self.site = site
        self.pool = pool

    def prepare(self) -> None:
        if self.request.host.rpartition(":")[0] not in _LOOPBACK and self.request.host not in _LOOPBACK:
            raise HTTPError(HTTPStatus.FORBIDDEN, reason="This server answers on loopback only")

    def set_default_headers(self) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Allow-Headers", "Range")
        self.set_header("Access-Control-Expose-Headers", "Accept-Ranges, Content-Range, Content-Length")
        self.set_header("Cache-Control", "no-cache")

    def compute_etag(self) -> None:
        """None: a digest of every chunk would cost more than it saves."""

    def options(self, *_: str) -> None:
        self.set_status(HTTPStatus.NO_CONTENT)

    def data_received(self, chunk: bytes) -> None:
        """Nothing is uploaded."""


class _Look(_Handler):
    """Redirects to the client."""

    async def get(self, at: str | None) -> None:
        run = self.get_query_argument("run", self.site.mark)
        if run != self.site.mark:
            self.set_status(HTTPStatus.NOT_FOUND)
            self.finish(
                "This viewer shows another run than the report that led here. Start 'ssem-dask view' on its run."
            )
            return
        token = run
        if at:
            try:
                z, y, x, side = (float(self.get_query_argument(name)) for name in ("z", "y", "x", "side"))
            except ValueError as error:
                raise HTTPError(HTTPStatus.BAD_REQUEST, reason="z, y, x and side are numbers") from error
            token = f"{run}-{z:.0f}-{y:.1f}-{x:.1f}-{side:.0f}"
        self.redirect(f"/v/{token}/")


class _NoIcon(_Handler):
    """Browsers ask for one."""

    def get(self) -> None:
        self.set_status(HTTPStatus.NO_CONTENT)


class _Client(_Handler):
    """neuroglancer's own files."""

    def get(self, path: str) -> None:
        try:
            content, kind = static.get_default_static_content_source().get(path, "")
        except ValueError as error:
            raise HTTPError(HTTPStatus.NOT_FOUND) from error
        self.set_header("Content-Type", kind)
        self.finish(content)


class _Events(_Handler):
    """Tells the client once what to show, and keeps the line open."""

    async def get(self, token: str) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.write(": \n\n")
        await self.flush()
        # A client that connects again goes on with what its user has made of the view.
        if not self.get_query_argument("gs", ""):
            # As the browser reached it: another port where it comes through ssh.
            data = f"{self.request.protocol}://{self.request.host}/data/{self.site.mark}"
            loop = asyncio.get_running_loop()
            state = await loop.run_in_executor(self.pool, self.site.state, data, _spot(token))
            self.write(f"data: {json.dumps({'k': 's', 's': state, 'g': 'given'})}\n\n")
            await self.flush()
        self.closed = asyncio.Event()
        await self.closed.wait()

    def on_connection_close(self) -> None:
        if hasattr(self, "closed"):
            self.closed.set()


def _spot(token: str) -> Spot | None:
    """The place that a token names; None: no place."""
    found = _PLACE.match(token)
    if found is None:
        return None
    z, y, x, side = (float(part) for part in found.groups())
    return Spot(int(z), y, x, side)


class _ClientState(_Handler):
    """The client tells what its user has made of the view; it is not kept."""

    def post(self) -> None:
        self.finish({"g": "seen"})


class _Data(_Handler):
    """Bytes of the served things, whole or by range."""

    async def head(self, name: str, path: str) -> None:
        await self.get(name, path)

    async def get(self, name: str, path: str) -> None:
        thing = self.site.things.get(name)
        path = unquote(path)
        if thing is None or any(part in ("", ".", "..") for part in path.split("/")):
            raise HTTPError(HTTPStatus.NOT_FOUND)
        loop = asyncio.get_running_loop()
        try:
            size = await loop.run_in_executor(self.pool, thing.size, path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise HTTPError(HTTPStatus.NOT_FOUND) from error
        except SsemDaskError as error:
            raise HTTPError(HTTPStatus.BAD_GATEWAY, reason="The data cannot be reached") from error
        start, stop = self._part(size)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header(
            "Content-Type", "application/json" if path.endswith((".json", ".zattrs")) else "application/octet-stream"
        )
        self.set_header("Content-Length", str(stop - start))
        if self.request.method == "GET" and stop > start:
            content = await loop.run_in_executor(self.pool, lambda: thing.read(path, start=start, stop=stop))
            self.write(content)
        await self.finish()

    def _part(self, size: int) -> tuple[int, int]:
        """The bytes that are asked for; sets status and headers."""
        asked = _RANGE.match(self.request.headers.get("Range", ""))
        if asked is None or not any(asked.groups()):
            return 0, size
        first, last = asked.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= stop:
            self.set_header("Content-Range", f"bytes */{size}")
            raise HTTPError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        self.set_status(HTTPStatus.PARTIAL_CONTENT)
        self.set_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        return start, stop
