"""Stage mask: which regions of each section are empty, damaged or torn, in the frame of the source.

A task reads its sections and their neighbours once, coarse-aligned and at about 20 nm per px, finds damage
(`registration.damage`), maps it back to the source and writes one shard of `masks/damage`. A user's own mask replaces
the detected one, or is combined with it.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssem_dask.errors import SourceError
from ssem_dask.field.affine import apply_affine, invert_affine, localise_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.piecewise_affine import PiecewiseAffine
from ssem_dask.field.warp import sample_image
from ssem_dask.fixes.section_fixes import NO_FIXES, SectionFixes, VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.mip import mip_for_pixel_size, shape_at_mip
from ssem_dask.geometry.region import Footprint
from ssem_dask.registration.damage import DAMAGED, HALO_PX, MASK_PIXEL_NM, TEAR, Z_REACH, detect_damage, pool_codes
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_INVERTED
from ssem_dask.stages.array_rows.pair_arrays import DAMAGE, mask_shape, mask_shard
from ssem_dask.stages.coarse_parts import coarse_to_source, part_regions, read_parts
from ssem_dask.stages.configs import MaskStageConfig, ResolvedMask
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import open_source, read_aligned_sections
from ssem_dask.stages.stage import Estimate, JobTask, Stage
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.task import Result, box_name
from ssem_dask.types import AnyArray, ConfigBase, Float64Array, ShapeZYX

_EMPTY_SIDE_PX = 3  # px of the mask: pooled px of equal value are rare in tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskTask(JobTask):
    """The mask of one shard."""

    box: Box
    """Box at the mip of the masks."""

    def run(self) -> Result:
        """Find the damage of a shard, combine it with the user's mask, write."""
        job, box = self.job, self.box
        codes, read = np.zeros(box.shape, dtype=np.uint8), 0
        if job.mask.detects:
            codes, read = _detected_codes(job, box)
        if job.mask.user is not None:
            codes = np.maximum(codes, _user_codes(job, job.mask.user, box))
        z, y, x = box.slices
        return Result(bytes_read=read, bytes_written=DAMAGE.write(job, codes, z=z, y=y, x=x))

    def footprint(self) -> Footprint:
        """Read the sections around, wherever the coarse affine leads; write one shard of the masks."""
        z = self.box.sections
        first, last = z.start - Z_REACH, z.stop + Z_REACH
        arrays = COARSE, COARSE_INVERTED
        reads = (
            *self.job.source_regions(first, last),
            *(array.region(self.job, first, last) for array in arrays),
            *part_regions(self.job, max(0, first), last),
        )
        return Footprint(
            reads=reads if self.job.mask.detects else (),
            writes=(DAMAGE.region_of(_mip0_box(self.job, self.box)),),
        )


class MaskStage(Stage):
    """Masks of empty, damaged or torn regions."""

    name = "mask"
    upstream = ("coarse",)
    config_type = MaskStageConfig

    def resolve(self, config: ConfigBase, info: VolumeInfo) -> tuple[ConfigBase, list[str]]:
        """Choose the mip of the masks.

        Raises:
            SourceError: the user's mask cannot be read or does not fit the sections.
        """
        assert isinstance(config, MaskStageConfig)
        if config.user is not None:
            user_mip(config.user, info.shape)
        mip, choices = config.mip, []
        if mip is None:
            mip = mip_for_pixel_size(info.pixel_size, wanted=MASK_PIXEL_NM)
            pixel = info.pixel_size * 2**mip
            if config.active:
                choices.append(f"mask.mip = {mip}: its pixel, {pixel:.3g} nm, is the nearest to {MASK_PIXEL_NM:.0f} nm")
        return ResolvedMask.model_validate({**dict(config), "mip": mip}), choices

    def decisive(self, job: Job) -> dict[str, Any]:
        """Return the settings; nothing if there are no masks."""
        return job.mask.model_dump(mode="json") if job.mask.active else {}

    def prepare(self, job: Job) -> None:
        """Create `masks/damage`; nothing if there are no masks."""
        if job.mask.active:
            DAMAGE.create(job)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield all shards; they are independent."""
        yield (
            MaskTask(
                **self.task_fields(
                    job,
                    box_name(box.start),
                    pixels=_mip0_box(job, box).size,
                    fixes=_exchanged(job, box) if job.mask.detects else NO_FIXES,
                    stop=box.start[0] + mask_shard(job)[0] + Z_REACH,
                ),
                box=box,
            )
            for box in _boxes(job)
        )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost. Each task reads its shard and the halo, and holds its sections at the mask's mip."""
        boxes = list(_boxes(job))
        z, y, x = mask_shard(job)
        sections, pixels = z + 2 * Z_REACH, (y + 2 * HALO_PX) * (x + 2 * HALO_PX)
        read = sum(
            _mip0_box(job, box).size * (min(box.shape[0] + 2 * Z_REACH, job.shape[0])) // box.shape[0] for box in boxes
        )
        return Estimate(
            tasks=len(boxes),
            pixels=sum(_mip0_box(job, box).size for box in boxes),
            bytes_read=job.source_bytes(read, mip=job.mask.mip) if job.mask.detects else 0,
            bytes_written=sum(box.size for box in boxes),
            files=len(boxes),
            # Images, normalised images and masks of all sections; three cues each; shifts of the pairs; one read band.
            memory=pixels * 4 * (sections * 6 + 20) + (1 << 26) * (4 + job.info.dtype.itemsize),
        )


def read_codes(
    masks: ZarrArray, *, z: int, mip: int, box: Box, affine: Float64Array, parts: PiecewiseAffine | None = None
) -> Tensor:
    """Return the codes `(y, x)` uint8 in a box of a section that is aligned by its coarse affine.

    Args:
        masks: `masks/damage`.
        z: section.
        mip: of the masks.
        box: where, in aligned pixels of `box.mip`; its z is not used.
        affine: `(2, 3)` aligned → source, mip-0 px.
        parts: parts of the section; None: it is whole.
    """
    grid = Grid.of_box(box)
    local = localise_affine(affine, target=grid.origin, source=(0.0, 0.0))
    # Tissue that a fold has swallowed is unknown in the images as well, so its code does not matter.
    where = coarse_to_source(local, parts, grid.relative_to(grid.origin).positions()).nan_to_num()
    height, width = masks.shape[1:]
    y, x = ((where[axis] / 2**mip).floor().long().clamp(0, n - 1).numpy() for axis, n in enumerate((height, width)))
    pixels = np.asarray(masks[z, y.min() : y.max() + 1, x.min() : x.max() + 1])
    return torch.from_numpy(pixels[y - y.min(), x - x.min()])


def user_mip(user: str, shape: ShapeZYX) -> int:
    """Return the mip of the user's mask at a URL, by its shape.

    Raises:
        SourceError: it cannot be read, is not made of integers, or fits the sections at no mip.
    """
    with contextlib.closing(open_any_format(user)) as opened:
        info = opened.info
    if info.dtype.kind not in "iub":
        raise SourceError(f"[mask] user = {user}: its values are {info.dtype}, but codes are integers; convert it.")
    for mip in range(max(shape[1:]).bit_length() + 1):
        if info.shape == (shape[0], *shape_at_mip(shape[1:], mip=mip)):
            return mip
    raise SourceError(
        f"[mask] user = {user}: has shape {info.shape}, but the source has {shape}; give a mask of that shape, "
        "or with y and x divided by a power of two and rounded up."
    )


def _detected_codes(job: Job, box: Box) -> tuple[AnyArray, int]:
    """Return the codes (z, y, x) that detection finds, and the bytes read."""
    mip, volume = job.mask.mip, open_source(job)
    read = box.grown(before=(Z_REACH, 0, 0), after=(Z_REACH, 0, 0)).clipped(mask_shape(job))
    affines, parts = COARSE.read(job, z=read.sections), read_parts(job, read.sections)
    core = range(box.start[0] - read.start[0], box.stop[0] - read.start[0])
    aligned = _aligned_box(box, [affines[i] for i in core])
    sections = list(
        read_aligned_sections(
            volume,
            sections=read.sections,
            box=aligned,
            affines=affines,
            inverted=COARSE_INVERTED.read(job, z=read.sections),
            parts=parts,
            empty_side=_EMPTY_SIDE_PX,
        )
    )
    with torch.inference_mode():
        codes = detect_damage(
            torch.stack([image for image, _ in sections]), tissue=torch.stack([t for _, t in sections]), core=core
        )
        target, source = Grid.of_box(box), Grid.of_box(aligned)
        positions = target.positions().double()
        carried = []
        for i, found in zip(core, codes, strict=True):
            broken = parts.get(read.start[0] + i)
            whole = positions if broken is None else broken.to_whole(positions)
            back = localise_affine(invert_affine(affines[i]), target=(0.0, 0.0), source=source.origin)
            values, _ = sample_image(
                found.float()[None],
                grid=source.relative_to(source.origin),
                positions=apply_affine(back, whole).float(),
                kind="nearest",
            )
            carried.append(values[0].to(torch.uint8).numpy())
    seen = len(sections) * aligned.shape[1] * aligned.shape[2] * 4**mip
    return np.stack(carried), job.source_bytes(seen, mip=mip)


def _aligned_box(box: Box, affines: list[Float64Array]) -> Box:
    """Return the box that holds the source box of each section after alignment, and the halo around."""
    corners = np.array([[y, x, 1.0] for y in (box.start[1], box.stop[1]) for x in (box.start[2], box.stop[2])])
    corners[:, :2] *= 2**box.mip
    places = np.concatenate([corners @ invert_affine(affine).T for affine in affines]) / 2**box.mip
    low, high = np.floor(places.min(axis=0)).astype(int) - HALO_PX, np.ceil(places.max(axis=0)).astype(int) + HALO_PX
    return Box((box.start[0], int(low[0]), int(low[1])), (box.stop[0], int(high[0]), int(high[1])), box.mip)


def _user_codes(job: Job, user: str, box: Box) -> AnyArray:
    """Return the codes (z, y, x) of the user's mask at a URL, at the mip of the masks."""
    mip, theirs = job.mask.mip, user_mip(user, job.shape)
    wanted = box.at_mip(theirs) if theirs <= mip else Box(box.start, box.stop, mip).at_mip(theirs)
    wanted = wanted.clipped((job.shape[0], *shape_at_mip(job.shape[1:], mip=theirs)))
    with contextlib.closing(open_any_format(user)) as opened:
        band = opened.read(
            z_start=wanted.start[0], z_stop=wanted.stop[0], y_start=wanted.start[1], y_stop=wanted.stop[1]
        )
    values = band[:, :, wanted.start[2] : wanted.stop[2]]
    codes = np.where((values < 0) | (values > TEAR), DAMAGED, values).astype(np.uint8)
    if theirs <= mip:
        return pool_codes(codes, factor=2 ** (mip - theirs))
    factor = 2 ** (theirs - mip)
    y, x = (
        np.arange(a, b) // factor - low for a, b, low in zip(box.start[1:], box.stop[1:], wanted.start[1:], strict=True)
    )
    return codes[:, y][:, :, x]


def _boxes(job: Job) -> Iterator[Box]:
    if job.mask.active:
        yield from chunk_boxes(mask_shape(job), chunk=mask_shard(job), mip=job.mask.mip)


def _exchanged(job: Job, box: Box) -> VolumeFixes:
    """Return the fixes that say which of the sections that a task reads have changed places."""
    read = range(box.start[0] - Z_REACH, box.stop[0] + Z_REACH)
    fixes = job.fitted_fixes.within(read).sections
    return VolumeFixes(sections={z: SectionFixes(other=f.other) for z, f in fixes.items() if f.other is not None})


def _mip0_box(job: Job, box: Box) -> Box:
    """Return the box at mip 0."""
    return box.at_mip(0).clipped(job.shape)
