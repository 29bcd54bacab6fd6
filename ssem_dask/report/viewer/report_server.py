"""The HTTP server of `ssem-dask report --serve`: one page, for the holder of its key.

/?key=KEY     leads to the page
/report/KEY   the page
"""

from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from ssem_dask.report.viewer.access import DoorHandler, GuardedHandler, new_key
from ssem_dask.report.viewer.loopback_server import LoopbackServer

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_SENTENCE = "This page needs its key: open the address that 'ssem-dask report --serve' printed."


class ReportServer(LoopbackServer):
    """The server; it runs in the event loop in which it is started."""

    def __init__(self, html: str) -> None:
        """Make the server of a finished page."""
        self.key = new_key()
        super().__init__(
            [(r"/", _Door), (r"/favicon\.ico", _NoIcon), (r"/report/([0-9a-f]+)", _Page)],
            shared={"page": html.encode(), "key": self.key},
            threads=1,
            port_taken="report: port {port} cannot be used ({error}); stop the program that uses it, or choose another "
            "--port.",
        )


class _Handler(GuardedHandler):
    def initialize(self, page: bytes, pool: ThreadPoolExecutor, key: str) -> None:
        self.page = page
        self.pool = pool
        self.key = key


class _Door(_Handler, DoorHandler):
    """Lead to the page."""

    sentence = _SENTENCE

    def get(self) -> None:
        self.check_key(self.get_query_argument("key", ""))
        self.lead_to(f"/report/{self.key}")


class _NoIcon(_Handler):
    """Answer requests for an icon, which browsers always send, with nothing."""

    def get(self) -> None:
        self.set_status(HTTPStatus.NO_CONTENT)


class _Page(_Handler):
    """Send the page."""

    policy = _POLICY

    def get(self, key: str) -> None:
        self.check_key(key)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(self.page)
