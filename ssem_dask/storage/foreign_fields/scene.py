"""Scenes of OME-Zarr 0.6: coordinate systems of images and the transformations between them."""

from collections import deque
from collections.abc import Mapping as Record
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays, location
from ssem_dask.storage.foreign_fields.transformations import Mapping, VectorField, chained, parse_transformation
from ssem_dask.storage.lengths import length_in_nm
from ssem_dask.storage.untrusted import interpreting

SystemId = tuple[str, str]
"""Path of the image ("" for the scene itself) and name of a coordinate system."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The graph of a scene."""

    url: str
    edges: dict[SystemId, dict[SystemId, Mapping]]
    """Map to each neighbour of a system, known inverses included."""
    written: tuple[tuple[SystemId, SystemId], ...]
    """Input and output of each transformation, in the direction that was written."""

    def mapping(self, start: SystemId, end: SystemId) -> Mapping:
        """Return the map of points from one system to another, over as few transformations as possible.

        Raises:
            SourceError: one of them does not exist, or no transformations lead there.
        """
        for system in (start, end):
            if system not in self.edges:
                known = ", ".join(sorted(_shown(each) for each in self.edges))
                raise SourceError(f"{self.url}: has no coordinate system {_shown(system)}; its systems are {known}.")
        before: dict[SystemId, SystemId | None] = {start: None}
        queue = deque([start])
        while queue:
            system = queue.popleft()
            for neighbour in self.edges[system]:
                if neighbour not in before:
                    before[neighbour] = system
                    queue.append(neighbour)
        if end not in before:
            raise SourceError(
                f"{self.url}: no transformations lead from {_shown(start)} to {_shown(end)}; a field leads one way "
                "only, unless its inverse is given as a bijection."
            )
        steps: list[Mapping] = []
        system, previous = end, before[end]
        while previous is not None:
            steps.append(self.edges[previous][system])
            system, previous = previous, before[previous]
        return chained(steps[::-1])

    def axes(self, system: SystemId) -> list[Record[str, Any]]:
        """Return the axes of a system; SourceError if it is not declared."""
        path, name = system
        ome = _ome(location.join_below(self.url, path) if path else self.url)
        group = ome["multiscales"][0] if path else ome["scene"]
        for declared in group.get("coordinateSystems", ()):
            if declared["name"] == name:
                return list(declared["axes"])
        raise SourceError(f"{self.url}: the coordinate system {_shown(system)} is not declared; declare its axes.")

    def units_nm(self, system: SystemId) -> list[float]:
        """Return nm per unit of each axis of a system; SourceError if one has no length."""
        lengths = []
        for axis in self.axes(system):
            length = length_in_nm(1, unit=axis.get("unit"))
            if length is None:
                raise SourceError(
                    f"{self.url}: axis {axis.get('name')} of {_shown(system)} has the unit {axis.get('unit')!r}; a "
                    "length such as nanometer is needed."
                )
            lengths.append(length)
        return lengths


def is_scene(attributes: Record[str, Any] | None) -> bool:
    """Return whether the attributes of a group hold a scene."""
    ome = (attributes or {}).get("ome")
    return isinstance(ome, dict) and "scene" in ome


def open_scene(url: str) -> Scene:
    """Read the scene at `url`.

    Raises:
        SourceError: there is no scene, its metadata is malformed, or it has transformations of other types.
    """
    with interpreting(url, what="its scene"):
        ome = _ome(url)
        edges: dict[SystemId, dict[SystemId, Mapping]] = {}
        for declared in ome["scene"].get("coordinateSystems", ()):
            edges.setdefault(("", declared["name"]), {})
        written = []
        for record in ome["scene"]["coordinateTransformations"]:
            start, end = (_system(record[side]) for side in ("input", "output"))
            mapping = parse_transformation(
                record, open_field=lambda path, nearest: _open(url, path, nearest), where=url
            )
            edges.setdefault(start, {})[end] = mapping
            back = mapping.inverted()
            edges.setdefault(end, {})
            if back is not None:
                edges[end].setdefault(start, back)
            written.append((start, end))
    return Scene(url, edges, tuple(written))


def _ome(url: str) -> dict[str, Any]:
    attributes = arrays.group_attributes(url)
    if attributes is None:
        raise SourceError(f"{url}: no Zarr group is there; check the path.")
    ome: dict[str, Any] = attributes.get("ome", {})
    return ome


def _system(reference: Any) -> SystemId:
    """Return the system of an input or output, which drafts of 0.6 give as a string."""
    if isinstance(reference, str):
        return "", reference
    return reference.get("path") or "", reference["name"]


def _shown(system: SystemId) -> str:
    return f"{system[0]}/{system[1]}" if system[0] else system[1]


def _open(url: str, path: str, nearest: bool) -> VectorField:
    """Open the finest level of a field."""
    group = location.join_below(url, path)
    (image, *_) = _ome(group)["multiscales"]
    system = image["coordinateSystems"][0]
    kinds = [axis.get("type") for axis in system["axes"]]
    component = next(i for i, kind in enumerate(kinds) if kind in ("displacement", "coordinate"))
    dataset = image["datasets"][0]
    scale, origin = np.ones(len(kinds)), np.zeros(len(kinds))
    for record in dataset["coordinateTransformations"]:
        for part in record.get("transformations", [record]):
            if part["type"] == "scale":
                scale = scale * _without_component(part["scale"], component, len(kinds))
                origin = origin * _without_component(part["scale"], component, len(kinds))
            elif part["type"] == "translation":
                origin = origin + _without_component(part["translation"], component, len(kinds), missing=0.0)
    return VectorField(
        array=arrays.open_array(location.join_below(group, dataset["path"]), mode="r"),
        component=component,
        scale=np.delete(scale, component),
        origin=np.delete(origin, component),
        nearest=nearest,
    )


def _without_component(values: list[float], component: int, axes: int, *, missing: float = 1.0) -> Any:
    """Return one value per axis. Examples of the specification leave out that of the components."""
    full = list(values)
    if len(full) == axes - 1:
        full.insert(component, missing)
    return np.asarray(full, dtype=np.float64)
