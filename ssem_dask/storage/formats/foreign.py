"""Locations that hold no volume that can be read: what they are, and what to give instead."""

from collections import Counter

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.source import IMAGE_SUFFIXES
from ssem_dask.units import plural, shortened

_FORMATS = {
    "MRC": ("mrc", "mrcs", "rec", "st", "ali", "map"),
    "Gatan DigitalMicrograph": ("dm3", "dm4"),
    "a file of an electron microscope": ("emi", "emd", "eer"),
    "a file of a light microscope": ("czi", "nd2", "lif", "oib", "oif", "oir", "vsi", "zvi", "lsm", "stk"),
    "a medical image": ("nii", "nrrd", "nhdr", "mha", "mhd", "dcm", "am", "hx"),
    "an array of numpy": ("npy", "npz"),
    "values without a header": ("raw", "bin", "dat"),
    "an image of another format": ("bmp", "gif", "jp2", "j2k", "webp", "heic", "avif", "jxl", "pgm", "ppm", "tga"),
    "WEBKNOSSOS wkw": ("wkw",),
    "a video": ("avi", "mov", "mp4"),
}
_FORMAT_OF = {suffix: name for name, suffixes in _FORMATS.items() for suffix in suffixes}
_CONVERT = "convert it, for example to TIFF by Fiji with Bio-Formats"
_METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json", "attributes.json", "info", "header.wkw")
_DESCRIPTIONS = ("xml", "json", "dzi", "toml", "yaml", "csv", "txt")
_VOLUMES = (".zarr", ".n5", ".h5", ".hdf5", ".ims", ".zip", ".ozx")
_WKW = "header.wkw"
_DEEPEST = 3
"""Folders between a location and the images that are looked for below it."""


def refuse_foreign(url: str) -> None:
    """Raise SourceError about a file whose suffix is known, but not read."""
    suffix = url.lower().rpartition(".")[2]
    if suffix in _FORMAT_OF:
        raise SourceError(f"{url}: is {_FORMAT_OF[suffix]} (*.{suffix}), which is not read; {_CONVERT}.")
    if suffix in _DESCRIPTIONS:
        raise SourceError(f"{url}: is a text that describes data; give the images or the volume that it belongs to.")


def refuse_metadata(url: str) -> None:
    """Raise SourceError about a file of metadata inside a volume."""
    folder, _, name = url.rstrip("/").rpartition("/")
    if name in _METADATA:
        raise SourceError(f"{url}: holds the metadata of a volume; give its folder, {folder or '.'}.")


def no_images_message(where: str) -> str:
    """Return the error message for a folder or a pattern without images: what is there instead."""
    looked_for = f"(looked for {', '.join('*' + suffix for suffix in IMAGE_SUFFIXES)})"
    names = [] if location.is_pattern(where) else location.list_names(where)
    if _has_wkw(where, names):
        return (
            f"{where}: is a volume of WEBKNOSSOS in wkw files, which are not read; save it as Zarr "
            "(Dataset.copy_dataset of the package webknossos, with data_format='zarr3')."
        )
    volumes = [location.join(where, name) for name in names if name.lower().endswith(_VOLUMES)]
    if volumes:
        return f"{where}: holds no images {looked_for}, but volumes; name one of them: {shortened(volumes, limit=3)}."
    below = None if location.is_pattern(where) else _image_below(where, depth=_DEEPEST)
    if below is not None:
        return (
            f"{where}: holds no images itself, only in folders further down, such as {below}; name the folder of the "
            "sections, or stitch them first if they are tiles."
        )
    suffixes = Counter(name.rpartition(".")[2].lower() for name in names if "." in name.strip("."))
    for suffix in _DESCRIPTIONS:
        del suffixes[suffix]
    if not suffixes:
        return f"{where}: holds no images {looked_for}; check the path."
    suffix, count = suffixes.most_common(1)[0]
    return (
        f"{where}: holds no images {looked_for}, but {plural(count, 'file')} *.{suffix}; convert them, for example to "
        "TIFF, if they are the sections."
    )


def _has_wkw(where: str, names: list[str]) -> bool:
    """Return whether a location is a volume of WEBKNOSSOS: a magnification, a layer, or the whole of it."""
    if _WKW in names:
        return True
    folders = [location.join(where, name) for name in names if "." not in name]
    folders += [location.join(folder, name) for folder in folders[:8] for name in location.list_names(folder)[:8]]
    return any(location.exists(location.join(folder, _WKW)) for folder in folders[:72])


def _image_below(where: str, *, depth: int) -> str | None:
    """Return an image in the first folders below a location; None if there is none near."""
    if not depth or not location.is_local(where):
        return None
    for name in location.list_names(where)[:8]:
        place = location.join(where, name)
        if not location.local_path(place).is_dir():
            continue
        image = next((inner for inner in location.list_names(place) if inner.lower().endswith(IMAGE_SUFFIXES)), None)
        found = location.join(place, image) if image is not None else _image_below(place, depth=depth - 1)
        if found is not None:
            return found
    return None
