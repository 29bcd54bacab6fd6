"""The viewer's HTTP server: neuroglancer's client, the served files with Range, and links to viewpoints.

    /?key=KEY                              the whole volume
    /at?key=KEY&run=…&z=…&y=…&x=…&side=…   a viewpoint; y, x and side in mip-0 px of the aligned section
    /v/VIEW/…                              the client; VIEW is KEY, or KEY-z-y-x-side
    /events/VIEW                           server-sent events: the state that the client opens with
    /state/VIEW                            the client's changes of it
    /data/KEY/NAME/PATH                    bytes

Nothing is answered without the key (see `access`). A link of another run's report leads to a page that says so.

The state is sent as an event, not in the fragment (#) of the address: there the client loses a layer now and then, if
restoring the state takes longer than the 0.2 s after which it rewrites the address.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from neuroglancer import static
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from ssem_dask.errors import SsemDaskError
from ssem_dask.report.viewer.access import CLIENT_POLICY, DoorHandler, GuardedHandler, new_key
from ssem_dask.report.viewer.loopback_server import LoopbackServer
from ssem_dask.report.viewer.served_files import ServedFiles

_THREADS = 8
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_VIEWPOINT = re.compile(r"^-(\d+)-([\d.]+)-([\d.]+)-(\d+)$")
_VIEW = r"([0-9a-f]+)(-[^/]*)?"
"""Pattern of VIEW: key and viewpoint."""
_CLIENT_FILE = re.compile(r"^[\w.-]*$")


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
    """Function from the address of `/data/KEY` and a viewpoint to the client's state."""
    origins: frozenset[str] = frozenset()
    """Foreign origins whose pages may read data, if they know its address."""
    key: str = field(default_factory=new_key, repr=False)


class ViewerServer(LoopbackServer):
    """The server; it runs in the event loop in which it is started."""

    def __init__(self, site: Site) -> None:
        super().__init__(
            [
                (r"/(at)?", _Door),
                (r"/favicon\.ico", _NoIcon),
                (rf"/v/{_VIEW}/(.*)", _Client),
                (rf"/events/{_VIEW}", _Events),
                (rf"/state/{_VIEW}", _ClientState),
                (r"/data/([0-9a-f]+)/([^/]+)/(.*)", _Data),
            ],
            shared={"site": site},
            threads=_THREADS,
            port_taken="view: port {port} cannot be used ({error}); stop the program that uses it, or choose another "
            "--port (and pass the same to 'report --viewer http://127.0.0.1:PORT').",
        )


class _Handler(GuardedHandler):
    def initialize(self, site: Site, pool: ThreadPoolExecutor) -> None:
        self.site = site
        self.pool = pool
        self.key = site.key


class _Door(_Handler, DoorHandler):
    """Lead to the client."""

    def get(self, at: str | None) -> None:
        self.check_key(self.get_query_argument("key", ""))
        place = ""
        if at:
            if self.get_query_argument("run", self.site.token) != self.site.token:
                raise HTTPError(
                    HTTPStatus.NOT_FOUND,
                    reason="This viewer shows another run than the report that linked here. Start 'ssem-dask view' on "
                    "the run of the report.",
                )
            try:
                z, y, x, side = (float(self.get_query_argument(name)) for name in ("z", "y", "x", "side"))
            except ValueError as error:
                raise HTTPError(HTTPStatus.BAD_REQUEST, reason="z, y, x and side are numbers") from error
            place = f"-{z:.0f}-{y:.1f}-{x:.1f}-{side:.0f}"
        self.lead_to(f"/v/{self.key}{place}/")


class _NoIcon(_Handler):
    """Answer requests for an icon, which browsers always send, with nothing."""

    def get(self) -> None:
        self.set_status(HTTPStatus.NO_CONTENT)


class _Client(_Handler):
    """Send neuroglancer's own files."""

    policy = CLIENT_POLICY

    def get(self, key: str, _place: str | None, path: str) -> None:
        self.check_key(key)
        if _CLIENT_FILE.match(path) is None:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        try:
            content, kind = static.get_default_static_content_source().get(path, "")
        except ValueError as error:
            raise HTTPError(HTTPStatus.NOT_FOUND) from error
        self.set_header("Content-Type", kind)
        self.finish(content)


class _Events(_Handler):
    """Send the client its state once, and keep the connection open."""

    async def get(self, key: str, place: str | None) -> None:
        self.check_key(key)
        self.closed = asyncio.Event()
        self.set_header("Content-Type", "text/event-stream")
        # The page was left, or the viewer ends: both are usual.
        with suppress(StreamClosedError, asyncio.CancelledError):
            await self._send(place or "")
            await self.closed.wait()

    async def _send(self, place: str) -> None:
        self.write(": \n\n")
        await self.flush()
        if self.get_query_argument("gs", ""):
            return  # a client that reconnects keeps the view that its user has made
        # The address that the browser used: another port if it comes through ssh.
        data = f"{self.request.protocol}://{self.request.host}/data/{self.key}"
        loop = asyncio.get_running_loop()
        state = await loop.run_in_executor(self.pool, self.site.state, data, _parse_viewpoint(place))
        self.write(f"data: {json.dumps({'k': 's', 's': state, 'g': 'given'})}\n\n")
        await self.flush()

    def on_connection_close(self) -> None:
        if hasattr(self, "closed"):
            self.closed.set()


def _parse_viewpoint(place: str) -> Viewpoint | None:
    """Return the viewpoint of an address, or None if it has none."""
    match = _VIEWPOINT.match(place)
    if match is None:
        return None
    z, y, x, side = (float(part) for part in match.groups())
    return Viewpoint(int(z), y, x, side)


class _ClientState(_Handler):
    """Accept the client's state after a change by its user; it is not kept."""

    def post(self, key: str, _place: str | None) -> None:
        self.check_key(key)
        self.finish({"g": "seen"})


class _Data(_Handler):
    """Send served files, whole or by range."""

    @property
    def allowed(self) -> frozenset[str]:  # type: ignore[override]  # a constant of the other handlers
        """See `GuardedHandler.allowed`."""
        return self.site.origins

    def options(self, _key: str, _name: str, _path: str) -> None:
        # A preflight has no content; the browser sends it without asking the page.
        self.set_status(HTTPStatus.NO_CONTENT)

    async def head(self, key: str, name: str, path: str) -> None:
        await self.get(key, name, path)

    async def get(self, key: str, name: str, path: str) -> None:
        self.check_key(key)
        source = self.site.files.get(name)
        if source is None or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise HTTPError(HTTPStatus.NOT_FOUND)
        loop = asyncio.get_running_loop()
        try:
            size = await loop.run_in_executor(self.pool, source.size, path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, RuntimeError) as error:
            raise HTTPError(HTTPStatus.NOT_FOUND) from error  # RuntimeError: a loop of symbolic links
        except (SsemDaskError, OSError) as error:
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
