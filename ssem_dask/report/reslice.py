"""Picture of a volume cut across its sections, before and after alignment, for a first impression of its quality."""

from pathlib import Path

import numpy as np

from ssem_dask.geometry.box import Box
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.storage.location import join
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from ssem_dask.volumes.alignment import Alignment

_MAX_WIDTH_PX = 1024
"""Longest cut that is shown; of larger sections only the middle."""


def draw_reslices(run: str, *, picture: Path) -> None:
    """Draw xz and yz reslices, before | after, through the middle of the sections.

    Args:
        run: URL of a run whose aligned volume is complete.
        picture: PNG to write.

    Raises:
        SourceError: there is no run, or its source is gone.
    """
    import matplotlib as mpl  # slow to import, and only this picture needs it
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    alignment = Alignment(run)
    volumes = {
        "before": alignment.record.open_source(),
        "after": Volume.open(join(run, ALIGNED)),
    }
    info = volumes["after"].info
    z, _, x = info.shape
    # Sections are drawn at their true thickness, but thick enough to be seen in a short volume.
    stretch = max(info.section_thickness / info.pixel_size, min(_MAX_WIDTH_PX, x) / (2.5 * z))
    with mpl.rc_context({"font.size": 9}):
        height = 2 * stretch * z / min(_MAX_WIDTH_PX, x) * 5.2 + 1.6
        figure = Figure(figsize=(11, height), layout="constrained")
        axes = figure.subplots(2, 2)
        for column, (time, volume) in enumerate(volumes.items()):
            for row, (name, image) in enumerate((("xz", _cut_xz(volume)), ("yz", _cut_yz(volume)))):
                extent = image.shape[1] * info.pixel_size / 1000
                axis = axes[row, column]
                low, high = np.percentile(image, [0.5, 99.5])
                axis.imshow(
                    image,
                    cmap="gray",
                    vmin=low,
                    vmax=max(high, low + 1),
                    aspect="auto",
                    interpolation="nearest",
                    extent=(0, extent, z - 0.5, -0.5),
                )
                axis.set_title(f"{name}, {time} alignment")
                axis.set_xlabel(f"{name[0]}, µm")
                axis.set_ylabel("z, section")
                axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        figure.savefig(picture, dpi=130)


def _cut_xz(volume: Volume) -> AnyArray:
    z, y, x = volume.info.shape
    width = min(x, _MAX_WIDTH_PX)
    left = (x - width) // 2
    return volume.read(Box((0, y // 2, left), (z, y // 2 + 1, left + width)))[:, 0]


def _cut_yz(volume: Volume) -> AnyArray:
    z, y, x = volume.info.shape
    width = min(y, _MAX_WIDTH_PX)
    top = (y - width) // 2
    return volume.read(Box((0, top, x // 2), (z, top + width, x // 2 + 1)))[:, :, 0]
