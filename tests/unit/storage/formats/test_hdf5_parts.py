"""Values of HDF5 that are in other files or need a plugin: right, or one sentence; never a silent fill value."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.detect import open_any_format
from tests.support.input_formats import volume
from tests.support.peak_memory import peak_growth

VALUES = volume()
SECTION = VALUES.shape[1:]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(url: str) -> Any:
    source = open_any_format(url)
    try:
        z, y, _ = source.info.shape
        return source.read(z_start=0, z_stop=z, y_start=0, y_stop=y)
    finally:
        source.close()


def virtual(*, skip: tuple[int, ...] = (), name: str = "part{z}.h5", path: str = "d", shape: Any = SECTION) -> str:
    """Write a section per file, and a virtual dataset of them."""
    Path("in").mkdir(exist_ok=True)
    with h5py.File("in/a.h5", "w") as file:
        layout = h5py.VirtualLayout(shape=VALUES.shape, dtype="u1")
        for z, section in enumerate(VALUES):
            with h5py.File(f"in/part{z}.h5", "w") as part:
                part["d"] = section
            if z not in skip:
                layout[z] = h5py.VirtualSource(name.format(z=z), path, shape=shape)[tuple(slice(n) for n in SECTION)]
        file.create_virtual_dataset("raw", layout)
    return "in/a.h5"


def numbered() -> str:
    """Write a virtual dataset of as many files as there are."""
    url = virtual()
    with h5py.File(url, "w") as file:
        space = h5py.h5s.create_simple(VALUES.shape, (h5py.h5s.UNLIMITED, *SECTION))
        space.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), (1, *SECTION), (1, *SECTION))
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_virtual(space, b"part%b.h5", b"d", h5py.h5s.create_simple(SECTION))
        whole = h5py.h5s.create_simple(VALUES.shape, (h5py.h5s.UNLIMITED, *SECTION))
        h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, whole, dcpl=plist)
    return url


def without(file: str, url: str) -> str:
    Path(file).unlink()
    return url


def with_text(file: str, url: str) -> str:
    Path(file).write_text("no HDF5")
    return url


def with_other(file: str, url: str, values: Any) -> str:
    with h5py.File(file, "w") as part:
        part["d"] = values
    return url


def external(*, size: int | None = None, folder: str = "in", name: str = "a.raw") -> str:
    """Write a dataset whose values are in a raw file beside it, with so many of its bytes."""
    Path("in").mkdir(exist_ok=True)
    Path(folder).mkdir(exist_ok=True)
    (Path(folder) / "a.raw").write_bytes(VALUES.tobytes()[:size])
    with h5py.File("in/a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_external(name.encode(), 0, h5py.h5s.UNLIMITED)
        space = h5py.h5s.create_simple(VALUES.shape)
        h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, dcpl=plist)
    return "in/a.h5"


def filtered(number: int, parameters: tuple[int, ...] = (), *, content: bytes = bytes(100)) -> str:
    """Write a dataset with a filter that is not there."""
    with h5py.File("a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(VALUES.shape)
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, parameters)
        space = h5py.h5s.create_simple(VALUES.shape)
        dataset = h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, dcpl=plist)
        dataset.write_direct_chunk((0, 0, 0), content)
    return "a.h5"


def parts_in_parts(depth: int) -> str:
    with h5py.File("a.h5", "w") as file:
        file["d0"] = VALUES
        for level in range(depth):
            layout = h5py.VirtualLayout(shape=VALUES.shape, dtype="u1")
            layout[...] = h5py.VirtualSource(".", f"d{level}", shape=VALUES.shape)
            file.create_virtual_dataset(f"d{level + 1}", layout)
    return f"a.h5:/d{depth}"


READ: dict[str, Callable[[], str]] = {
    "parts in files": virtual,
    "parts in files, absolute": lambda: virtual(name=f"{Path.cwd()}/in/part{{z}}.h5"),
    "parts in parts": lambda: parts_in_parts(3),
    "raw file": external,
    "n-bit": lambda: with_filter("nbit"),
    "scale-offset": lambda: with_filter("scaleoffset"),
    "LZF": lambda: with_filter("lzf"),
}


def with_filter(name: str) -> str:
    with h5py.File("a.h5", "w") as file:
        if name == "nbit":
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk((2, 8, 8))
            plist.set_filter(h5py.h5z.FILTER_NBIT, h5py.h5z.FLAG_OPTIONAL)
            space = h5py.h5s.create_simple(VALUES.shape)
            h5py.Dataset(h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, dcpl=plist))[...] = VALUES
        elif name == "scaleoffset":
            file.create_dataset("raw", data=VALUES, chunks=(2, 8, 8), scaleoffset=0)
        else:
            file.create_dataset("raw", data=VALUES, chunks=(2, 8, 8), compression="lzf", shuffle=True)
    return "a.h5"


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str) -> None:
    np.testing.assert_array_equal(read(READ[name]()), VALUES)


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "a part that is missing": (
        lambda: without("in/part2.h5", virtual()),
        r"made of 6 files, of which 1 is missing \(part2\.h5\); copy all of them",
    ),
    "a part without its dataset": (lambda: virtual(path="e"), r"part0\.h5:e: is not there, but .*/raw is made of it"),
    "a part that is smaller": (
        lambda: with_other("in/part3.h5", virtual(), VALUES[3, :20]),
        r"part3\.h5:d: has shape \(20, 40\), but .*a\.h5:/raw needs \(24, 40\) of it",
    ),
    "a part of other axes": (lambda: with_other("in/part3.h5", virtual(), VALUES), r"has shape \(6, 24, 40\), but"),
    "a part that is damaged": (
        lambda: with_text("in/part1.h5", virtual()),
        r"part1\.h5:d: cannot be decoded",
    ),
    "numbered parts": (numbered, r"its parts are numbered \(part%b\.h5\)"),
    "parts in parts, without end": (lambda: parts_in_parts(9), "its parts have parts in turn"),
    "a raw file that is missing": (
        lambda: without("in/a.raw", external()),
        r"its values are in a\.raw, which is not there; copy that file too",
    ),
    "a raw file that is cut off": (
        lambda: external(size=999),
        r"its values are in a\.raw, which has 999 bytes, but 5760 are needed",
    ),
    "a raw file elsewhere": (
        lambda: external(folder="elsewhere", name=f"{Path.cwd()}/elsewhere/a.raw"),
        "outside of the folder of the file",
    ),
    "a raw file above": (
        lambda: external(folder="elsewhere", name="../elsewhere/a.raw"),
        "outside of the folder of the file",
    ),
    "zstd": (lambda: filtered(32015), "encoded with filter 32015, which HDF5 does not have here.*h5repack -f GZIP"),
    "Blosc": (lambda: filtered(32001), "encoded with filter 32001, which HDF5 does not have here"),
    "LZ4": (lambda: filtered(32004), "encoded with filter 32004, which HDF5 does not have here"),
    "bzip2": (lambda: filtered(307), "encoded with filter 307, which HDF5 does not have here"),
    "an unknown filter": (lambda: filtered(32099), "encoded with filter 32099, which may expand.*h5repack -f GZIP"),
    "bitshuffle": (lambda: filtered(32008, (0, 0, 1, 0, 2)), "encoded with filter 32008.*h5repack -f GZIP"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    make, sentence = REFUSED[name]
    url = make()
    with pytest.raises(SourceError, match=sentence) as caught:
        read(url)
    assert "\n" not in str(caught.value)


def test_pixels_in_no_part_are_counted() -> None:
    source = open_any_format(virtual(skip=(2, 5)))
    source.close()
    (note,) = source.info.notes
    assert "1,920 of 5,760 pixels are in no part of it, read as the fill value" in note


def test_a_part_that_expands_takes_no_memory() -> None:
    shape = (1, 1024, 1024)
    Path("in").mkdir()
    stream = zlib.compressobj()
    head, block = stream.compress(b"") + stream.flush(zlib.Z_FULL_FLUSH), stream.compress(bytes(1 << 24))
    with h5py.File("in/part.h5", "w") as file:
        dataset = file.create_dataset("d", shape, "u1", chunks=shape, compression="gzip")
        content = head + (block + stream.flush(zlib.Z_FULL_FLUSH)) * 75 + stream.flush()
        dataset.id.write_direct_chunk((0, 0, 0), content)
    with h5py.File("in/a.h5", "w") as file:
        layout = h5py.VirtualLayout(shape=shape, dtype="u1")
        layout[...] = h5py.VirtualSource("part.h5", "d", shape=shape)
        file.create_virtual_dataset("raw", layout)
    grown = peak_growth("""
        import pytest
        from ssem_dask.errors import SourceError
        from ssem_dask.storage.formats.detect import open_any_format
        source = open_any_format("in/a.h5")
        begin()
        with pytest.raises(SourceError, match="part.h5:d: the chunk at .* expands to more than the 1048576 bytes"):
            source.read(z_start=0, z_stop=1, y_start=0, y_stop=64)
    """)
    assert grown < 200 << 20
