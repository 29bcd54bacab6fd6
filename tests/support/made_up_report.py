"""Data of a report, made up, of any size."""

from typing import Any

import numpy as np

from ssem_dask.geometry.box import Box
from ssem_dask.report.ledger_summary import OK, LedgerSummary
from ssem_dask.report.report_data import ReportData, RunHeader
from ssem_dask.storage.quality import CUTS, SECTION_COLUMNS, TIMES, WINDOW_COLUMNS, QualityInfo


def report_data(
    *, sections: int, side: int, cut: int, seed: int = 0, url: str = "out.zarr", **changes: Any
) -> ReportData:
    """Return noise of any size, which is the hardest to compress."""
    chance = np.random.default_rng(seed)
    count = side // 512
    shape = (sections, side, side)
    run = RunHeader(
        url=url,
        source="in.zarr",
        state="complete",
        section_names=(),
        config_digest="ab" * 32,
        neighbours=3,
        depth=8,
        volume={},
        parameters=(),
        versions=(),
    )
    codes = np.full((sections, count, count), OK, np.uint8)
    values: dict[str, Any] = {
        "run": run,
        "shape": shape,
        "pixel_size": 4.0,
        "section_thickness": 40.0,
        "window": (512, 512),
        "ledger": LedgerSummary(stages={}, window_codes=codes, failed=[], remarks=[], busy_seconds=0.0),
        "quality": QualityInfo(
            shape_mip0=shape, window=(512, 512), probe=Box((0, 0, 0), (sections, cut, cut)), similarity_mip=0
        ),
        "sections": {name: chance.random(sections, np.float32) for name in SECTION_COLUMNS},
        "windows": {name: chance.random((sections, count, count), np.float32) for name in WINDOW_COLUMNS},
        "reslices": {(c, t): chance.integers(1, 255, (sections, cut), np.uint8) for c in CUTS for t in TIMES},
        "coarse_state": np.ones(sections, np.uint8),
        "evaluation": None,
        "findings": (),
    }
    return ReportData(**{**values, **changes})
