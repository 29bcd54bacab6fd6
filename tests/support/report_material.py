"""What a report shows, made up, of any size."""

from typing import Any

import numpy as np

from ssem_dask.geometry.box import Box
from ssem_dask.report.ledger_summary import OK, Ended
from ssem_dask.report.report_data import Material
from ssem_dask.storage.quality import CUTS, SECTION_COLUMNS, TIMES, WINDOW_COLUMNS, QualityInfo

CONFIG = {"register": {"sections": 8, "neighbours": 3}}


def material(*, sections: int, side: int, cut: int, seed: int = 0, **changes: Any) -> Material:
    """Noise of any size; the hardest to compress."""
    chance = np.random.default_rng(seed)
    count = side // 512
    shape = (sections, side, side)
    found: dict[str, Any] = {
        "url": "out.zarr",
        "attributes": {"config": CONFIG, "config_digest": "ab" * 32, "source": "in.zarr", "state": "complete"},
        "shape": shape,
        "pixel_size": 4.0,
        "thickness": 40.0,
        "window": (512, 512),
        "ended": Ended({}, np.full((sections, count, count), OK, np.uint8), [], [], 0.0),
        "measured": True,
        "info": QualityInfo(
            shape_mip0=shape, window=(512, 512), probe=Box((0, 0, 0), (sections, cut, cut)), similarity_mip=0
        ),
        "sections": {name: chance.random(sections, np.float32) for name in SECTION_COLUMNS},
        "windows": {name: chance.random((sections, count, count), np.float32) for name in WINDOW_COLUMNS},
        "cuts": {(c, t): chance.integers(1, 255, (sections, cut), np.uint8) for c in CUTS for t in TIMES},
        "state": np.ones(sections, np.uint8),
        "evaluation": None,
        "records": {},
    }
    return Material(**{**found, **changes})
