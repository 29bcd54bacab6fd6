"""Detection of the format of a location."""

from ssem_dask.errors import SourceError
from ssem_dask.extras import require_extra
from ssem_dask.storage import arrays, location
from ssem_dask.storage.formats.source import HDF5_NAME, IMAGE_SUFFIXES, TIFF, Source
from ssem_dask.storage.formats.tensorstore_array import TensorStoreSource, is_n5, is_precomputed
from ssem_dask.storage.formats.zarr_array import ZarrSource


def open_any_format(url: str) -> Source:
    """Open a volume in any format that can be imported; the caller closes it.

    Args:
        url: a folder or a glob pattern of TIFF, PNG or JPEG files; a multi-page TIFF file; `file.h5` or
            `file.h5:/dataset`; a Zarr array or OME-Zarr group; an N5 dataset; a neuroglancer-precomputed volume.

    Raises:
        SourceError: nothing is there, it cannot be reached, or it is in no format that can be read.
    """
    with location.reading(url):
        if url.startswith("precomputed://"):
            return TensorStoreSource(url) if is_precomputed(url) else _missing(url)
        if not location.is_local(url):
            location.open_store(url, read_only=True)  # raises for an unknown protocol
        if HDF5_NAME.match(url):
            return _hdf5(url)
        if location.is_pattern(url):
            return _image_series(url)
        lower = url.lower().rstrip("/")
        if lower.endswith(TIFF) and not _is_folder(url):
            return _tiff_stack(url)
        if lower.endswith(IMAGE_SUFFIXES) and not _is_folder(url):
            return _image_series(url, files=[url])
        if arrays.is_node(url):
            return ZarrSource(url)
        if is_n5(url) or is_precomputed(url):
            return TensorStoreSource(url)
        if not location.exists(url):
            # A web server may serve an array that cannot be listed; Zarr reports what is wrong with the location.
            return ZarrSource(url) if not location.is_local(url) else _missing(url)
        if location.is_local(url) and not _is_folder(url):
            raise SourceError(
                f"{url}: is in no format that can be imported; give TIFF, PNG or JPEG images, HDF5 (*.h5), Zarr, N5 or "
                "precomputed."
            )
        return _image_series(url)


# The packages that decode images and HDF5 are optional, so the modules that use them are imported on first use.


def _hdf5(url: str) -> Source:
    require_extra("formats", purpose=url)
    from ssem_dask.storage.formats.hdf5 import Hdf5Source

    return Hdf5Source(url)


def _tiff_stack(url: str) -> Source:
    require_extra("formats", purpose=url)
    from ssem_dask.storage.formats.tiff_stack import TiffStackSource

    return TiffStackSource(url)


def _image_series(url: str, *, files: list[str] | None = None) -> Source:
    require_extra("formats", purpose=url)
    from ssem_dask.storage.formats.series import SeriesSource, files_of

    return SeriesSource(files_of(url) if files is None else files, where=url)


def _missing(url: str) -> Source:
    raise SourceError(location.not_found_message(url))


def _is_folder(url: str) -> bool:
    return location.is_local(url) and location.local_path(url).is_dir()
