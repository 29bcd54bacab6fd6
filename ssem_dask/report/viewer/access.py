"""Who may read what the viewer serves: the holder of its key, from its own pages.

A *key* is a random number per start of the viewer. It is part of the address that the command prints, and of every
address that answers with content; nothing else ever contains it. So other users of the machine, who reach loopback too,
and pages of other origins get nothing.

The key is not in a cookie, because browsers send cookies to all ports of a host, so also to servers of other users. The
pages at `/` and `/at` keep it in `localStorage`, which belongs to one port: a link of a report, which cannot know the
key, opens if the printed address was opened in the same browser before.
"""

import base64
import hashlib
import hmac
import html
import re
import secrets
from http import HTTPStatus
from typing import ClassVar
from urllib.parse import urlsplit

from tornado.web import HTTPError, RequestHandler

from ssem_dask.errors import ConfigError

_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
_HOST = re.compile(r"^(?P<name>\[[^\]]*\]|[^:]*)(:\d+)?$")
_KEY_BYTES = 32

# Runs on the pages at / and /at. `data-go` is where to go next, if the key of this request was right.
_SCRIPT = """
const address = new URL(location.href), name = "ssem-dask-view";
const go = document.documentElement.dataset.go;
if (go) {
  localStorage.setItem(name, address.searchParams.get("key"));
  location.replace(go);
} else if (address.searchParams.has("key")) {
  if (localStorage.getItem(name) === address.searchParams.get("key")) localStorage.removeItem(name);
} else if (localStorage.getItem(name)) {
  address.searchParams.set("key", localStorage.getItem(name));
  location.replace(address.href);
}
"""
_SCRIPT_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_PAGE_POLICY = f"default-src 'none'; script-src 'sha256-{_SCRIPT_DIGEST}'; base-uri 'none'; frame-ancestors 'none'"
_SENTENCE = (
    "This page needs the key of the viewer: open the address that 'ssem-dask view' printed, in this browser; then the "
    "links of the report open too."
)
CLIENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; worker-src 'self' blob:; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' data: blob: https: http:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of neuroglancer's client, which compiles functions and shows layers of any server."""
_DATA_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"


def new_key() -> str:
    """Return a key that nobody can guess, as hexadecimal digits."""
    return secrets.token_hex(_KEY_BYTES)


def parse_origin(origin: str) -> str:
    """Check an origin to which data may be given.

    Args:
        origin: scheme, host and port of a site, for example `https://neuroglancer-demo.appspot.com`.

    Raises:
        ConfigError: it is not one origin.
    """
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise ConfigError(
            f"view --allow-origin: {origin!r} is not one origin; give scheme and host of the site, without a path, for "
            "example https://neuroglancer-demo.appspot.com."
        )
    if not parts.hostname or "*" in parts.netloc:
        raise ConfigError(f"view --allow-origin: {origin!r} names no host; give one site, not a pattern.")
    return origin.lower()


class GuardedHandler(RequestHandler):
    """Answers only under a loopback name, to its own pages, and to requests that hold the key."""

    policy: ClassVar[str] = _DATA_POLICY
    """Content-Security-Policy of the answers."""
    allowed: frozenset[str] = frozenset()
    """Foreign origins that may read the answers."""
    key: str

    def prepare(self) -> None:
        """Refuse requests under another host name, and requests of pages of other origins."""
        host = _HOST.match(self.request.host)
        # Another name means DNS rebinding: a site that points its own name at this server.
        if host is None or host["name"].lower() not in _LOOPBACK:
            raise HTTPError(HTTPStatus.FORBIDDEN, reason="This server answers on loopback only")
        origin = self.request.headers.get("Origin")
        if origin is not None and origin != f"{self.request.protocol}://{self.request.host}":
            if origin.lower() not in self.allowed:
                raise HTTPError(HTTPStatus.FORBIDDEN, reason="Pages of other origins get nothing")
            self._allow(origin)

    def check_key(self, given: str) -> None:
        """Raise HTTPError unless `given` is the key; takes the same time for every wrong one."""
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise HTTPError(HTTPStatus.FORBIDDEN, reason="The key of this viewer is missing")

    def set_default_headers(self) -> None:
        """Set the headers of every answer, errors included."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", self.policy)
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.clear_header("Server")

    def compute_etag(self) -> None:
        """Send no ETag: a digest of every chunk would cost more than it saves."""

    def data_received(self, chunk: bytes) -> None:
        """Ignore uploads: there are none."""

    def _allow(self, origin: str) -> None:
        self.set_header("Access-Control-Allow-Origin", origin)
        self.set_header("Access-Control-Allow-Headers", "Range")
        self.set_header("Access-Control-Expose-Headers", "Accept-Ranges, Content-Range, Content-Length")
        self.set_header("Access-Control-Allow-Private-Network", "true")
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        self.set_header("Vary", "Origin")


class DoorHandler(GuardedHandler):
    """A page that takes the key from its address, or the browser's memory, and leads on."""

    policy = _PAGE_POLICY
    sentence: ClassVar[str] = _SENTENCE
    """Sentence that a request without the key reads."""

    def lead_to(self, path: str) -> None:
        """Answer a request that holds the key."""
        self._page(f"<html data-go='{html.escape(path)}'>", "")

    def write_error(self, status_code: int, **_: object) -> None:
        """Answer a request that has a wrong key or none; the page is the same for all of them."""
        self._page("<html>", self.sentence if status_code == HTTPStatus.FORBIDDEN else self._reason)

    def _page(self, opening: str, sentence: str) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        body = f"<title>ssem-dask</title><p>{html.escape(sentence)}</p><script>{_SCRIPT}</script>"
        self.finish(f"<!doctype html>{opening}<meta charset='utf-8'>{body}</html>")


class UnknownHandler(GuardedHandler):
    """Answers every other address, without saying whether anything is there."""

    def prepare(self) -> None:
        """Refuse everything."""
        super().prepare()
        raise HTTPError(HTTPStatus.FORBIDDEN)
