"""Peak memory of `import` with one channel of a source, and with all of them.

    python -m benchmarks.channel_memory --sections 16 --side 2048 --channels 4

Each import runs in a process of its own. Printed in MB beside the size of the whole source: what the import takes
beyond the memory after loading modules.
"""

import argparse
import json
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import tifffile
import zarr

from tests.support.peak_memory import peak_growth

SOURCES = ("a.zarr", "a.h5", "a.ome.tif", "files")


def write_sources(folder: Path, channels: int, sections: int, side: int) -> None:
    """Write the same noise as Zarr, HDF5, OME-TIFF and a file per section and channel."""
    shape = (channels, sections, side, side)
    values = np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8)
    array = zarr.create_array(
        str(folder / "a.zarr"), shape=shape, chunks=(1, 1, 512, 512), dtype="u1", dimension_names=list("czyx")
    )
    array[...] = values
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("em", data=values, chunks=(1, 1, 512, 512)).attrs["axes"] = "czyx"
    tifffile.imwrite(folder / "a.ome.tif", values, metadata={"axes": "CZYX"}, photometric="minisblack")
    (folder / "files").mkdir()
    for channel in range(channels):
        for z in range(sections):
            tifffile.imwrite(folder / "files" / f"s{z:03d}_ch{channel}.tif", values[channel, z])


def measure(url: str, out: Path, *, every_channel: bool) -> int:
    """Return the growth of the peak memory of an import, bytes."""
    options = "channels='all', channel=0" if every_channel else "channel=0"
    return peak_growth(f"""
        from ssem_dask.volumes.importing import import_volume
        import ssem_dask.storage.formats.tiff_file, ssem_dask.storage.formats.hdf5, ssem_dask.storage.formats.series
        begin()
        import_volume({url!r}, {str(out)!r}, pixel_size=5.0, section_thickness=40.0, {options})
    """)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=16)
    parser.add_argument("--side", type=int, default=2048, help="px")
    parser.add_argument("--channels", type=int, default=4)
    given = parser.parse_args()
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # In a process of its own, since the peak of a process begins with that of the process that started it.
        writer = get_context("spawn").Process(
            target=write_sources, args=(place, given.channels, given.sections, given.side)
        )
        writer.start()
        writer.join()
        for name in SOURCES:
            url = str(place / name)
            found[name] = {
                "one": measure(url, place / f"{name}.one.zarr", every_channel=False) >> 20,
                "all": measure(url, place / f"{name}.all.zarr", every_channel=True) >> 20,
            }
    record = {"source_mb": given.channels * given.sections * given.side**2 >> 20, "growth_mb": found}
    sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
