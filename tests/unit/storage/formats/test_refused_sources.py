"""Files that microscopes, Fiji, scripts and facilities leave, and that are refused in one sentence."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.zarr_array import missing_in_source
from ssem_dask.volumes.importing import import_volume, plan_import
from tests.support.input_formats import volume
from tests.support.odd_inputs import SIZES, VALUES, two_detectors, write_tiffs

pytestmark = pytest.mark.usefixtures("in_folder")


def external_link_alone() -> str:
    with h5py.File("b.h5", "w") as file:
        file["q"] = VALUES
    with h5py.File("a.h5", "w") as file:
        file["r"] = h5py.ExternalLink("b.h5", "/q")
    return "a.h5"


def n5_container() -> str:
    attributes = {"dimensions": [9, 9, 9], "blockSize": [9, 9, 9], "dataType": "uint8", "compression": {"type": "raw"}}
    for path in ("raw/s0", "raw/s1", "labels/s0"):
        place = Path("a.n5/volumes", path)
        place.mkdir(parents=True)
        (place / "attributes.json").write_text(json.dumps(attributes))
    Path("a.n5/attributes.json").write_text('{"n5": "2.0.0"}')
    return "a.n5"


def without(file: str, source: str) -> str:
    Path(file).unlink()
    return source


def without_metadata() -> str:
    zarr.create_array("a.zarr", data=VALUES, zarr_format=2)
    Path("a.zarr/.zarray").unlink()
    return "a.zarr"


def broken_external_link() -> str:
    with h5py.File("a.h5", "w") as file:
        file["raw"] = h5py.ExternalLink("gone.h5", "/raw")
    return "a.h5:/raw"


def n5_without(name: str) -> str:
    Path("a.n5").mkdir()
    attributes = {"dimensions": [9, 9, 9], "blockSize": [9, 9, 9], "dataType": "uint8", "compression": {"type": "raw"}}
    del attributes[name]
    Path("a.n5/attributes.json").write_text(json.dumps({**attributes, "compressionType": "gzip"}))
    return "a.n5"


def with_no_file(make: Callable[[Path], object]) -> str:
    folder = write_tiffs("d/s{z}.tif")
    make(Path(folder, "s9.tif"))
    return folder


def other_files(name: str) -> str:
    Path("d").mkdir()
    for z in range(3):
        Path("d", name.format(z=z)).write_bytes(b"x")
    return "d"


def broken_zip() -> str:
    Path("a.zip").write_bytes(b"PK\3\4" + bytes(50))
    return "a.zip"


def image_in_a_long_file(suffix: str) -> str:
    Path("d").mkdir()
    for z, section in enumerate(VALUES):
        Path(f"d/s{z}.{suffix}").write_bytes(bytes(imagecodecs.png_encode(section)))
        with Path(f"d/s{z}.{suffix}").open("r+b") as file:
            file.truncate(1 << 40)
    return "d"


def level_without_metadata() -> str:
    zarr.open_group("a.zarr", mode="w", zarr_format=2).create_array("r", data=VALUES)
    Path("a.zarr/r/.zarray").unlink()
    return "a.zarr/r"


def compressed() -> str:
    Path("a.tif.gz").write_bytes(gzip.compress(b"II*\0"))
    return "a.tif.gz"


def tiles() -> str:
    for row in range(2):
        for column in range(2):
            write_tiffs(f"d/s{{z}}_tile_r{row}-c{column}.tif")
    return "d"


CHANNELS = r"2 images of each section: 0 \({}\), 1 \({}\); choose one with --channel, import all with --channels all"
REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "two detectors, at the end": (
        lambda: two_detectors("d/s{z}_BSD.tif", "d/s{z}_SE2.tif"),
        CHANNELS.format("BSD", "SE2"),
    ),
    "two detectors, at the front": (
        lambda: two_detectors("d/BSD_{z}.tif", "d/SE2_{z}.tif"),
        CHANNELS.format("BSD", "SE2"),
    ),
    "numbers of channels": (lambda: two_detectors("d/a_c0_z{z}.tif", "d/a_c1_z{z}.tif"), CHANNELS.format("c0", "c1")),
    "a folder per detector": (
        lambda: two_detectors("d/BSD/s{z}.tif", "d/SE2/s{z}.tif"),
        CHANNELS.format("BSD", "SE2"),
    ),
    "a folder per section": (lambda: write_tiffs("d/sec{z}/image.tif"), r"give the pattern 'd/\*/image\.tif'"),
    "tiles": (tiles, "holds tiles of sections .*stitch them first"),
    "a detector that lacks a section": (
        lambda: without("d/s5_SE2.tif", two_detectors("d/s{z}_BSD.tif", "d/s{z}_SE2.tif")),
        r"of the same sections under several names \(6 like s0_BSD\.tif, 5 like s0_SE2\.tif\), but not all of each",
    ),
    "a folder that lacks a section": (
        lambda: without("d/SE2/s5.tif", two_detectors("d/BSD/s{z}.tif", "d/SE2/s{z}.tif")),
        r"its folders do: BSD \(6\), SE2 \(5\); name one of them",
    ),
    "Zarr without metadata": (without_metadata, r"a\.zarr: has no Zarr metadata .*; copy it again"),
    "N5 container": (n5_container, r"name a dataset in it: a\.n5/volumes/labels, a\.n5/volumes/raw"),
    "N5 before version 2": (lambda: n5_without("compression"), '"compression": {"type": "gzip"} to its attributes'),
    "N5 without an attribute": (lambda: n5_without("blockSize"), "attributes.json has no blockSize; copy it again"),
    "a pipe": (lambda: with_no_file(os.mkfifo), r"s9\.tif: is a pipe or a device, not a file; move it away"),
    "a folder": (lambda: with_no_file(Path.mkdir), r"s9\.tif: is a folder, but its name is that of an image"),
    "a link to itself": (lambda: with_no_file(lambda path: path.symlink_to(path.name)), "leads back to itself"),
    "images of another format": (
        lambda: other_files("s{z}.jp2"),
        r"holds no images \(looked for .*\), but 3 files \*\.jp2; convert them, for example to TIFF",
    ),
    "a zip file that is none": (broken_zip, r"a\.zip: is no zip file, or its copy broke off .*; copy it again"),
    "a level without metadata": (level_without_metadata, r"a\.zarr/r: has no Zarr metadata .*; copy it again"),
    "an image in a file of a TiB": (lambda: image_in_a_long_file("png"), "has 1099511627776 bytes, but its image"),
    "broken external link": (broken_external_link, r"a\.h5: /raw is a link to gone\.h5, which is not there"),
    "compressed": (compressed, r"a\.tif\.gz: is an archive or compressed; unpack it"),
    "one bit": (lambda: write_tiffs("d/s{z}.tif", VALUES > 100), "images are bool, but must be uint8 or uint16"),
    "half precision": (lambda: write_tiffs("d/s{z}.tif", VALUES.astype("f2")), "images are float16"),
    "complex": (lambda: write_tiffs("d/s{z}.tif", VALUES.astype("c8")), "images are complex64"),
    "32 bits": (lambda: write_tiffs("d/s{z}.tif", VALUES.astype("u4")), "images are uint32"),
    "16 bits with a sign": (lambda: write_tiffs("d/s{z}.tif", VALUES.astype("i2")), "images are int16"),
    "CMYK": (
        lambda: write_tiffs("d/s{z}.tif", np.stack([VALUES] * 4, axis=-1), photometric="separated", metadata=None),
        "values are SEPARATED, but a section is grey",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    make, sentence = REFUSED[name]
    url = make()
    with pytest.raises(SourceError, match=sentence) as caught:
        import_volume(url, "out.zarr", **SIZES)
    assert "\n" not in str(caught.value)
    assert not Path("out.zarr").exists()


def test_a_link_alone_that_leads_nowhere_is_named() -> None:
    external_link_alone()
    Path("b.h5").unlink()
    with pytest.raises(SourceError, match=r"a\.h5: /r is a link to b\.h5, which is not there; copy that file too"):
        import_volume("a.h5", "out.zarr", **SIZES)


def test_missing_chunks_of_a_source_that_is_not_imported_are_counted() -> None:
    array = zarr.create_array("a.zarr", shape=VALUES.shape, chunks=(2, 24, 40), dtype="u1")
    array[:4] = VALUES[:4]
    (note,) = missing_in_source("a.zarr")
    assert "1 of 3 chunks not stored, read as the fill value" in note
    import_volume("a.zarr", "out.zarr", **SIZES)
    assert not missing_in_source("out.zarr")  # import has counted what it wrote


@pytest.mark.parametrize("alone", [True, False])
def test_tiles_without_data_are_counted(alone: bool) -> None:
    values = volume((6, 64, 64))
    pages = [values] if alone else list(values)
    Path("d").mkdir()
    for number, page in enumerate(pages):
        place = f"d/s{number}.tif"
        tifffile.imwrite(place, page, tile=(32, 32), photometric="minisblack", metadata=None)
        with tifffile.TiffFile(place, mode="r+") as file:
            for code in (324, 325):
                tag = file.pages.first.tags[code]
                tag.overwrite([0, *tag.value[1:]])
    plan = plan_import("d/s0.tif" if alone else "d", "out.zarr", **SIZES)
    expected = "1 of 24 tiles not stored" if alone else "1 of 4 tiles not stored"
    (note,) = (note for note in plan.notes if "not stored" in note)
    assert expected in note
    assert alone or note.endswith("(so have 5 other files)")
