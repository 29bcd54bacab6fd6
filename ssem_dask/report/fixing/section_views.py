"""Sections as the page shows them: square tiles of any volume, at any mip, in several views.

    source      as imported
    placed      placed by the coarse map, or by what the fixes say of the section
    result      the aligned volume
    previous    the result before the last apply, from fields that were kept

Every view has its own positions, in mip-0 px. Fixes are in source px; `to_source` maps positions of a view there.
"""

import io
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ssem_dask.driver.rerun import stored_plan
from ssem_dask.errors import SourceError, SsemDaskError
from ssem_dask.field.affine import IDENTITY
from ssem_dask.field.border import extrapolated
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.fixes.section_fixes import NO_FIXES, VolumeFixes, placed_map
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.report.intensities import intensity_limits, stretch_intensities
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.fixed_rows import read_places
from ssem_dask.stages.source_sections import Sampling, read_aligned, sample_sections
from ssem_dask.stages.warped_pixels import Nodes
from ssem_dask.storage.arrays import is_node
from ssem_dask.storage.fields import open_coarse, open_field
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import RunRecord, read_run, read_writable_run
from ssem_dask.storage.volume import Volume
from ssem_dask.types import Float64Array
from ssem_dask.volumes.alignment import Alignment

TILE_PX = 256
VIEWS = ("source", "placed", "result", "previous")
_EXTRA_MIPS = 3
"""Levels beyond those that the source stores: a tile of the last is made of 2048² stored px."""
_LIMIT_SECTIONS = 5
_LIMIT_SIDE_PX = 512
_KEPT_NODES = 512
"""Nodes per side that are kept of a section's previous field; more are more than a screen shows."""
_KEPT_SECTIONS = 200
_WHITE = 255


@dataclass(frozen=True, slots=True)
class _Previous:
    """The fields of a run before its last change, of some sections."""

    nodes: Mapping[int, Nodes]


class SectionViews:
    """The pictures of one run; may be used by several threads."""

    def __init__(self, run: str) -> None:
        """Open the run.

        Raises:
            SourceError: there is no run, or its source cannot be read, or nothing was aligned yet.
            OutputError: the run has another format than the one that this version writes.
        """
        self.run = run
        self.record: RunRecord = read_writable_run(run)
        self.source = self.record.open_source()
        if not is_node(COARSE.at(run)):
            raise SourceError(
                f"{run}: no section has a place yet, so there is nothing to look at; complete the run with the command "
                "that started it, then fix what is wrong."
            )
        self._lock = threading.Lock()
        self._previous = _Previous({})
        self.fixes: VolumeFixes = NO_FIXES
        """Content of the file of fixes at present."""
        self.reload()
        self._limits = self._intensity_limits()

    def reload(self) -> None:
        """Read again what a change of the run has written."""
        coarse, followed = _read_places(self.run)
        aligned = join(self.run, ALIGNED)
        volume = Volume.open(aligned) if is_node(aligned) else None
        alignment = Alignment(self.run) if is_node(SECTION.at(self.run)) else None
        with self._lock:
            self._coarse, self._aligned, self._alignment = coarse, volume, alignment
            self._followed = followed

    @property
    def mips(self) -> int:
        """Number of scale levels: until a section is one tile, as far as the source's levels reach."""
        mips = 1
        largest = len(self.source.mips) + _EXTRA_MIPS
        while max(self.source.shape_at(mips - 1)[1:]) > TILE_PX and mips < largest:
            mips += 1
        return mips

    def views(self, z: int) -> list[str]:
        """Return the views that exist of a section."""
        exists = {
            "source": True,
            "placed": np.isfinite(self.affine(z)).all(),
            "result": self._aligned is not None,
            "previous": z in self._previous.nodes,
        }
        return [view for view in VIEWS if exists[view]]

    @property
    def kept_sections(self) -> list[int]:
        """Return the sections whose previous fields are kept."""
        return list(self._previous.nodes)

    def affine(self, z: int) -> Float64Array:
        """Return the map `(2, 3)`, placed → source, of a section; NaN if it has no place."""
        fixed, followed = (
            placed_map(fixes.of(z), shape_yx=self.source.info.shape[1:]) for fixes in (self.fixes, self._followed)
        )
        # The run has placed this section already, more exactly than the fix says.
        is_new = fixed is not None and (followed is None or not np.array_equal(fixed, followed))
        return np.asarray(fixed if is_new else self._coarse[z])

    def to_source(self, view: str, points: Float64Array) -> Float64Array:
        """Map positions `(n, 3)` (z, y, x) of the view `result` to source px; NaN where the field is unknown."""
        return self._mapped(view, points, to="source")

    def from_source(self, view: str, points: Float64Array) -> Float64Array:
        """Map source positions `(n, 3)` (z, y, x) to the view `result`."""
        return self._mapped(view, points, to="aligned")

    def tile(self, view: str, *, mip: int, z: int, row: int, column: int) -> bytes:
        """Return a tile as PNG.

        Raises:
            FileNotFoundError: there is no such tile.
        """
        shape = self.source.info.shape
        if view not in VIEWS or not (0 <= z < shape[0] and 0 <= mip < self.mips and row >= 0 and column >= 0):
            raise FileNotFoundError(view)
        box = Box(
            (z, row * TILE_PX, column * TILE_PX), (z + 1, (row + 1) * TILE_PX, (column + 1) * TILE_PX), mip
        ).clipped(self.source.shape_at(mip))
        if not box.size:
            raise FileNotFoundError(view)
        with torch.inference_mode():
            image, known = self._pixels(view, z, box)
        low, high = self._limits
        grey = stretch_intensities(image.numpy(), low=low, high=high)
        # 0 is where nothing is known, so that the page can separate it from black.
        grey = np.where(known.numpy(), grey.clip(1), 0).astype(np.uint8)
        if view == "placed" and self.fixes.of(z).inverted:
            grey = np.where(grey > 0, _WHITE + 1 - grey.astype(np.int16), 0).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(grey).save(stream, "PNG", compress_level=1)
        return stream.getvalue()

    def keep_fields(self, sections: Iterable[int]) -> None:
        """Keep the present fields of some sections as the previous ones."""
        if self._alignment is None:
            return
        array, info = open_field(SECTION.at(self.run))
        nodes = {}
        step = max(1, ceil_div(max(info.nodes), _KEPT_NODES))
        for z in sorted(set(sections))[:_KEPT_SECTIONS]:
            if not 0 <= z < info.shape_mip0[0]:
                continue
            # Every step-th node, the middle one of its group.
            first = (step - 1) // 2
            values = np.asarray(array[z, :, first::step, first::step], dtype=np.float32)
            start = (first - (step - 1) / 2) * info.spacing
            grid = Grid((values.shape[1], values.shape[2]), float(info.spacing * step), (start, start))
            nodes[z] = Nodes(*extrapolated(torch.from_numpy(np.ascontiguousarray(values)), grid=grid))
        with self._lock:
            self._previous = _Previous(nodes)

    def moved(self) -> dict[int, tuple[float, float]]:
        """Return for each kept section how far it has moved since, px: median and 95th percentile."""
        if self._alignment is None:
            return {}
        array, info = open_field(SECTION.at(self.run))
        lengths = {}
        for z, kept in self._previous.nodes.items():
            grid = Grid(info.nodes, float(info.spacing))
            field = torch.from_numpy(np.asarray(array[z], dtype=np.float32))
            now = sample_known(field, grid=grid, positions=kept.grid.positions())
            length = torch.linalg.vector_norm(now - kept.values, dim=0).numpy()
            length = length[np.isfinite(length)]
            lengths[z] = (
                (float(np.median(length)), float(np.percentile(length, 95))) if length.size else (np.nan, np.nan)
            )
        return lengths

    def with_fixes(self, fixes: VolumeFixes) -> None:
        """Show sections as some fixes say."""
        self.fixes = fixes

    def _pixels(self, view: str, z: int, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
        if view == "source":
            return read_aligned(self.source, z=z, box=box, affine=IDENTITY)
        if view == "placed":
            affine = self.affine(z)
            if not np.isfinite(affine).all():
                raise FileNotFoundError(view)
            other = self.fixes.of(z).other  # the section that has changed places with it
            return read_aligned(self.source, z=z if other is None else other, box=box, affine=affine)
        if view == "result":
            if self._aligned is None:
                raise FileNotFoundError(view)
            return read_aligned(self._aligned, z=z, box=box, affine=IDENTITY)
        nodes = self._previous.nodes.get(z)
        if nodes is None:
            raise FileNotFoundError(view)
        return _warped(self.source, nodes, z=z, box=box)

    def _mapped(self, view: str, points: Float64Array, *, to: str) -> Float64Array:
        if view != "result" or self._alignment is None:
            raise FileNotFoundError(view)
        return self._alignment.map_points(points, to=to)

    def _intensity_limits(self) -> tuple[float, float]:
        sections = self.source.info.shape[0]
        samples = []
        mip = self.mips - 1
        extent = self.source.shape_at(mip)
        y, x = (max(0, (n - _LIMIT_SIDE_PX) // 2) for n in extent[1:])
        for z in np.unique(np.linspace(0, sections - 1, min(sections, _LIMIT_SECTIONS)).round().astype(int)):
            box = Box((int(z), y, x), (int(z) + 1, y + _LIMIT_SIDE_PX, x + _LIMIT_SIDE_PX), mip)
            try:
                image, known = read_aligned(self.source, z=int(z), box=box.clipped(extent), affine=IDENTITY)
            except SsemDaskError:
                continue  # a damaged section is no reason to show none
            samples.append(image[known].numpy())
        low, high = intensity_limits(np.concatenate(samples)) if samples else (0.0, 255.0)
        return low, max(high, low + 1.0)


def _read_places(run: str) -> tuple[Float64Array, VolumeFixes]:
    """Return the maps `(z, 2, 3)`, placed → source, and the fixes that they follow."""
    fitted = np.asarray(open_coarse(COARSE.at(run))[:], dtype=np.float64)
    job = stored_plan(run).job
    try:
        places = np.asarray(read_places(job, COARSE, range(job.shape[0])), dtype=np.float64)
    except SsemDaskError:
        return fitted, NO_FIXES  # the driver was interrupted before it had placed anything again
    known = np.isfinite(places).all(axis=(1, 2), keepdims=True)
    return np.where(known, places, fitted), job.fixes if read_run(run).state == "complete" else NO_FIXES


def _warped(source: Volume, nodes: Nodes, *, z: int, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample a section at the positions of a field, at the mip of the box."""
    pixels = Grid.of_box(box)
    positions = pixels.positions()
    positions = positions + sample_known(nodes.values, grid=nodes.grid, positions=positions)
    known = positions[:, torch.isfinite(positions).all(dim=0)]
    reach = (known.amin(dim=1).tolist(), known.amax(dim=1).tolist()) if known.numel() else None
    sampling = Sampling(
        sections=range(z, z + 1),
        mip=box.mip,
        shape=pixels.shape,
        positions=[lambda rows: positions[:, rows]],
        affines=[IDENTITY.copy()],
        reaches=[reach],
    )
    return next(sample_sections(source, sampling, kind="bicubic"))
