"""A folder that a microscope writes: late, half-written, out of order, and again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from benchmarks.spoilt.stacks import load_stack
from ssem_dask.driver.append import execute_append
from ssem_dask.errors import SourceError
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.types import AnyArray
from ssem_dask.volumes.growing_volume import Numbering
from ssem_dask.volumes.importing import import_volume
from ssem_dask.volumes.watching import Watching, follow
from tests.support.appended_runs import align, extend, few_sections, read
from tests.support.fixed_runs import write_stack

FITTED, ALL = 17, 21


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    yield from few_sections()


def write(folder: Path, z: int, image: AnyArray, *, share: float = 1.0) -> None:
    path = folder / f"wafer3_s{z + 1:04d}.tif"
    tifffile.imwrite(path, image, photometric="minisblack")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def test_a_folder_is_followed(tmp_path: Path) -> None:
    images, folder = load_stack("phantom", sections=ALL, size=64, data=Path()).images, tmp_path / "scope"
    folder.mkdir()
    for z in range(FITTED):
        write(folder, z, images[z])
    volume = str(tmp_path / "volume.zarr")
    import_volume(str(folder), volume, pixel_size=8.0, section_thickness=50.0)
    output = align(volume, tmp_path / "run.zarr")
    before = str(shutil.copytree(output, tmp_path / "before.zarr"))
    looks, notes, pixels = 0, list[str](), list[AnyArray]()

    def scope(_seconds: float) -> None:
        """Write files between the looks."""
        nonlocal looks
        looks += 1
        if looks == 1:  # the second new section comes first, and shows something else
            write(folder, FITTED + 1, images[0])
        if looks == 3:  # the first one comes in two halves
            write(folder, FITTED, images[FITTED], share=0.5)
        if looks == 6:
            for z in (FITTED, FITTED + 1, *range(FITTED + 2, ALL)):  # one of them again
                write(folder, z, images[z])

    for planned in follow(output, str(folder), Watching(interval=0.0, until=ALL), note=notes.append, sleep=scope):
        summary = execute_append(planned, executor=SerialExecutor(), observer=SilentObserver())
        assert summary.state == "complete"
        pixels.append(read(output, "aligned/0"))
    assert [len(each) for each in pixels] == [FITTED + 2, ALL]
    assert any(f"blank: {FITTED}." in note for note in notes)
    assert any("is not whole yet" in note for note in notes)
    assert any("again" in line for line in planned.sentences())
    # The way to it leaves no trace.
    extend(before, write_stack(tmp_path / "all.zarr", images))
    for path in ("fields/section", "fields/coarse", "aligned/0"):
        np.testing.assert_array_equal(read(output, path), read(before, path), err_msg=path)
    names = [f"wafer3_s{z + 1:04d}.tif" for z in range(ALL)]
    watched = follow(output, str(folder), Watching(interval=0.0, idle=0.0), note=notes.append, sleep=scope)
    assert list(watched) == []
    assert names[-1] in Path(volume, "zarr.json").read_text()


def test_numbers_in_names_say_which_section_a_file_is() -> None:
    numbering = Numbering.of(["w3_s010.tif", "w3_s012.tif", "", "w3_s016.tif"], where="v")
    assert [numbering.section(name) for name in ("w3_s014.tif", "w3_s018.tif", "w3_s011.tif", "notes.txt")] == [
        2,
        4,
        None,
        None,
    ]
    with pytest.raises(SourceError, match="do not number them evenly"):
        Numbering.of(["a1.tif", "a2.tif", "a9.tif"], where="v")
