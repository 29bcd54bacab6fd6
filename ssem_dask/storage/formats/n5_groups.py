"""Groups of N5: the dataset that a location means, and the lengths that the groups above it state.

n5-viewer, Paintera and COSEM store lengths in the dataset, in a group above it, or at the root of the container;
BigDataViewer stores their unit in an XML file beside the container.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ssem_dask.storage import location
from ssem_dask.storage.formats.big_data_viewer import stored_sizes
from ssem_dask.storage.lengths import Length
from ssem_dask.storage.untrusted import JSON_OBJECT, read_hint

N5_METADATA = "attributes.json"
_FINEST = "s0"  # of a multiscale group
_COARSER = re.compile(r"s[1-9]\d*")
_SETUP = re.compile(r"setup(\d+)/timepoint\d+(?:/s0)?")
"""Path of an image of BigDataViewer; the lengths in its attributes have no unit."""
_LENGTH_KEYS = ("pixelResolution", "resolution", "transform", "dimension_units", "voxel_size")
_FURTHER_KEYS = ("units", "axes")
_MOST_DATASETS = 100
_MOST_GROUPS = 8
"""Groups between a dataset and the root of its container, at most."""


def is_n5(url: str) -> bool:
    """Return whether there is an N5 dataset, or a group of scales `s0`, `s1`, …, at `url`."""
    return n5_dataset(url) is not None


def n5_dataset(url: str) -> str | None:
    """Return the URL of the dataset at `url`, or of the finest level in it."""
    for place in (url, location.join(url, _FINEST)):
        if "dimensions" in _attributes(place, needed=True):
            return place
    return None


def n5_datasets(url: str) -> list[str]:
    """Return the paths of the datasets below a local N5 container or group, without coarser levels; [] for others."""
    if not location.is_local(url) or not location.exists(location.join(url, N5_METADATA)):
        return []
    if "n5" not in _attributes(url) and not any(place.endswith(".n5") for place, _ in _groups_above(url)):
        return []
    found: list[str] = []
    below = [""]
    while below and len(found) < _MOST_DATASETS:
        path = below.pop()
        place = location.join(url, path)
        if n5_dataset(place) is not None:
            found.append(path)
            continue
        names = [name for name in location.list_names(place) if not name.isdecimal() and "." not in name]
        below += [f"{path}/{name}".lstrip("/") for name in names]
    return sorted(found)


def n5_attributes(dataset: str) -> dict[str, Any]:
    """Return the attributes of a dataset, with lengths of the next group above that has some if it has none."""
    attributes = _attributes(dataset)
    name = dataset.rstrip("/").rpartition("/")[2]
    if any(key in attributes for key in _LENGTH_KEYS) or _COARSER.fullmatch(name) or _setup(dataset) is not None:
        return attributes
    for _, group in _groups_above(dataset):
        inherited = {key: group[key] for key in (*_LENGTH_KEYS, *_FURTHER_KEYS) if key in group}
        transform = _transform_of(group, name)
        if transform is not None:
            inherited["transform"] = transform
        if any(key in inherited for key in _LENGTH_KEYS):
            return {**inherited, **attributes}
    return attributes


def lengths_beside(dataset: str) -> dict[str, Length]:
    """Return the lengths of a voxel in the XML file of BigDataViewer beside the container; {} if there is none."""
    found = _setup(dataset)
    return {} if found is None else stored_sizes(found[0], setup=found[1])


def _setup(dataset: str) -> tuple[str, int] | None:
    """Return the container and the setup of an image of BigDataViewer; None for other datasets."""
    names = dataset.rstrip("/").split("/")
    for depth, (place, _) in enumerate(_groups_above(dataset), start=1):
        match = _SETUP.fullmatch("/".join(names[-depth:]))
        if match is not None:
            return place, int(match[1])
    return None


def _groups_above(url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield URL and attributes of the groups above a place, up to the root of its container."""
    place: str | None = url
    for _ in range(_MOST_GROUPS):
        place = location.parent(place or "")
        if place is None:
            return
        attributes = _attributes(place)
        yield place, attributes
        if "n5" in attributes or place.endswith(".n5"):
            return


def _transform_of(group: Mapping[str, Any], name: str) -> Any:
    """Return the transformation of a level in the attribute `multiscales` of COSEM; None if there is none."""
    images = group.get("multiscales")
    datasets = images[0].get("datasets") if isinstance(images, list) and images and _is_mapping(images[0]) else None
    for level in datasets if isinstance(datasets, list) else ():
        if _is_mapping(level) and level.get("path") == name:
            return level.get("transform")
    return None


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _attributes(url: str, *, needed: bool = False) -> dict[str, Any]:
    """Return the attributes of a group or dataset; {} if it has none that can be read."""
    try:
        return read_hint(location.join(url, N5_METADATA), JSON_OBJECT) or {}
    except PermissionError:
        if needed and location.is_local(url):
            raise  # else the folder would seem to be of another format
    except OSError:
        pass  # opening the volume reports errors of stores
    return {}
