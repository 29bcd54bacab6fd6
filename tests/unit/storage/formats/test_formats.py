from pathlib import Path
from typing import Any, Literal

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.formats.section_order import natural_order
from ssem_dask.storage.volume import VolumeInfo, create_volume

SHAPE = (12, 30, 41)


def volume(dtype: str) -> np.ndarray:
    return np.random.default_rng(5).integers(0, np.iinfo(dtype).max, SHAPE, dtype=dtype)


def smooth() -> np.ndarray:
    """Something that survives JPEG."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return (40 + 10 * z + y + x).astype(np.uint8)


def tiff_series(folder: Path, dtype: str, **options) -> str:
    folder.mkdir()
    for z, section in enumerate(volume(dtype)):
        tifffile.imwrite(folder / f"s{z}.tif", section, **options)
    return str(folder)


def png_series(folder: Path, dtype: str) -> str:
    folder.mkdir()
    for z, section in enumerate(volume(dtype)):
        (folder / f"s{z}.PNG").write_bytes(bytes(imagecodecs.png_encode(section)))
    return str(folder)


def png_glob(folder: Path, dtype: str) -> str:
    png_series(folder, dtype)
    (folder / "thumbnail.jpg").write_bytes(imagecodecs.jpeg_encode(smooth()[0]))
    return str(folder / "*.PNG")


def png_series_in_memory(folder: Path, dtype: str) -> str:
    url = f"memory://{folder.name}-{dtype}"
    for z, section in enumerate(volume(dtype)):
        location.write_bytes(location.join(url, f"s{z}.png"), bytes(imagecodecs.png_encode(section)))
    return url


def tiff_stack(folder: Path, dtype: str, **options) -> str:
    folder.mkdir()
    tifffile.imwrite(folder / "stack.tif", volume(dtype), **options)
    return str(folder / "stack.tif")


def tiff_stack_in_memory(folder: Path, dtype: str) -> str:
    url = f"memory://{folder.name}-{dtype}-stack.tif"
    location.write_bytes(url, Path(tiff_stack(folder, dtype)).read_bytes())
    return url


def imagej_stack_of_one_page(folder: Path, dtype: str) -> str:
    folder.mkdir()
    with tifffile.TiffWriter(folder / "stack.tif", imagej=True) as writer:
        writer.write(volume(dtype), metadata={"axes": "ZYX"}, contiguous=True)
    return str(folder / "stack.tif")


def hdf5(folder: Path, dtype: str) -> str:
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("volumes/raw", data=volume(dtype), chunks=(3, 10, 10), compression="gzip")
        file.create_dataset("flat", data=np.zeros((3, 3)))
    return str(folder / "a.h5")


def hdf5_dataset(folder: Path, dtype: str) -> str:
    with h5py.File(hdf5(folder, dtype), "a") as file:
        file.create_dataset("other", data=volume(dtype)[:3])
    return f"{folder}/a.h5:/volumes/raw"


def hdf5_big_endian(folder: Path, dtype: str) -> str:
    folder.mkdir()
    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("raw", data=volume(dtype).astype(np.dtype(dtype).newbyteorder(">")))
    return str(folder / "a.hdf5")


def zarr_array(folder: Path, dtype: str, *, zarr_format: Literal[2, 3]) -> str:
    values = volume(dtype)
    array = zarr.create_array(
        str(folder / "a.zarr"), shape=values.shape, chunks=(3, 10, 10), dtype=values.dtype, zarr_format=zarr_format
    )
    array[:] = values
    return str(folder / "a.zarr")


def five_axes(folder: Path, dtype: str) -> str:
    group = zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=volume(dtype)[None, None], chunks=(1, 1, 3, 10, 10))
    axes: list[Any] = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scale: list[Any] = [{"type": "scale", "scale": [1, 1, 0.05, 0.004, 0.004]}]
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    ]
    return str(folder / "a.zarr")


MAKERS = {
    "tiff series": tiff_series,
    "tiff series, deflate": lambda folder, dtype: tiff_series(folder, dtype, compression="deflate"),
    "tiff series, tiled": lambda folder, dtype: tiff_series(folder, dtype, tile=(16, 16)),
    "png series": png_series,
    "png glob": png_glob,
    "png series behind a URL": png_series_in_memory,
    "tiff stack": tiff_stack,
    "tiff stack, big endian": lambda folder, dtype: tiff_stack(folder, dtype, byteorder=">"),
    "tiff stack, deflate": lambda folder, dtype: tiff_stack(folder, dtype, compression="deflate"),
    "tiff stack behind a URL": tiff_stack_in_memory,
    "imagej": lambda folder, dtype: tiff_stack(folder, dtype, imagej=True),
    "imagej, one page": imagej_stack_of_one_page,
    "ome-tiff": lambda folder, dtype: tiff_stack(folder, dtype, ome=True, metadata={"axes": "ZYX"}),
    "hdf5": hdf5,
    "hdf5 dataset": hdf5_dataset,
    "hdf5, big endian": hdf5_big_endian,
    "zarr v2": lambda folder, dtype: zarr_array(folder, dtype, zarr_format=2),
    "zarr v3": lambda folder, dtype: zarr_array(folder, dtype, zarr_format=3),
    "ome-zarr 0.4 of five axes": five_axes,
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_format_reads_every_band(tmp_path: Path, name: str, dtype: str):
    expected = volume(dtype)
    source = open_any_format(MAKERS[name](tmp_path / "source", dtype))
    try:
        assert source.info.shape == SHAPE
        assert source.info.dtype == np.dtype(dtype)
        for z_start, z_stop, y_start, y_stop in [(0, 12, 0, 30), (0, 3, 0, 8), (5, 11, 7, 30), (11, 12, 29, 30)]:
            got = source.read(z_start=z_start, z_stop=z_stop, y_start=y_start, y_stop=y_stop)
            assert got.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(got, expected[z_start:z_stop, y_start:y_stop])
    finally:
        source.close()


def test_jpeg_series(tmp_path: Path):
    for z, section in enumerate(smooth()):
        (tmp_path / f"s{z}.jpeg").write_bytes(imagecodecs.jpeg_encode(section, level=98))
    source = open_any_format(str(tmp_path))
    got = source.read(z_start=2, z_stop=12, y_start=3, y_stop=30)
    source.close()
    assert np.abs(got.astype(int) - smooth()[2:12, 3:30]).max() <= 3


def sizes(url: str) -> tuple[float | None, float | None]:
    source = open_any_format(url)
    source.close()
    return source.info.sizes.pixel_size, source.info.sizes.section_thickness


def test_sizes_are_read_where_the_file_tells_them(tmp_path: Path):
    assert sizes(tiff_stack(tmp_path / "plain", "uint8", resolution=(72, 72), resolutionunit="INCH")) == (None, None)
    imagej = {"unit": "um", "spacing": 0.05}
    url = tiff_stack(tmp_path / "imagej", "uint8", imagej=True, metadata=imagej, resolution=(250, 250))
    assert sizes(url) == pytest.approx((4, 50))
    ome = {"axes": "ZYX", "PhysicalSizeX": 4.6, "PhysicalSizeXUnit": "nm", "PhysicalSizeZ": 0.05}
    assert sizes(tiff_stack(tmp_path / "ome", "uint8", ome=True, metadata=ome)) == pytest.approx((4.6, 50))
    url = hdf5(tmp_path / "hdf5", "uint8")
    with h5py.File(url, "a") as file:
        file["volumes/raw"].attrs["resolution"] = (40.0, 4.0, 4.0)
    assert sizes(url) == (4, 40)
    assert sizes(five_axes(tmp_path / "zarr", "uint8")) == pytest.approx((4, 50))
    info = VolumeInfo(shape=SHAPE, dtype=np.dtype(np.uint8), pixel_size=5, section_thickness=45)
    create_volume(str(tmp_path / "own.zarr"), info=info, chunk=(1, 8, 8), shard=(1, 8, 8), mips=1)
    assert sizes(str(tmp_path / "own.zarr")) == (5, 45)


@given(numbers=st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_the_order_of_the_numbers(numbers: list[int]):
    names = [f"a_{number}_b.tif" for number in numbers]
    assert natural_order(names) == [f"a_{number}_b.tif" for number in sorted(numbers)]


def test_natural_order_of_mixed_names():
    names = ["s10.tif", "s2.tif", "2.tif", "s.tif", "s2a.tif"]
    assert natural_order(names) == ["2.tif", "s2.tif", "s2a.tif", "s10.tif", "s.tif"]


def test_several_kinds_of_images_need_a_pattern(tmp_path: Path):
    png_glob(tmp_path / "a", "uint8")
    with pytest.raises(SourceError, match=r"several kinds \(jpg, png\).*\*\.jpg"):
        open_any_format(str(tmp_path / "a"))
