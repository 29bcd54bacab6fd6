"""HDF5, Zarr and zip files from bug reports about other software: each is the right volume, or one sentence."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import imagecodecs
import numpy as np
import pytest
import zarr

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.types import AnyArray
from tests.support.odd_inputs import (
    VALUES,
    read_source,
    write_files,
)

pytestmark = pytest.mark.usefixtures("in_folder")

WIDE = VALUES.astype(np.uint16) * 257


def read_values(url: str, **options: Any) -> AnyArray:
    return read_source(url, **options)[0]


def hdf5(name: str = "a.h5", path: str = "volumes/raw", values: AnyArray = VALUES) -> str:
    with h5py.File(name, "a") as file:
        file[path] = values
    return name


def big_data_viewer() -> str:
    hdf5("a.h5", "t00000/s00/0/cells", WIDE.view(np.int16))
    hdf5("a.h5", "t00000/s00/1/cells", WIDE[:, ::2, ::2].copy().view(np.int16))
    hdf5("a.h5", "s00/resolutions", np.array([[1, 1, 1], [2, 2, 1.0]]))
    size = "<voxelSize><unit>nm</unit><size>5 5 40</size></voxelSize>"
    Path("a.xml").write_text(f"<SpimData><ViewSetups><ViewSetup><id>0</id>{size}</ViewSetup></ViewSetups></SpimData>")
    return "a.h5"


def odd_attributes() -> str:
    hdf5(path="raw")
    with h5py.File("a.h5", "a") as file:
        file["raw"].attrs.update(
            {"resolution": 5.0, "axes": h5py.Empty("f"), "axistags": "nonsense{", "units": [b"\xff"]}
        )
    return "a.h5"


def levels_in_hdf5() -> str:
    hdf5(path="s0")
    return hdf5(path="s1", values=VALUES[:, ::2, ::2])


def image_group(axes: Any, values: AnyArray, *, name: str = "a.zarr", version: str = "0.4") -> str:
    group = zarr.open_group(name, mode="a", zarr_format=2)
    group.create_array("0", data=values)
    image: dict[str, Any] = {"version": version, "datasets": [{"path": "0"}]}
    group.attrs["multiscales"] = [image if axes is None else {**image, "axes": axes}]
    return name


def collection_of_one() -> str:
    zarr.open_group("a.zarr", mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    zarr.open_group("a.zarr/OME", mode="w", zarr_format=2)
    image_group([{"name": axis} for axis in "tczyx"], VALUES[None, None], name="a.zarr/0")
    return "a.zarr"


def zip_with_a_folder() -> str:
    zarr.create_array("a.zarr", data=VALUES)
    shutil.make_archive("a.zarr", "zip", ".", "a.zarr")
    return "a.zarr.zip"


def zipped(url: str) -> str:
    zip_with_a_folder()
    return url.format(folder=Path.cwd())


def zipped_images() -> str:
    return shutil.make_archive("images", "zip", write_files("a", ".png", imagecodecs.png_encode))


def virtual_dataset() -> str:
    with h5py.File("a.h5", "w") as file:
        layout = h5py.VirtualLayout(shape=VALUES.shape, dtype="u1")
        for z in range(6):
            layout[z] = h5py.VirtualSource(f"part{z}.h5", "d", shape=VALUES.shape[1:])
        file.create_virtual_dataset("raw", layout)
    return "a.h5"


READ: dict[str, Callable[[], str]] = {
    "slash after .h5": lambda: hdf5() + "/volumes/raw",
    "group of the only dataset": lambda: hdf5() + ":/volumes",
    "HDF5 of an unknown suffix": lambda: hdf5("a.nx5"),
    "odd attributes": odd_attributes,
    "levels in HDF5": levels_in_hdf5,
    "OME-Zarr 0.3": lambda: image_group(list("czyx"), VALUES[None], version="0.3"),
    "OME-Zarr 0.1": lambda: image_group(None, VALUES[None, None], version="0.1"),
    "capital axes": lambda: image_group([{"name": axis} for axis in "ZYX"], VALUES),
    "level of an image": lambda: image_group([{"name": axis} for axis in "tczyx"], VALUES[None, None]) + "/0",
    "bioformats2raw": collection_of_one,
    "zip with a folder": zip_with_a_folder,
    "zip and path": lambda: zipped("a.zarr.zip/a.zarr"),
    "zip://path::file": lambda: zipped("zip://a.zarr::a.zarr.zip"),
    "zip://::file": lambda: zipped("zip://::{folder}/a.zarr.zip"),
    "images in a zip": zipped_images,
}
"""Inputs that hold VALUES."""


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str, caplog: pytest.LogCaptureFixture) -> None:
    np.testing.assert_array_equal(read_values(READ[name]()), VALUES)
    assert not caplog.records


def test_values_of_big_data_viewer() -> None:
    np.testing.assert_array_equal(read_values(big_data_viewer()), WIDE)
    with contextlib.closing(open_any_format("a.h5")) as source:
        assert (source.info.sizes.pixel_size, source.info.sizes.section_thickness) == (5.0, 40.0)
    hdf5("a.h5", "t00000/s01/0/cells", WIDE[::-1].copy().view(np.int16))
    with pytest.raises(SourceError, match=r"2 channels.*--channel 0 to 1"):
        read_values("a.h5")
    np.testing.assert_array_equal(read_values("a.h5", channel=1), WIDE[::-1])


@contextlib.contextmanager
def held_by_another_program(libver: Literal["earliest", "latest"]) -> Iterator[None]:
    program = (
        "import h5py, numpy, sys, time\n"
        f"file = h5py.File('a.h5', 'w', libver='{libver}')\n"
        "file['raw'] = numpy.load('values.npy'); file.flush(); print('ready', flush=True); sys.stdin.read()"
    )
    np.save("values.npy", VALUES)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.communicate()


def test_a_file_that_another_program_has_open_is_read() -> None:
    with held_by_another_program("earliest"):
        np.testing.assert_array_equal(read_values("a.h5"), VALUES)


def test_a_file_that_another_program_writes_is_not_called_damaged() -> None:
    with held_by_another_program("latest"), pytest.raises(SourceError, match="another program has it open") as caught:
        read_values("a.h5")
    assert "damaged" not in str(caught.value)


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "missing parts of a virtual dataset": (virtual_dataset, "6 files, of which 6 are missing"),
    "two volumes in HDF5": (lambda: hdf5("a.h5", "0") and hdf5("a.h5", "1"), "a.h5:/0, a.h5:/1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, sentence = REFUSED[name]
    url = make()
    with pytest.raises(SourceError, match=sentence) as caught:
        read_values(url)
    assert "\n" not in str(caught.value)
    assert not caplog.records


@pytest.mark.parametrize(
    "transformation", [[], [{"type": "identity"}], [{"type": "translation", "translation": [1] * 3}]]
)
def test_ome_zarr_without_a_scale_has_no_sizes(transformation: list[dict[str, Any]]) -> None:
    group = zarr.open_group("a.zarr", mode="w")
    group.create_array("0", data=VALUES)
    axes: list[Any] = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    dataset: dict[str, Any] = {"path": "0", "coordinateTransformations": transformation}
    systems: list[Any] = [{"name": "physical", "axes": axes}]
    images: list[dict[str, Any]] = [{"axes": axes}, {"coordinateSystems": systems}]
    for image in images:
        group.attrs["ome"] = {"version": "0.6", "multiscales": [{**image, "datasets": [dataset]}]}
        with contextlib.closing(open_any_format("a.zarr")) as source:
            assert (source.info.sizes.pixel_size, source.info.sizes.section_thickness) == (None, None)
