"""Names, folders, links, archives and addresses that people have, and formats of other programs."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from ssem_dask.volumes.importing import plan_import
from tests.support.odd_inputs import SIZES, VALUES, check_refused, read_source, write_files, write_tiffs

pytestmark = pytest.mark.usefixtures("in_folder")

NAMES = {
    "percent": "s%20{z}.tif",
    "quotes": "s\"'{z}.tif",
    "dash": "-{z}.tif",
    "long": "x" * 200 + "{z}.tif",
    "colons": "a::b:{z}.tif",
    "hash": "s#{z}.tif",
    "tilde": "~s{z}.tif",
    "wildcards": "s*?[{z}].tif",
    "blanks": " s{z} .tif",
    "emoji": "🔬{z}.tif",
    "right to left": "\u202e{z}.tif",
    "capital suffix": "S{z}.TIFF",
    "dots": "a.h5.{z}.tif",
    "backslash": "a\\{z}.tif",
    "tab": "a\t{z}.tif",
    "not Unicode": "a\udcff{z}.tif",
    "protocol": "http:{z}.tif",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files(name: str) -> None:
    write_tiffs("d/" + NAMES[name])
    np.testing.assert_array_equal(read_source("d")[0], VALUES)


FOLDERS = [
    "raw.h5",
    "v.zarr",
    "a.tif",
    "x.n5",
    "100%",
    "a b",
    "s3:",
    "~d",
    "d.zip",
    "[1]",
    "{a}",
    "a:b",
    "-d",
    "*",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_of_folders(folder: str) -> None:
    for place in (folder, f"{folder}/*.tif"):
        write_tiffs(f"{folder}/" + "s{z}.tif" if "{" not in folder else "{{a}}/s{z}.tif")
        np.testing.assert_array_equal(read_source(place)[0], VALUES)
    for path in Path(folder).iterdir():
        path.unlink()
    tifffile.imwrite(Path(folder, "stack.tif"), VALUES, photometric="minisblack")
    for place in (f"{folder}/stack.tif", folder):
        np.testing.assert_array_equal(read_source(place)[0], VALUES)


NUMBERED = {
    "beyond 64 bits": [f"s{10**30 + z}.tif" for z in range(6)],
    "digits of Arabic": [f"s{digit}.tif" for digit in "٠١٢٣٤٥"],
    "letters": [f"{letter}.tif" for letter in "abcdef"],
    "versions": [f"s.{major}.{minor}.tif" for major in (9, 10, 11) for minor in (1, 2)],
    "signs": [f"z+{z + 1}.tif" for z in range(6)],
    "exponents": [f"s1e{z}.tif" for z in range(6)],
    "time": [f"2024-01-0{z + 1}T10:00:00.123Z.tif" for z in range(6)],
    "three suffixes": [f"s{z}.{('tif', 'TIF', 'tiff')[z % 3]}" for z in range(6)],
}


@pytest.mark.parametrize("name", NUMBERED)
def test_order_of_names(name: str) -> None:
    Path("d").mkdir()
    for file, section in zip(NUMBERED[name], VALUES, strict=True):
        tifffile.imwrite(f"d/{file}", section)
    np.testing.assert_array_equal(read_source("d")[0], VALUES)


@pytest.mark.parametrize("names", [("s1", "s01", "s2"), ("a1", "A1", "a2")])
def test_numbers_that_repeat_are_reported(names: tuple[str, ...]) -> None:
    Path("d").mkdir()
    for name, section in zip(names, VALUES, strict=False):
        tifffile.imwrite(f"d/{name}.tif", section)
    assert any("numbers repeat" in note for note in plan_import("d", "out.zarr", **SIZES).notes)


LISTS = {
    "line ends of Windows": "\r\n".join(f"s{z}.tif" for z in range(6)).encode(),
    "a mark of UTF-8": "\n".join(f"s{z}.tif" for z in range(6)).encode("utf-8-sig"),
    "UTF-16": "\n".join(f"s{z}.tif" for z in range(6)).encode("utf-16"),
    "paths": "\n".join(f"d/s{z}.tif" for z in range(6)).encode(),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_files(name: str) -> None:
    write_tiffs("d/s{z}.tif")
    Path("list.txt").write_bytes(LISTS[name])
    np.testing.assert_array_equal(read_source("d", order="list.txt")[0], VALUES)


# ---------------------------------------------------------------- folders, links, archives


def with_leftovers() -> str:
    write_tiffs("d/s{z}.tif")
    for name in ("s0.tif~", "s0.tif.bak", ".s0.tif.swp", "s0.tif.part", "s0.tfw", "notes.csv"):
        shutil.copy("d/s0.tif", f"d/{name}")
    Path("d/__MACOSX").mkdir()
    return "d"


def links_to_files() -> str:
    write_tiffs("d/s{z}.tif")
    Path("links").mkdir()
    for z in range(6):
        Path(f"links/s{z}.tif").symlink_to(f"../d/s{z}.tif")
    return "links"


def link_to_a_folder() -> str:
    write_tiffs("d/s{z}.tif")
    Path("link").symlink_to("d")
    return "link"


def zipped(*names: str, folder: str = "d") -> str:
    with zipfile.ZipFile("a.zip", "w") as archive:
        for name in names:
            archive.write(name, name.removeprefix(folder + "/"))
    return "a.zip"


def zipped_by_a_mac() -> str:
    write_tiffs("d/s{z}.tif")
    with zipfile.ZipFile("a.zip", "w") as archive:
        for z in range(6):
            archive.write(f"d/s{z}.tif")
            archive.writestr(f"__MACOSX/d/._s{z}.tif", b"\0\5\x16\7")
    return "a.zip"


def zipped_by_windows() -> str:
    write_tiffs("d/s{z}.tif")
    with zipfile.ZipFile("a.zip", "w") as archive:
        for z in range(6):
            archive.writestr(f"d\\s{z}.tif", Path(f"d/s{z}.tif").read_bytes())
    return "a.zip"


def zipped_stack() -> str:
    tifffile.imwrite("b.tif", VALUES, photometric="minisblack")
    return zipped("b.tif")


READ: dict[str, Callable[[], str]] = {
    "leftovers of other programs": with_leftovers,
    "links to files": links_to_files,
    "a link to a folder": link_to_a_folder,
    "slashes": lambda: f".//{write_tiffs('d/s{z}.tif')}//",
    "dots": lambda: f"{write_tiffs('d/s{z}.tif')}/../d/.",
    "a pattern of folders": lambda: f"{write_tiffs('d/s{z}.tif') and '**'}/*.tif",
    "a zip file of a Mac": zipped_by_a_mac,
    "a zip file of Windows": zipped_by_windows,
    "a stack in a zip file": zipped_stack,
}


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str) -> None:
    np.testing.assert_array_equal(read_source(READ[name]())[0], VALUES)


@pytest.mark.parametrize("address", ["zarr://{}", "zarr2://file://{}", "file://{}/|zarr2:", "{}|zarr:"])
def test_addresses_of_neuroglancer(address: str) -> None:
    zarr.create_array("a.zarr", data=VALUES, zarr_format=2)
    url = address.format(Path("a.zarr").absolute())
    np.testing.assert_array_equal(read_source(url)[0], VALUES)
    assert plan_import(url, "out.zarr", **SIZES).info.shape == VALUES.shape


def loop_of_links() -> str:
    Path("a").symlink_to("b")
    Path("b").symlink_to("a")
    return "a"


def encrypted() -> str:
    write_tiffs("d/s{z}.tif")
    content = bytearray(Path(zipped(*(f"d/s{z}.tif" for z in range(6)))).read_bytes())
    for mark, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = content.find(mark)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(mark, at + 1)
    Path("a.zip").write_bytes(content)
    return "a.zip"


def zip_in_zip() -> str:
    write_tiffs("d/s{z}.tif")
    shutil.make_archive("b", "zip", "d")
    return zipped("b.zip")


def hdf5_in_a_folder() -> str:
    Path("d").mkdir()
    with h5py.File("d/x.h5", "w") as file:
        file["raw"] = VALUES
    return "d"


def tiles_of_catmaid(name: str) -> str:
    for z in range(3):
        for row in range(2):
            for column in range(2):
                path = Path("d", name.format(z=z, row=row, column=column))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(imagecodecs.jpeg_encode(VALUES[z])))
    return "d"


def webknossos(place: str) -> str:
    Path("d/color/1/z0/y0").mkdir(parents=True)
    for file in ("header.wkw", "z0/y0/x0.wkw"):
        Path("d/color/1", file).write_bytes(b"WKW\1")
    Path("d/datasource-properties.json").write_text("{}")
    return place


def file_named(name: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(b"x" * 99)
    return name


def both_kinds() -> str:
    write_tiffs("d/s{z}.tif")
    write_files("e", ".png", imagecodecs.png_encode)
    shutil.copy("e/s0.png", "d")
    return "d"


def stack_among_sections() -> str:
    tifffile.imwrite(f"{write_tiffs('d/s{z}.tif')}/stack.tif", VALUES, photometric="minisblack")
    return "d"


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "nothing": (lambda: "", "the source is an empty text"),
    "blanks": (lambda: " ", "the source is an empty text"),
    "a loop of links": (loop_of_links, "a: nothing is there"),
    "an encrypted zip file": (encrypted, "a.zip/s0.tif: is encrypted.*unpack it first"),
    "a zip file in a zip file": (zip_in_zip, r"a\.zip: holds another zip file, b\.zip; unpack it"),
    "HDF5 in a folder": (hdf5_in_a_folder, r"but volumes; name one of them: d/x\.h5"),
    "images further down": (
        lambda: write_tiffs("d/e/f/s{z}.tif"),
        "holds no images itself, only in folders further down, such as d/e/f/s0.tif",
    ),
    "tiles in folders of rows": (lambda: tiles_of_catmaid("{z}/{row}/{column}_0.jpg"), "stitch them first"),
    "tiles in folders of sections": (
        lambda: tiles_of_catmaid("{z}/{row}_{column}_0.jpg"),
        r"d: holds tiles of sections \(0_0_0\.jpg, 0_1_0\.jpg",
    ),
    "WEBKNOSSOS": (lambda: webknossos("d"), "WEBKNOSSOS in wkw files, which are not read; save it as Zarr"),
    "layer of WEBKNOSSOS": (lambda: webknossos("d/color"), "WEBKNOSSOS in wkw files"),
    "magnification of WEBKNOSSOS": (lambda: webknossos("d/color/1"), "WEBKNOSSOS in wkw files"),
    "MRC": (lambda: file_named("a.mrc"), r"a\.mrc: is MRC \(\*\.mrc\), which is not read; convert it"),
    "DigitalMicrograph": (lambda: file_named("a.dm4"), "is Gatan DigitalMicrograph"),
    "XML": (lambda: file_named("a.xml"), "is a text that describes data; give the images or the volume"),
    "metadata of Zarr": (lambda: file_named("a.zarr/.zattrs"), "metadata of a volume; give its folder, a.zarr"),
    "metadata of precomputed": (lambda: file_named("pre/info"), "metadata of a volume; give its folder, pre"),
    "images of two kinds": (both_kinds, r"images of several kinds \(png, tif\)"),
    "a stack among sections": (stack_among_sections, "stack.tif: holds 6 pages"),
    "an archive of tar": (
        lambda: os.path.relpath(shutil.make_archive("a", "gztar", write_tiffs("d/s{z}.tif"))),
        "is an archive or compressed; unpack it",
    ),
    "path of Windows": (lambda: r"C:\data\a.tif", "nothing is there"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    make, sentence = REFUSED[name]
    check_refused(make(), sentence)


@pytest.fixture
def open_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder that everybody may enter the current one, with the rights of nobody."""
    if os.getuid() != 0:
        pytest.skip("giving up rights needs root")
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    monkeypatch.chdir(place)
    yield place
    os.seteuid(0)
    shutil.rmtree(place)


BLOCKED = [
    ("d", "d"),
    ("d", "d/s0.tif"),
    ("d/s3.tif", "d"),
    ("a.zarr/zarr.json", "a.zarr"),
    ("a.n5/attributes.json", "a.n5"),
    ("pre/info", "pre"),
]


@pytest.mark.parametrize(("blocked", "source"), BLOCKED)
def test_no_permission(blocked: str, source: str, open_place: Path) -> None:
    write_tiffs("d/s{z}.tif")
    zarr.create_array("a.zarr", data=VALUES)
    for path in ("a.n5/attributes.json", "pre/info"):
        file_named(path)
    Path(blocked).chmod(0)
    os.seteuid(65534)
    check_refused(str(open_place / source), "no permission to read it; ask for the right")
