"""Small volumes to import, and a check that an import is refused and leaves nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ssem_dask.errors import SourceError, SsemDaskError
from ssem_dask.storage.volume import Volume
from ssem_dask.volumes.importing import import_volume

SIZES: dict[str, Any] = {"pixel_size": 4.0, "section_thickness": 40.0}
SMALL: dict[str, Any] = {"chunk": (1, 16, 16), "shard": (2, 32, 32)}


def sections(count: int = 6, *, dtype: str = "uint8") -> np.ndarray:
    """Return noise of 40 × 50 px per section."""
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (count, 40, 50), dtype=dtype)


def write_series(folder: Path, values: np.ndarray) -> Path:
    """Write a TIFF file per section into a new folder."""
    folder.mkdir()
    for z, section in enumerate(values):
        tifffile.imwrite(folder / f"s{z}.tif", section)
    return folder


def check_refused(
    source: Path | str,
    destination: Path | str,
    *sentence: str,
    error: type[SsemDaskError] = SourceError,
    **options: Any,
) -> None:
    """Check that an import ends in one sentence with the parts of `sentence`, and leaves no volume."""
    with pytest.raises(error) as caught:
        import_volume(str(source), str(destination), **{**SIZES, **SMALL, **options})
    message = str(caught.value)
    assert "\n" not in message
    for part in sentence:
        assert part in message
    if not Path(str(destination)).exists():
        return
    with pytest.raises(SourceError):
        Volume.open(str(destination))
