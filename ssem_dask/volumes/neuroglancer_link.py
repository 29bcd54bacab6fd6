"""A link to neuroglancer on the web that opens an exported volume, if browsers can reach where it was written."""

import json
from typing import Any
from urllib.parse import quote

from ssem_dask.storage.exports.precomputed import PrecomputedTarget
from ssem_dask.storage.exports.target import Target
from ssem_dask.storage.exports.zarr_image import ZarrImageTarget
from ssem_dask.storage.exports.zarr_v3 import ZarrV3Target
from ssem_dask.volumes.export_plan import ExportPlan

VIEWER = "https://neuroglancer-demo.appspot.com"
_REACHED = ("s3://", "gs://", "http://", "https://")


def neuroglancer_state(target: Target) -> dict[str, Any] | None:
    """Return the state that shows an exported volume; None if neuroglancer has no source for it."""
    if isinstance(target, PrecomputedTarget):
        source = f"{target.url}/|neuroglancer-precomputed:"
    elif isinstance(target, ZarrImageTarget):
        source = f"{target.url}/|{'zarr3' if isinstance(target, ZarrV3Target) else 'zarr2'}:"
    else:
        return None
    z, y, x = target.info.shape
    pixel, thickness = target.info.pixel_size * 1e-9, target.info.section_thickness * 1e-9
    return {
        "dimensions": {"x": [pixel, "m"], "y": [pixel, "m"], "z": [thickness, "m"]},
        "position": [x / 2, y / 2, z / 2],
        "crossSectionScale": max(y, x) / 700,
        "layers": [
            {
                "type": "segmentation" if target.labels else "image",
                "name": target.url.rstrip("/").rpartition("/")[2],
                "source": source,
            }
        ],
        "layout": "4panel",
    }


def link_note(plan: ExportPlan) -> str | None:
    """Return a sentence with the link to what was exported; None if there is none."""
    link = neuroglancer_link(plan.target) if isinstance(plan.target, Target) else None
    if link is None:
        return None
    version = ", and neuroglancer must be of August 2026 or later" if isinstance(plan.target, ZarrV3Target) else ""
    return f"To look at it in neuroglancer (the store must allow other origins{version}): {link}"


def neuroglancer_link(target: Target) -> str | None:
    """Return a link that shows an exported volume; None if it is where browsers cannot reach it."""
    state = neuroglancer_state(target)
    if state is None or not target.url.startswith(_REACHED):
        return None
    return f"{VIEWER}/#!{quote(json.dumps(state, separators=(',', ':')), safe='')}"
