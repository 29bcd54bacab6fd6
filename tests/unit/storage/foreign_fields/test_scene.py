"""Scenes of OME-Zarr 0.6: every kind of transformation, both ways; the cases are those of the conformance suite."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays
from ssem_dask.storage.foreign_fields.scene import open_scene

SHIFT = {"type": "translation", "translation": [1, 2]}
BIJECTION = {"type": "bijection", "forward": SHIFT, "inverse": {"type": "translation", "translation": [10, 10]}}
BY_DIMENSION = [
    {"transformation": {"type": "scale", "scale": [10]}, "inputAxes": [1], "outputAxes": [0]},
    {"transformation": {"type": "identity"}, "inputAxes": [0], "outputAxes": [1]},
]
CASES: list[Any] = [
    ({"type": "identity"}, [3, 5], [3, 5]),
    (SHIFT, [3, 5], [4, 7]),
    ({"type": "scale", "scale": [2, 10]}, [3, 5], [6, 50]),
    ({"type": "affine", "affine": [[1, 2, 3], [0, 1, 4]]}, [3, 5], [16, 9]),
    ({"type": "rotation", "rotation": [[0, -1], [1, 0]]}, [3, 5], [-5, 3]),
    ({"type": "mapAxis", "mapAxis": [1, 0]}, [3, 5], [5, 3]),
    ({"type": "sequence", "transformations": [{"type": "scale", "scale": [2, 2]}, SHIFT]}, [3, 5], [7, 12]),
    ({"type": "byDimension", "transformations": BY_DIMENSION}, [3, 5], [50, 3]),
]


def write_scene(folder: Path, *transformations: dict[str, Any]) -> str:
    systems = ["input", *(f"step{i}" for i in range(len(transformations) - 1)), "output"]
    ends = [{"input": {"name": a}, "output": {"name": b}} for a, b in itertools.pairwise(systems)]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scene = {
        "coordinateSystems": [{"name": name, "axes": axes} for name in systems],
        "coordinateTransformations": [{**a, **b} for a, b in zip(transformations, ends, strict=True)],
    }
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.6", "scene": scene}}}
    folder.mkdir(exist_ok=True)
    (folder / "zarr.json").write_text(json.dumps(document))
    return str(folder)


@pytest.mark.parametrize(("transformation", "point", "wanted"), CASES)
def test_each_kind_both_ways(tmp_path: Path, transformation: Any, point: list[float], wanted: list[float]) -> None:
    scene = open_scene(write_scene(tmp_path / "s.zarr", transformation, SHIFT))
    forward = scene.mapping(("", "input"), ("", "output")).forward(np.array([point], dtype=float))
    np.testing.assert_allclose(forward, [np.add(wanted, [1, 2])])
    back = scene.mapping(("", "output"), ("", "input")).forward(forward)
    np.testing.assert_allclose(back, [point])
    assert scene.units_nm(("", "input")) == [1000.0, 1000.0]


def test_a_bijection_has_the_inverse_that_was_written(tmp_path: Path) -> None:
    scene = open_scene(write_scene(tmp_path / "s.zarr", BIJECTION))
    point = np.array([[0.0, 0.0]])
    assert scene.mapping(("", "input"), ("", "output")).forward(point).tolist() == [[1, 2]]
    assert scene.mapping(("", "output"), ("", "input")).forward(point).tolist() == [[10, 10]]


@pytest.mark.parametrize("kind", ["displacements", "coordinates"])
def test_a_field_with_a_scale_of_as_many_values_as_axes_or_one_more(tmp_path: Path, kind: str) -> None:
    """The examples of the specification leave out the value of the components."""
    url = write_scene(tmp_path / "s.zarr", {"type": kind, "path": "field"})
    values = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
    found = []
    for scale in ([2.0, 2.0], [1.0, 2.0, 2.0]):
        axes = [
            {"name": "c", "type": kind.rstrip("s"), "discrete": True},
            *({"name": a, "type": "space"} for a in "yx"),
        ]
        dataset = {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        image = {"coordinateSystems": [{"name": "physical", "axes": axes}], "datasets": [dataset]}
        arrays.create_group(f"{url}/field", attributes={"ome": {"version": "0.6", "multiscales": [image]}})
        array = arrays.create_array(
            f"{url}/field/s0",
            shape=values.shape,
            dtype="float32",
            axes=("c", "y", "x"),
            chunks=values.shape,
            shards=None,
            fill_value=0,
            attributes={},
        )
        array[:] = values
        mapping = open_scene(url).mapping(("", "input"), ("", "output"))
        found.append(mapping.forward(np.array([[2.0, 4.0], [3.0, 4.0], [-9.0, 99.0]])))
    between = (values[:, 1, 2] + values[:, 2, 2]) / 2
    wanted = np.array([values[:, 1, 2], between, values[:, 0, 4]])
    if kind == "displacements":
        wanted += np.array([[2.0, 4.0], [3.0, 4.0], [-9.0, 99.0]])
    np.testing.assert_allclose(found[0], wanted, atol=1e-6)
    np.testing.assert_allclose(found[1], found[0])


def test_what_cannot_be_mapped_is_one_sentence(tmp_path: Path) -> None:
    url = write_scene(tmp_path / "s.zarr", SHIFT)
    with pytest.raises(SourceError, match="no coordinate system elsewhere; its systems are input, output"):
        open_scene(url).mapping(("", "input"), ("", "elsewhere"))
    with pytest.raises(SourceError, match="'wavelets' is not supported"):
        open_scene(write_scene(tmp_path / "w.zarr", {"type": "wavelets"}))
    with pytest.raises(SourceError, match="its scene cannot be read"):
        open_scene(write_scene(tmp_path / "x.zarr", {"type": "scale"}))
    flat = open_scene(write_scene(tmp_path / "f.zarr", {"type": "affine", "affine": [[1, 0, 0], [0, 0, 0]]}))
    with pytest.raises(SourceError, match="no transformations lead from output to input"):
        flat.mapping(("", "output"), ("", "input"))
