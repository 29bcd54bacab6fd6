"""Groups of Zarr that are no image themselves: the volumes in them, and what to say about those that hold several."""

from collections.abc import Mapping
from typing import Any

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays, location, ngff
from ssem_dask.units import plural, shortened

_DEEPEST = 4
_MOST_GROUPS = 100
"""Groups that are looked at, at most."""
_NAMES_SHOWN = 8
_LEAST_AXES = 3


def only_volume(url: str, attributes: Mapping[str, Any]) -> str:
    """Return the URL of the only volume (an array of three axes or an image) below a group.

    Raises:
        SourceError: there is none, or several, such as the wells of a plate.
    """
    _refuse_plate(url, attributes)
    inside = _volumes_inside(url)
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise SourceError(
            f"{url}: a Zarr group of {plural(len(inside), 'volume')}; name one of them: "
            f"{shortened(inside, limit=_NAMES_SHOWN)}."
        )
    names = [name for name in location.list_names(url) if not name.startswith((".z", "zarr.json"))]
    raise SourceError(
        f"{url}: a Zarr group that holds no volume (an array of z, y, x), only "
        f"{shortened(names, limit=_NAMES_SHOWN) or 'nothing'}; check the path."
    )


def _refuse_plate(url: str, attributes: Mapping[str, Any]) -> None:
    """Raise SourceError about a plate (OME-Zarr HCS), of whose images one must be named."""
    ome = attributes.get("ome")
    plate = (ome if isinstance(ome, Mapping) else attributes).get("plate")
    wells = plate.get("wells") if isinstance(plate, Mapping) else None
    if not isinstance(wells, list) or not wells:
        return
    first = wells[0].get("path") if isinstance(wells[0], Mapping) else None
    example = location.join(url, str(first), "0") if first else location.join(url, "A/1/0")
    raise SourceError(f"{url}: is a plate of {plural(len(wells), 'well')}; name one image in it, such as {example}.")


def _volumes_inside(url: str) -> list[str]:
    """Return the volumes below a group in the order of their names; those of images are not searched."""
    found: list[str] = []
    left = [(url, 0)]
    for _ in range(_MOST_GROUPS):
        if not left:
            break
        group, depth = left.pop(0)
        for name in location.list_names(group):
            place = location.join(group, name)
            if name.startswith(".") or not arrays.is_node(place):
                continue
            attributes = arrays.group_attributes(place)
            if attributes is None:
                found += [place] if arrays.open_array(place, mode="r").ndim >= _LEAST_AXES else []
            elif ngff.is_image(attributes):
                found.append(place)
            elif depth + 1 < _DEEPEST:
                left.append((place, depth + 1))
    return found
