"""Dask's dashboard, loaded when somebody opens it: Bokeh costs a second of CPU time, which a short run would feel."""

from typing import Any

from distributed import Scheduler


def offer_dashboard(scheduler: Scheduler) -> None:
    """Have a scheduler that was started without dashboard serve it from the first request on."""
    scheduler.http_application.applications.append(_LazyDashboard(scheduler))


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
