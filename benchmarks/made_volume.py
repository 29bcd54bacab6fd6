"""A volume of any size to measure speed on: made-up tissue, mirrored until it fills a section, each displaced.

It has a pyramid, as an imported volume has.
"""

import os
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from operator import methodcaller

import numpy as np
import torch

from ssem_dask.evaluation.phantom.generate import generate
from ssem_dask.evaluation.phantom.phantom_config import PhantomConfig
from ssem_dask.field.device import compute_device
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import level_count
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.downsample import warp_level_tasks
from ssem_dask.stages.warped_volume import Warping
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.types import AnyArray

THICKNESS = 40.0
DEPTH = 8
SHARD = (DEPTH, 2048, 2048)
CHUNK = (DEPTH, 256, 256)
_TISSUE = 5.0  # nm per px of the phantom
_STRUCTURES, _BRIGHTNESS = 24, 12.0
"""Structures along a side that are seen from afar; how much lighter or darker they are, grey values rms."""
_AT_ONCE = 4
"""Sections that a GPU displaces at a time, so that it does not wait for copies."""


def make_volume(url: str, *, sections: int, side: int, pixel_size: float) -> None:
    """Write a displaced phantom, in parallel."""
    info = VolumeInfo(
        shape=(sections, side, side), dtype=np.dtype("uint8"), pixel_size=pixel_size, section_thickness=THICKNESS
    )
    mips = level_count((side, side), smallest=256)
    create_volume(url, info=info, chunk=CHUNK, shard=SHARD, mips=mips)
    tissue_side = round(side * pixel_size / _TISSUE)
    tile = min(512, tissue_side)
    jobs = [(z, min(z + DEPTH, sections), tile) for z in range(0, sections, DEPTH)]
    volume = Volume.open(url)
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool,
        ThreadPoolExecutor(2) as writers,
        ThreadPoolExecutor(_AT_ONCE if compute_device().type == "cuda" else 1) as displacing,
    ):
        written: list[Future[None]] = []
        for (start, stop, _), images in zip(jobs, pool.map(_tissue, jobs), strict=True):
            displaced = displacing.map(
                partial(_displaced, side=side, tissue_side=tissue_side), images, range(start, stop)
            )
            pixels = np.stack(list(displaced))
            for done in written[:-1]:  # two slabs are held at most beside the one that is made
                done.result()
            written.append(writers.submit(volume.write, Box((start, 0, 0), (stop, side, side)), pixels))
        for done in written:
            done.result()
        warping = Warping(
            source=url,
            info=info,
            fields="",
            spacing=1,
            target=url,
            mips=mips,
            config=RenderStageConfig(chunk=CHUNK, shard=SHARD),
        )
        for tasks in warp_level_tasks(warping, digest=lambda _: "", first=1):
            list(pool.map(methodcaller("run"), tasks))


def _tissue(job: tuple[int, int, int]) -> AnyArray:
    """Sections of the phantom at 5 nm."""
    start, stop, tile = job
    torch.set_num_threads(1)
    phantom = PhantomConfig(seed=3, shape=(stop, tile, tile), pixel_size=_TISSUE, section_thickness=THICKNESS)
    return generate(phantom, Box((start, 0, 0), (stop, tile, tile))).image


def _displaced(image: AnyArray, seed: int, *, side: int, tissue_side: int) -> AnyArray:
    """Mirrored until it fills the section, with what is as wide as cell bodies, displaced by some: `(side, side)`."""
    repeats = -(-tissue_side // len(image))
    tall = np.concatenate([image if r % 2 == 0 else image[::-1] for r in range(repeats)])
    wide = np.concatenate([tall if c % 2 == 0 else tall[:, ::-1] for c in range(repeats)], axis=1)
    device = compute_device()
    tissue = torch.from_numpy(wide[:tissue_side, :tissue_side].astype(np.float32)).to(device)[None, None]
    # Mirrored tissue shows nothing in thumbnails; this structure does, and it does not move.
    wide_structure = torch.randn(1, 1, _STRUCTURES, _STRUCTURES, generator=torch.Generator().manual_seed(1))
    size = (tissue_side, tissue_side)
    tissue += _BRIGHTNESS * torch.nn.functional.interpolate(
        wide_structure.to(device), size=size, mode="bicubic", align_corners=False
    )
    random = torch.Generator().manual_seed(seed)
    coarse = (torch.randn(1, 2, 6, 6, generator=random) * 8 + torch.randn(1, 2, 1, 1, generator=random) * 4).to(device)
    shift = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)[0]
    centres = (torch.arange(side, device=device) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    query = torch.stack([x + shift[1] * 2 / side, y + shift[0] * 2 / side], dim=-1)[None]
    noise = torch.randn(side, side, generator=torch.Generator(device).manual_seed(seed), device=device) * 3
    moved = torch.nn.functional.grid_sample(tissue, query, padding_mode="reflection", align_corners=False)[0, 0]
    return (moved + noise).clamp(0, 255).to(torch.uint8).cpu().numpy()
