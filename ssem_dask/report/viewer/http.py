"""The viewer's HTTP server: neuroglancer's client, the served files with Range and CORS, and links to viewpoints.

    /                              the whole volume
    /at?run=…&z=…&y=…&x=…&side=…   a viewpoint; y, x and side in mip-0 px of the aligned section
    /v/VIEW/…                      the client; VIEW is RUN, or RUN-z-y-x-side
    /events/VIEW                   server-sent events: the state that the client opens with
    /data/RUN/NAME/PATH            bytes

RUN is the run's token: a link of another run's report leads to a page that says so.

The state is sent as an event, not in the fragment (#) of the address: there the client loses a layer now and then, if
restoring the state takes longer than the 0.2 s after which it rewrites the address. Requests are answered only under a
loopback name, which prevents DNS rebinding: no other site can point its own name at this server.
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
from ssem_dask.report.viewer.served_files import ServedFiles

_THREADS = 8
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_VIEWPOINT = re.compile(r"^[^-]+-(\d+)-([\d.]+)-([\d.]+)-(\d+)$")
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """A part of a section."""

    z: int
    y: float
    x: float
    """Centre, mip-0 px of the aligned section."""
    side: float
    """Extent of the visible part, mip-0 px."""


@dataclass(frozen=True, slots=True)
class Site:
    """The content of the server."""

    token: str
    """Token of the run, see `run_token`."""
    files: Mapping[str, ServedFiles]
    """Files by the name below which they are served."""
    state: Callable[[str, Viewpoint | None], dict[str, Any]]
    """Function from the address of `/data/RUN` and a viewpoint to the client's state."""


class ViewerServer:
    """The server; it runs in the event loop in which it is started."""

    def __init__(self, site: Site) -> None:
        self._pool = ThreadPoolExecutor(_THREADS)
        shared = {"site": site, "pool": self._pool}
        token = re.escape(site.token)
        self._server = HTTPServer(
            Application(
                [
                    (r"/(at)?", _Link, shared),
                    (r"/favicon\.ico", _NoIcon, shared),
                    (rf"/v/{token}[^/]*/(.*)", _Client, shared),
                    (rf"/events/({token}[^/]*)", _Events, shared),
                    (rf"/state/{token}[^/]*", _ClientState, shared),
                    (rf"/data/{token}/([^/]+)/(.*)", _Data, shared),
                ],
                log_function=lambda _: None,
            )
        )

    def start(self, *, port: int) -> int:
        """Listen on loopback and return the port; port 0 chooses a free one.

        Raises:
            ConfigError: the port is taken or forbidden.
        """
        try:
            sockets = bind_sockets(port, address="127.0.0.1")
        except OSError as error:
            raise ConfigError(
                f"view: port {port} cannot be used ({error.strerror}); stop the program that uses it, or choose "
                "another --port (and pass the same to 'report --viewer http://127.0.0.1:PORT')."
            ) from error
        self._server.add_sockets(sockets)
        return int(sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Stop answering."""
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
        """Send no ETag: a digest of every chunk would cost more than it saves."""

    def options(self, *_: str) -> None:
        self.set_status(HTTPStatus.NO_CONTENT)

    def data_received(self, chunk: bytes) -> None:
        """Ignore uploads: there are none."""


class _Link(_Handler):
    """Redirect to the client."""

    async def get(self, at: str | None) -> None:
        run = self.get_query_argument("run", self.site.token)
        if run != self.site.token:
            self.set_status(HTTPStatus.NOT_FOUND)
            self.finish(
                "This viewer shows another run than the report that linked here. "
                "Start 'ssem-dask view' on the report's run."
            )
            return
        view = run
        if at:
            try:
                z, y, x, side = (float(self.get_query_argument(name)) for name in ("z", "y", "x", "side"))
            except ValueError as error:
                raise HTTPError(HTTPStatus.BAD_REQUEST, reason="z, y, x and side are numbers") from error
            view = f"{run}-{z:.0f}-{y:.1f}-{x:.1f}-{side:.0f}"
        self.redirect(f"/v/{view}/")


class _NoIcon(_Handler):
    """Answer requests for an icon, which browsers always send."""

    def get(self) -> None:
        self.set_status(HTTPStatus.NO_CONTENT)


class _Client(_Handler):
    """Send neuroglancer's own files."""

    def get(self, path: str) -> None:
        try:
            content, kind = static.get_default_static_content_source().get(path, "")
        except ValueError as error:
            raise HTTPError(HTTPStatus.NOT_FOUND) from error
        self.set_header("Content-Type", kind)
        self.finish(content)


class _Events(_Handler):
    """Send the client its state once, and keep the connection open."""

    async def get(self, view: str) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.write(": \n\n")
        await self.flush()
        # A client that reconnects keeps the view that its user has made.
        if not self.get_query_argument("gs", ""):
            # The address that the browser used: another port if it comes through ssh.
            data = f"{self.request.protocol}://{self.request.host}/data/{self.site.token}"
            loop = asyncio.get_running_loop()
            state = await loop.run_in_executor(self.pool, self.site.state, data, _parse_viewpoint(view))
            self.write(f"data: {json.dumps({'k': 's', 's': state, 'g': 'given'})}\n\n")
            await self.flush()
        self.closed = asyncio.Event()
        await self.closed.wait()

    def on_connection_close(self) -> None:
        if hasattr(self, "closed"):
            self.closed.set()


def _parse_viewpoint(view: str) -> Viewpoint | None:
    """Return the viewpoint of an address, or None if it has none."""
    match = _VIEWPOINT.match(view)
    if match is None:
        return None
    z, y, x, side = (float(part) for part in match.groups())
    return Viewpoint(int(z), y, x, side)


class _ClientState(_Handler):
    """Accept the client's state after a change by its user; it is not kept."""

    def post(self) -> None:
        self.finish({"g": "seen"})


class _Data(_Handler):
    """Send served files, whole or by range."""

    async def head(self, name: str, path: str) -> None:
        await self.get(name, path)

    async def get(self, name: str, path: str) -> None:
        source = self.site.files.get(name)
        path = unquote(path)
        if source is None or any(part in ("", ".", "..") for part in path.split("/")):
            raise HTTPError(HTTPStatus.NOT_FOUND)
        loop = asyncio.get_running_loop()
        try:
            size = await loop.run_in_executor(self.pool, source.size, path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise HTTPError(HTTPStatus.NOT_FOUND) from error
        except SsemDaskError as error:
            raise HTTPError(HTTPStatus.BAD_GATEWAY, reason="The data cannot be read") from error
        start, stop = self._requested_range(size)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header(
            "Content-Type", "application/json" if path.endswith((".json", ".zattrs")) else "application/octet-stream"
        )
        self.set_header("Content-Length", str(stop - start))
        if self.request.method == "GET" and stop > start:
            content = await loop.run_in_executor(self.pool, lambda: source.read(path, start=start, stop=stop))
            self.write(content)
        await self.finish()

    def _requested_range(self, size: int) -> tuple[int, int]:
        """Return the requested bytes (start, stop), and set status and headers."""
        requested = _RANGE.match(self.request.headers.get("Range", ""))
        if requested is None or not any(requested.groups()):
            return 0, size
        first, last = requested.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= stop:
            self.set_header("Content-Range", f"bytes */{size}")
            raise HTTPError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        self.set_status(HTTPStatus.PARTIAL_CONTENT)
        self.set_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        return start, stop
