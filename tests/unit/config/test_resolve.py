"""Sources that no alignment can use are refused before anything is planned."""

from pathlib import Path

import numpy as np
import pytest

from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.errors import SourceError
from ssem_dask.storage.volume import VolumeInfo, create_volume


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": (4, 24, 24)}, "sections are 24 × 24 px, but at least 32 × 32 px are needed"),
        ({"shape": (1, 64, 64)}, "holds a single section"),
        (
            {"section_thickness": 0.05},
            r"sections are 0\.05 nm thick but pixels 5 nm wide, which no series of sections is",
        ),
        ({"dtype": np.dtype("uint32")}, "images are uint32, but must be uint8 or uint16"),
        (
            {"channels": ("BSD", ""), "channel": None},
            r"has 2 channels: 0 \(BSD\), 1; choose the one to align by with --channel",
        ),
    ],
)
def test_a_source_that_cannot_be_aligned(changes: dict[str, object], sentence: str, tmp_path: Path) -> None:
    usual: dict[str, object] = {
        "shape": (4, 64, 64),
        "dtype": np.dtype("uint8"),
        "pixel_size": 5.0,
        "section_thickness": 50.0,
    }
    info = VolumeInfo(**{**usual, **changes})  # type: ignore[arg-type]
    source = create_volume(str(tmp_path / "s.zarr"), info=info, chunk=(1, 64, 64), shard=(4, 64, 64), mips=1)
    with pytest.raises(SourceError, match=sentence):
        resolve(make_config({"source": source.url, "output": str(tmp_path / "o.zarr")}))


def test_the_channel_is_part_of_the_digests_only_if_there_are_channels(tmp_path: Path) -> None:
    digests = {}
    for name, channels in (("none", ()), ("two", ("a", "b"))):
        info = VolumeInfo(
            shape=(4, 64, 64), dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=50.0, channels=channels
        )
        source = create_volume(str(tmp_path / "s.zarr" / name), info=info, chunk=(1, 64, 64), shard=(4, 64, 64), mips=1)
        for channel in (0, 1) if channels else (None,):
            tree = {"source": source.url, "output": str(tmp_path / "o.zarr"), "volume": {"channel": channel}}
            job, choices = resolve(make_config(tree), source_identity="s")
            digests[name, channel] = job.digests["register"]
            assert any("is registered, all of them are warped" in line for line in choices) == bool(channels)
    assert len({*digests.values()}) == 3
