"""N5 and neuroglancer-precomputed, read by TensorStore, an optional package.

Both store x before y before z; this module transposes them (C1). The finest level of a multiscale volume is read.
"""

import contextlib
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.source import SourceInfo, decoding, length_in_nm
from ssem_dask.storage.tensorstores import kvstore_spec, tensorstore
from ssem_dask.storage.untrusted import JSON_OBJECT, interpreting, read_hint
from ssem_dask.types import AnyArray

_N5, _PRECOMPUTED = "attributes.json", "info"
_FINEST = "s0"  # of a multiscale N5 group


def is_n5(url: str) -> bool:
    """Return whether there is an N5 dataset, or a group of scales `s0`, `s1`, …, at `url`."""
    return _n5_dataset(url) is not None


def is_precomputed(url: str) -> bool:
    """Return whether there is a neuroglancer-precomputed volume at `url`, which may begin with `precomputed://`."""
    return "scales" in (_read_json(location.join(_plain(url), _PRECOMPUTED)) or {})


class TensorStoreSource:
    """One N5 dataset or precomputed volume."""

    def __init__(self, url: str) -> None:
        """Open the volume.

        Raises:
            SourceError: TensorStore is not installed, cannot reach the location, or finds more than one channel.
        """
        self._url = url
        place = _plain(url)
        if is_precomputed(url):
            metadata = _read_json(location.join(place, _PRECOMPUTED)) or {}
            spec: dict[str, Any] = {
                "driver": "neuroglancer_precomputed",
                "kvstore": kvstore_spec(place),
                "scale_index": 0,
            }
            with interpreting(url, what="its file info"):
                pixel_size, thickness = _sizes(metadata["scales"][0].get("resolution"), unit="nm")
        else:
            dataset = _n5_dataset(place) or place
            metadata = _read_json(location.join(dataset, _N5)) or {}
            spec = {"driver": "n5", "kvstore": kvstore_spec(dataset)}
            resolution = metadata.get("pixelResolution") or {"dimensions": metadata.get("resolution"), "unit": "nm"}
            with interpreting(url, what="its file attributes.json"):
                pixel_size, thickness = _sizes(resolution.get("dimensions"), unit=str(resolution.get("unit", "nm")))
        with decoding(url):
            array = tensorstore(url).open(spec, read=True, open=True).result()
        if array.rank == 4 and array.shape[3] == 1:
            array = array[..., 0]
        if array.rank != 3:
            raise SourceError(
                f"{url}: has shape {tuple(array.shape)} (x first), but a volume has one channel; split it."
            )
        # A precomputed volume may begin anywhere.
        self._array = array.T[tensorstore(url).d[:].translate_to[0]]
        z, y, x = self._array.shape
        self.info = SourceInfo(
            shape=(z, y, x),
            dtype=np.dtype(self._array.dtype.numpy_dtype).newbyteorder("="),
            pixel_size=pixel_size,
            section_thickness=thickness,
        )

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`."""
        with decoding(f"{self._url} sections {z_start} to {z_stop - 1}"):
            values = self._array[z_start:z_stop, y_start:y_stop].read().result()
        return np.ascontiguousarray(values, dtype=self.info.dtype)

    def close(self) -> None:
        """Do nothing: no file is open."""


def _plain(url: str) -> str:
    return url.removeprefix("precomputed://")


def _n5_dataset(url: str) -> str | None:
    """Return the URL of the dataset at `url`, or of the finest level in it."""
    for place in (url, location.join(url, _FINEST)):
        if "dimensions" in (_read_json(location.join(place, _N5)) or {}):
            return place
    return None


def _read_json(url: str) -> dict[str, Any] | None:
    # A file that cannot be read counts as none: this only finds out the format, and opening the volume reports errors.
    with contextlib.suppress(OSError):
        return read_hint(url, JSON_OBJECT)
    return None


def _sizes(resolution: Any, *, unit: str) -> tuple[float | None, float | None]:
    """Return pixel size and section thickness, nm, of a resolution (x, y, z); None if the file has none."""
    if not isinstance(resolution, list) or len(resolution) < 3:
        return None, None
    x, y, z = (length_in_nm(float(n), unit=unit) for n in resolution[:3])
    return (x if x == y else None), z
