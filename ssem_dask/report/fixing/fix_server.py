"""The HTTP server of `ssem-dask fix`: its page, tiles of sections, and requests that change the file of fixes.

    /?key=KEY                                   leads to the page
    /p/KEY/FILE                                 the page and its files
    /api/KEY/overview, state, section/Z         JSON
    /api/KEY/tile/VIEW/MIP/Z/ROW/COLUMN         PNG
    /api/KEY/edit, undo, redo, apply, stop, map JSON, by POST

Nothing is answered without the key, nor under another host name, nor to pages of other origins (see `access`). What
changes something comes by POST with the origin of this server and as JSON: no form and no link of another page can
send that.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from tornado.web import HTTPError
from typing_extensions import TypedDict

from ssem_dask.errors import ConfigError, SsemDaskError
from ssem_dask.report.fixing.fix_session import FixSession, Operation
from ssem_dask.report.fixing.fixes_file import StaleError
from ssem_dask.report.viewer.access import DoorHandler, GuardedHandler, new_key
from ssem_dask.report.viewer.loopback_server import LoopbackServer

T = TypeVar("T")
MAX_BODY = 1 << 20
"""Largest request in bytes; a polygon of 5,000 points has 100 kB."""
_THREADS = 6
_PAGE_FILES = {
    "": ("fix.html", "text/html"),
    "fix.css": ("fix.css", "text/css"),
    "fix.js": ("fix.js", "text/javascript"),
    "panel.js": ("panel.js", "text/javascript"),
    "tables.js": ("tables.js", "text/javascript"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SENTENCE = "This page needs its key: open the address that 'ssem-dask fix' printed, in this browser."


class _Versioned(TypedDict):
    version: Annotated[str, Field(max_length=100)]


class _Edit(_Versioned):
    label: Annotated[str, Field(min_length=1, max_length=200)]
    operations: Annotated[list[Operation], Field(min_length=1, max_length=100)]


_Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]


class _Map(TypedDict):
    z: Annotated[int, Field(ge=0)]
    to: Literal["source", "view"]
    points: Annotated[list[tuple[_Number, _Number]], Field(max_length=5000)]


_VERSIONED, _EDIT, _MAP = TypeAdapter(_Versioned), TypeAdapter(_Edit), TypeAdapter(_Map)


class FixServer(LoopbackServer):
    """The server; it runs in the event loop in which it is started."""

    def __init__(self, session: FixSession, *, key: str | None = None) -> None:
        self.key = key or new_key()
        super().__init__(
            [
                (r"/", _Door),
                (r"/favicon\.ico", _NoIcon),
                (r"/p/([0-9a-f]+)/([\w.]*)", _Page),
                (r"/api/([0-9a-f]+)/tile/(\w+)/(\d{1,3})/(\d{1,9})/(\d{1,9})/(\d{1,9})", _Tile),
                (r"/api/([0-9a-f]+)/(overview|state|section/\d{1,9})", _Read),
                (r"/api/([0-9a-f]+)/(edit|undo|redo|apply|stop|map)", _Post),
            ],
            shared={"session": session, "key": self.key},
            threads=_THREADS,
            port_taken="fix: port {port} cannot be used ({error}); somebody may have this page open already; stop the "
            "program that uses it, or choose another --port.",
            largest_body=MAX_BODY,
        )


class _Handler(GuardedHandler):
    def initialize(self, session: FixSession, pool: ThreadPoolExecutor, key: str) -> None:
        self.session = session
        self.pool = pool
        self.key = key

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    def write_error(self, status_code: int, **_: object) -> None:  # noqa: ARG002  Tornado's signature
        """Answer with a sentence as JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish({"error": self._reason})


class _Door(_Handler, DoorHandler):
    """Lead to the page."""

    sentence = _SENTENCE

    def get(self) -> None:
        self.check_key(self.get_query_argument("key", ""))
        self.lead_to(f"/p/{self.key}/")

    def write_error(self, status_code: int, **values: object) -> None:
        """See `DoorHandler.write_error`."""
        DoorHandler.write_error(self, status_code, **values)


class _NoIcon(_Handler):
    """Answer requests for an icon, which browsers always send, with nothing."""

    def get(self) -> None:
        self.set_status(HTTPStatus.NO_CONTENT)


class _Page(_Handler):
    """Send the page and its files."""

    policy = _POLICY

    def get(self, key: str, name: str) -> None:
        self.check_key(key)
        if name not in _PAGE_FILES:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        file, kind = _PAGE_FILES[name]
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        self.finish(files("ssem_dask.report").joinpath("assets", "fix", file).read_bytes())


class _Tile(_Handler):
    """Send a tile of a section."""

    async def get(self, key: str, view: str, *numbers: str) -> None:
        self.check_key(key)
        mip, z, row, column = map(int, numbers)
        views = self.session.views
        try:
            content = await self.in_thread(lambda: views.tile(view, mip=mip, z=z, row=row, column=column))
        except FileNotFoundError as error:
            raise HTTPError(HTTPStatus.NOT_FOUND, reason="There is no such tile") from error
        except (SsemDaskError, OSError) as error:
            raise HTTPError(HTTPStatus.BAD_GATEWAY, reason="The section cannot be read") from error
        self.set_header("Content-Type", "image/png")
        await self.finish(content)


class _Read(_Handler):
    """Send the state, or what is known of a section."""

    async def get(self, key: str, name: str) -> None:
        self.check_key(key)
        session = self.session
        try:
            if name.startswith("section/"):
                z = int(name.removeprefix("section/"))
                answer = await self.in_thread(lambda: session.section(z))
            else:
                answer = await self.in_thread(session.overview if name == "overview" else session.state)
        except IndexError as error:
            raise HTTPError(HTTPStatus.NOT_FOUND, reason="There is no such section") from error
        except SsemDaskError as error:
            await _refuse(self, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        await self.finish(answer)


class _Post(_Handler):
    """Change something, or map points."""

    def prepare(self) -> None:
        """Refuse what a page of another origin could send: requests without origin, and forms."""
        super().prepare()
        if self.request.method != "POST":
            raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)
        if self.request.headers.get("Origin") is None:
            raise HTTPError(HTTPStatus.FORBIDDEN, reason="Only the page of this server may change something")
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            raise HTTPError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason="Only JSON is accepted")

    async def post(self, key: str, name: str) -> None:
        self.check_key(key)
        try:
            answer = await self.in_thread(self._work(name))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            await _refuse(
                self, HTTPStatus.BAD_REQUEST, f"The request is wrong at {place or 'its start'}: {first['msg']}."
            )
        except StaleError as error:
            await _refuse(self, HTTPStatus.CONFLICT, str(error))
        except ConfigError as error:
            await _refuse(self, HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (SsemDaskError, OSError) as error:
            await _refuse(self, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except (FileNotFoundError, ValueError) as error:
            raise HTTPError(HTTPStatus.NOT_FOUND, reason="There is no such view") from error
        else:
            await self.finish(answer)

    def _work(self, name: str) -> Callable[[], dict[str, Any]]:
        """Return what a request asks for; ValidationError if it is not well formed."""
        session, body = self.session, self.request.body
        if name == "edit":
            edit = _EDIT.validate_json(body)
            return lambda: session.edit(edit["version"], edit["label"], edit["operations"])
        if name == "map":
            wanted = _MAP.validate_json(body)
            return lambda: {"points": _mapped(session, wanted)}
        version = _VERSIONED.validate_json(body)["version"]
        if name == "apply":
            return lambda: {"started": session.apply(version), "job": session.job.state()}
        if name == "stop":
            return session.stop
        return lambda: session.undo(version) if name == "undo" else session.redo(version)


def _mapped(session: FixSession, wanted: _Map) -> list[list[float] | None]:
    """Return points mapped between the view `result` and the source; None where that is not known."""
    points = np.array([[wanted["z"], y, x] for y, x in wanted["points"]], dtype=np.float64).reshape(-1, 3)
    map_points = session.views.to_source if wanted["to"] == "source" else session.views.from_source
    mapped = map_points("result", points)
    return [None if not np.isfinite(point).all() else [float(point[1]), float(point[2])] for point in mapped]


async def _refuse(handler: _Handler, status: HTTPStatus, sentence: str) -> None:
    handler.set_status(status)
    await handler.finish({"error": sentence})
