"""Dask's dashboard of a scheduler in this process: loaded on request, and shown to pages of this machine alone.

It is loaded when somebody opens it, since Bokeh costs a second of CPU time, which a short run would feel.

It listens on the loopback address. A web page from elsewhere can reach that through the browser of a user: by a name of
its own that it resolves to 127.0.0.1 (DNS rebinding), or by a web socket. So the server looks at the names in each
request. Tunnels (`ssh -L`) and `localhost` pass.
"""

from typing import Any
from urllib.parse import urlsplit

from distributed import Scheduler
from tornado.httputil import HTTPServerRequest
from tornado.routing import Router

_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def offer_dashboard(scheduler: Scheduler) -> None:
    """Have a scheduler that was started without dashboard serve it from the first request on."""
    scheduler.http_application.applications.append(_LazyDashboard(scheduler))


def refuse_foreign_pages(scheduler: Scheduler) -> None:
    """Have the HTTP server of a scheduler answer 404 to requests that another page than one of this machine sent."""
    scheduler.http_server.request_callback = _LoopbackRouter(scheduler.http_application)


def is_from_loopback(headers: Any) -> bool:
    """Return whether the headers of a request name this machine by its loopback address, and no page from elsewhere."""
    origin = headers.get("Origin")
    return _name_of(f"//{headers.get('Host', '')}") in _LOOPBACK_NAMES and (
        origin is None or _name_of(origin) in _LOOPBACK_NAMES
    )


class _LoopbackRouter(Router):
    """Passes requests on to an application if `is_from_loopback` says so."""

    def __init__(self, application: Router) -> None:
        self._application = application

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        """Return the application's handler of a request; None, which is answered by 404, of any other request."""
        return self._application.find_handler(request, **options) if is_from_loopback(request.headers) else None


class _LazyDashboard:
    """An application of the scheduler's HTTP server that puts the dashboard in its own place when it is asked."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def find_handler(self, request: Any, **options: Any) -> Any:
        """Load the dashboard; return its handler of a request that nothing else serves, None if Bokeh is missing."""
        application = self._scheduler.http_application
        application.applications.remove(self)
        try:
            from distributed.dashboard.scheduler import connect
        except ImportError:
            return None
        connect(application, self._scheduler.http_server, self._scheduler)
        return application.applications[-1].find_handler(request, **options)


def _name_of(url: str) -> str | None:
    """Return the host name in a URL; None if there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
