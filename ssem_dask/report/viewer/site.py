"""From a run to what its viewer serves and shows."""

from functools import cache
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError, SsemDaskError
from ssem_dask.report.hotspots import stands_out, worst_places
from ssem_dask.report.report_data import Material, collect
from ssem_dask.report.viewer.http import Site, Spot
from ssem_dask.report.viewer.layers import Nodes, Shown, intensity_limits, make_state
from ssem_dask.report.viewer.live_coarse import serve_coarse
from ssem_dask.report.viewer.served import Folder, Served, serve_volume
from ssem_dask.report.viewer.viewer_address import run_mark
from ssem_dask.storage.arrays import is_node
from ssem_dask.storage.fields import open_field
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.volume import Volume

_AT_LEAST = 3
_NODES = {"confidence": "confidence (0 … 1, coarse-aligned)", "uncertainty": "uncertainty (px)"}


def make_site(run: str, *, labels: str | None, worst: int) -> tuple[Site, list[str]]:
    """All that there is to see of a run.

    Args:
        run: URL of the run.
        labels: URL of a segmentation in the frame of the aligned volume, or None.
        worst: how many of the worst places are marked.

    Returns:
        The site, and a line about everything that is missing.

    Raises:
        SourceError: there is no run, or nothing of it can be shown yet.
        OutputError: something else is there.
    """
    attributes = read_run(run)
    things: dict[str, Served] = {}
    missing: list[str] = []
    volumes: dict[str, Volume] = {}
    try:
        volumes["source"] = Volume.open(attributes["source"], **attributes["config"]["volume"])
        things["source"] = serve_volume(volumes["source"])
        coarse = join(run, "fields", "coarse")
        if is_node(coarse):
            things["coarse"] = serve_coarse(volumes["source"], coarse=coarse)
    except SsemDaskError as error:
        missing.append(f"The source cannot be shown: {error}")
    aligned = join(run, "aligned")
    if is_node(aligned):
        volumes["aligned"] = Volume.open(aligned)
        things["aligned"] = Folder(aligned)
    else:
        missing.append("There is no aligned volume yet.")
    if not volumes:
        raise SourceError(f"{run}: nothing of it can be shown yet. {' '.join(missing)}")
    nodes, spacing = _node_arrays(run, things)
    volume = next(reversed(volumes.values()))
    segmentation = None if labels is None else _labels(labels, like=volume)
    if segmentation is not None:
        things["labels"] = serve_volume(segmentation)
    formats: dict[str, int] = {name: found.zarr_format for name, found in volumes.items()} | {"coarse": 3}
    images: dict[str, int] = {name: formats[name] for name in ("source", "coarse", "aligned") if name in things}

    @cache
    def shown() -> Shown:
        # On the first look, since a long ledger takes a while.
        material = collect(run)
        places = worst_places(material, count=worst)
        # What lies within the usual scatter would only hide the rest: a small volume would be full of boxes.
        marked = [place for place in places if stands_out(place)] or places[:_AT_LEAST]
        return Shown(
            info=volume.info,
            images=images,
            nodes=[
                Nodes(name=name, title=_NODES[name], leading=leading, high=_high(name, material))
                for name, leading in nodes.items()
            ],
            spacing=spacing,
            labels=None if segmentation is None else segmentation.zarr_format,
            limits=intensity_limits(volume),
            places=marked,
            window=material.window,
        )

    def state(data: str, spot: Spot | None) -> dict[str, Any]:
        return make_state(shown(), data=data, spot=spot)

    return Site(run_mark(attributes), things, state), missing


def _node_arrays(run: str, things: dict[str, Served]) -> tuple[dict[str, int], int]:
    """Adds the node arrays that there are; their numbers of axes before z, and their spacing."""
    found: dict[str, int] = {}
    spacing = 1
    for name in _NODES:
        url = join(run, "fields", name)
        if is_node(url):
            array, info = open_field(url)
            things[name] = Folder(url)
            found[name] = array.ndim - 3
            spacing = info.spacing
    return found, spacing


def _high(name: str, material: Material) -> float:
    """The largest value of a colour scale."""
    values = material.sections["uncertainty"]
    known = values[np.isfinite(values)]
    return 2.0 * float(np.median(known)) if name == "uncertainty" and known.size else 1.0


def _labels(url: str, *, like: Volume) -> Volume:
    volume = Volume.open(url, like=like.info)
    if volume.info.shape != like.info.shape:
        raise SourceError(
            f"Labels {url}: their shape is {volume.info.shape}, but that of the aligned volume is {like.info.shape}; "
            "give a segmentation of the aligned sections ('ssem-dask warp --labels' makes one of the source's)."
        )
    return volume
