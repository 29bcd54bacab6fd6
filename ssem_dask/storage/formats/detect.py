"""Detection of the format of a location."""

import re
from pathlib import Path

from ssem_dask.errors import SourceError
from ssem_dask.extras import require_extra
from ssem_dask.storage import arrays, location
from ssem_dask.storage.formats.foreign import refuse_foreign, refuse_metadata
from ssem_dask.storage.formats.n5_groups import is_n5, n5_datasets
from ssem_dask.storage.formats.source import HDF5_NAME, IMAGE_SUFFIXES, TIFF, ReadOptions, Source, refuse_no_file
from ssem_dask.storage.formats.tensorstore_array import TensorStoreSource, is_precomputed
from ssem_dask.storage.formats.zarr_array import ZarrSource
from ssem_dask.storage.zip_files import split_zip, without_zip_protocol
from ssem_dask.units import shortened

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_STARTS = (0, 512, 1024, 2048)
_OF_THE_SYSTEM = ("__MACOSX", ".DS_Store")
_ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z", ".rar")
_SCHEME = re.compile(r"(?:zarr[23]?|n5)://(.+)")
_PIPE = re.compile(r"(.+?)/?\|(?:zarr[23]?|n5|neuroglancer-precomputed):/?")
"""Addresses as neuroglancer writes them: `zarr://URL`, and `URL|zarr3:` since 2025."""
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_any_format(url: str, options: ReadOptions | None = None) -> Source:
    """Open a volume in any format that can be imported; the caller closes it.

    Args:
        url: a folder or a glob pattern of TIFF, PNG or JPEG files; a multi-page TIFF file; `file.h5`,
            `file.h5:/dataset` or `file.h5/dataset`; a Zarr array or OME-Zarr group, also in a zip file; an N5 dataset;
            a neuroglancer-precomputed volume.
        options: choices of the user; None for none.

    Raises:
        SourceError: nothing is there, it cannot be reached, or it is in no format that can be read.
    """
    options = options or ReadOptions()
    url = plain_address(without_zip_protocol(url))
    with location.reading(url):
        if location.is_local(url) and location.exists(url) and not _is_folder(url):
            refuse_no_file(url, location.local_path(url))
        if options.order is not None:
            return _listed_series(url, options)
        if url.startswith("precomputed://"):
            return TensorStoreSource(url, options) if is_precomputed(url) else _missing(url)
        if not location.is_local(url):
            location.open_store(url, read_only=True)  # raises for an unknown protocol
        if _is_hdf5(url):
            return _hdf5(url, options)
        if location.is_pattern(url):
            return _image_series(url, options)
        lower = url.lower().rstrip("/")
        if lower.endswith(TIFF) and not _is_folder(url):
            return _tiff(url, options)
        if lower.endswith(IMAGE_SUFFIXES) and not _is_folder(url):
            return _image_series(url, options, files=[url])
        if arrays.is_node(url):
            return ZarrSource(url, options)
        if is_n5(url) or is_precomputed(url):
            return TensorStoreSource(url, options)
        inside = n5_datasets(url)
        if len(inside) == 1:
            return TensorStoreSource(location.join(url, inside[0]), options)
        if inside:
            raise SourceError(
                f"{url}: is an N5 container; name a dataset in it: "
                f"{shortened([location.join(url, name) for name in inside], limit=5)}."
            )
        if split_zip(url) is not None:
            return _in_zip(url, options)
        if not location.exists(url):
            # A web server may serve an array that cannot be listed; Zarr reports what is wrong with the location.
            return ZarrSource(url, options) if not location.is_local(url) else _missing(url)
        if location.is_local(url) and not _is_folder(url):
            return _by_content(url, options)
        inside_zarr = ".zarr" in Path(url.lower()).suffixes or ".zarr/" in url.lower()
        if inside_zarr and not any(name.lower().endswith(IMAGE_SUFFIXES) for name in location.list_names(url)):
            raise SourceError(f"{url}: has no Zarr metadata (zarr.json, .zarray or .zgroup); copy it again, whole.")
        return _image_series(url, options)


def plain_address(url: str) -> str:
    """Return the URL of an address of neuroglancer, which names the format too; any other URL unchanged."""
    if not url.strip():
        raise SourceError("the source is an empty text; give a path or a URL.")
    match = _SCHEME.fullmatch(url) or _PIPE.fullmatch(url)
    return url if match is None else match[1]


def _in_zip(url: str, options: ReadOptions) -> Source:
    """Open what a zip file holds: a volume in its only folder, or images."""
    names = [name for name in location.list_names(url) if name not in _OF_THE_SYSTEM]
    volumes = [name for name in names if name.lower().rstrip("/").endswith((".zarr", ".n5"))]
    names = volumes if len(volumes) == 1 else names
    if len(names) == 1 and names[0].lower().endswith(".zip"):
        raise SourceError(f"{url}: holds another zip file, {names[0]}; unpack it, then import what is in it.")
    if len(names) == 1 and not names[0].lower().endswith(IMAGE_SUFFIXES):
        return open_any_format(location.join(url, names[0]), options)
    return _image_series(url, options)


def _by_content(url: str, options: ReadOptions) -> Source:
    """Open a file whose name has no known suffix, if it begins like one of a known format."""
    head = location.read_range(url, start=0, stop=_HDF5_STARTS[-1] + 8)
    # HDF5 may begin behind a block of somebody else's, as in the files of MATLAB.
    if any(head[start : start + 8] == _HDF5_MAGIC for start in _HDF5_STARTS):
        return _hdf5(url, options)
    if head[:4] in _TIFF_MAGIC:
        return _tiff(url, options)
    if url.lower().endswith(_ARCHIVES):
        raise SourceError(f"{url}: is an archive or compressed; unpack it, then import what is in it.")
    refuse_metadata(url)
    refuse_foreign(url)
    raise SourceError(
        f"{url}: is in no format that can be imported; give TIFF, PNG or JPEG images, HDF5 (*.h5), Zarr, N5 or "
        "precomputed."
    )


# The packages that decode images and HDF5 are optional, so the modules that use them are imported on first use.


def _hdf5(url: str, options: ReadOptions) -> Source:
    require_extra("formats", purpose=url)
    from ssem_dask.storage.formats.hdf5 import Hdf5Source

    return Hdf5Source(url, options)


def _tiff(url: str, options: ReadOptions) -> Source:
    require_extra("formats", purpose=url)
    from ssem_dask.storage.formats.tiff_file import TiffSource

    return TiffSource(url, options)


def _image_series(url: str, options: ReadOptions, *, files: list[str] | None = None) -> Source:
    require_extra("formats", purpose=url)
    from ssem_dask.storage.formats.series import SeriesSource, channels_of, files_of, open_file_set

    sections = files_of(url) if files is None else files
    if len(sections) == 1 and sections[0].lower().endswith(TIFF):
        return _tiff(sections[0], options)  # a stack, or a single section, which import refuses
    opened = open_file_set(sections, options)
    if opened is not None:
        return opened
    channels = {} if files is not None or location.is_pattern(url) else channels_of(url, sections)
    return SeriesSource(sections, options, where=url, channels=channels)


def _listed_series(url: str, options: ReadOptions) -> Source:
    require_extra("formats", purpose=url)
    from ssem_dask.storage.formats.series import SeriesSource, listed_files

    return SeriesSource(listed_files(url, options.order or ""), options, where=url)


def _missing(url: str) -> Source:
    raise SourceError(location.not_found_message(url))


def _is_hdf5(url: str) -> bool:
    """Return whether a URL names an HDF5 file; a folder may have the suffix too."""
    match = HDF5_NAME.match(url)
    return match is not None and not _is_folder(match["file"])


def _is_folder(url: str) -> bool:
    return location.is_local(url) and location.local_path(url).is_dir()
