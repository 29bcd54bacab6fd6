"""Look at a run: its report, its figures, its volumes in the browser."""

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ssem_dask.api.sources import Place, url_of
from ssem_dask.errors import ConfigError
from ssem_dask.evaluation import protocol
from ssem_dask.extras import require_extra
from ssem_dask.report import comparison
from ssem_dask.storage.evaluation_file import Evaluation

_WORST_PLACES = 24
_START_SECONDS = 30.0


def report(run: Place, file: str | os.PathLike[str] | None = None, *, worst: int = _WORST_PLACES) -> Path:
    """Write one HTML file about a run: how good it is, what failed, and where to look. Needs the extra `report`.

    Args:
        run: path or URL of the run, which need not be finished.
        file: file to write; None: beside the run.
        worst: number of worst places to show.

    Returns:
        The path of the file.

    Raises:
        SourceError: there is no run.
        OutputError: the file cannot be written.

    Examples:
        >>> import ssem_dask
        >>> ssem_dask.report("aligned.zarr", "report.html").name
        'report.html'
    """
    require_extra("report", purpose="report")
    from ssem_dask.report.page import make_report
    from ssem_dask.report.page_file import default_file, write_page

    url = url_of(run)
    made = make_report(url, worst=worst, viewer=None)
    return write_page(made.html, default_file(url) if file is None else Path(file), what="Report")


def write_report(run: Place, file: str | os.PathLike[str] | None = None, *, worst: int = _WORST_PLACES) -> Path:
    """Write a report; see `report`, of which this is the longer name."""
    return report(run, file, worst=worst)


def evaluate(
    run: Place,
    *,
    truth: Place | None = None,
    labels: Place | None = None,
    undeformed_run: Place | None = None,
    fields: Sequence[Place] = (),
) -> Evaluation:
    """Measure jitter, drift, similarity, label overlap and folds of a run.

    Args:
        run: path or URL of the run.
        truth: the simulated volume that was aligned; adds errors in px.
        labels: labels in the frame of the run's source; None: those of `truth`, if it has any.
        undeformed_run: an alignment, by the same method, of the undeformed sections.
        fields: other alignments of the same source, which become further rows.

    Raises:
        SsemDaskError: something is missing, unfinished, or has another shape than the run.

    Examples:
        >>> import ssem_dask
        >>> figures = ssem_dask.evaluate("aligned.zarr", truth="volume.zarr")
        >>> [row.name for row in figures.rows][:3]
        ['observed', 'coarse', 'aligned']
        >>> figures.value("aligned", "jitter_rms") < figures.value("observed", "jitter_rms")
        True
    """
    places = {"truth": truth, "labels": labels, "undeformed_run": undeformed_run}
    given: dict[str, Any] = {name: url_of(place) for name, place in places.items() if place is not None}
    return protocol.evaluate(url_of(run), **given, fields=[url_of(place) for place in fields])


def compare(run_a: Place, run_b: Place, *, other_source: bool = False) -> comparison.Comparison:
    """Compare two runs on the same source: settings, fields, quality, places.

    Args:
        run_a: path or URL of a run.
        run_b: path or URL of another run.
        other_source: compare although the runs name other sources.

    Raises:
        SsemDaskError: one of them is no run, or their sources differ.

    Examples:
        >>> import ssem_dask
        >>> len(ssem_dask.compare("aligned.zarr", "aligned.zarr").settings)
        0
    """
    return comparison.compare(url_of(run_a), url_of(run_b), other_source=other_source)


def view(
    run: Place,
    *,
    volume: Place | None = None,
    volume_holds_labels: bool = False,
    labels: Place | None = None,
    source: Place | None = None,
    port: int = 0,
    worst: int = _WORST_PLACES,
) -> "Viewer":
    """Show a run in neuroglancer: serve it until the viewer is closed. Needs the extra `view`.

    Args:
        run: path or URL of the run.
        volume: another volume of the source's sections, which is warped as it is looked at.
        volume_holds_labels: the values of that volume are ids.
        labels: a segmentation of the aligned sections.
        source: place to which the source was moved; None: where the run has recorded it.
        port: port on loopback; 0 takes a free one.
        worst: number of worst places to mark.

    Returns:
        The viewer: `.url` to open in a browser, `.close()`; a notebook shows it as a link.

    Raises:
        SourceError: there is no run, or nothing of it can be shown yet.
        ConfigError: the port is taken.

    Examples:
        >>> import ssem_dask
        >>> with ssem_dask.view("aligned.zarr") as viewer:
        ...     viewer.url.startswith("http://127.0.0.1:")
        True
    """
    require_extra("view", purpose="view")
    from ssem_dask.report.viewer.site import make_site

    def optional(place: Place | None) -> str | None:
        return None if place is None else url_of(place)

    site, missing = make_site(
        url_of(run),
        labels=optional(labels),
        worst=worst,
        source=optional(source),
        volume=optional(volume),
        volume_holds_labels=volume_holds_labels,
    )
    return Viewer(site, port=port, missing=missing)


class Viewer:
    """A viewer that is served by a thread of this process."""

    def __init__(self, site: Any, *, port: int, missing: list[str]) -> None:
        """Start to serve; ConfigError if the port is taken."""
        self.missing = missing
        """A line about everything that cannot be shown."""
        self._loop = asyncio.new_event_loop()
        self._site, self._port, self._server = site, port, None
        self._error: ConfigError | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="ssem-dask view")
        self._thread.start()
        self._started.wait(_START_SECONDS)
        if self._error is not None:
            raise self._error
        self.url = f"http://127.0.0.1:{self._port}/?key={site.key}"
        """Address of the page, with its key: whoever has it can read the volume."""

    def close(self) -> None:
        """Stop serving."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Viewer({self.url})"

    def _repr_html_(self) -> str:
        return f'<a href="{self.url}" target="_blank">Open the viewer</a>'

    def _serve(self) -> None:
        from ssem_dask.report.viewer.http import ViewerServer

        asyncio.set_event_loop(self._loop)

        async def start() -> ViewerServer:
            server = ViewerServer(self._site)
            self._port = server.start(port=self._port)
            return server

        try:
            server = self._loop.run_until_complete(start())
        except ConfigError as error:
            self._error = error
            self._started.set()
            return
        self._started.set()
        try:
            self._loop.run_forever()
        finally:
            server.stop()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()
