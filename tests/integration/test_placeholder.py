"""A volume with a blank section in place of a lost one, and two that were swapped, from end to end."""

from pathlib import Path

import numpy as np
import pytest
import torch

import ssem_dask
from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.field.folding import fold_rate
from ssem_dask.geometry.box import Box
from ssem_dask.stages.array_rows.coarse_arrays import SectionState
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import open_field
from ssem_dask.storage.location import join
from ssem_dask.types import AnyArray
from tests.support.runs import SEPARATE

SHAPE = (16, 160, 160)
BLANK = 5


@pytest.fixture(scope="module")
def sections() -> AnyArray:
    """A phantom, each section shifted by a few whole px of its own."""
    config = PhantomConfig(seed=8, shape=SHAPE)
    images = generate(config, Box((0, 0, 0), SHAPE)).image.copy()
    shifts = np.random.default_rng(8).integers(-5, 6, size=(SHAPE[0], 2))
    return np.stack([np.roll(image, tuple(shift), axis=(0, 1)) for image, shift in zip(images, shifts, strict=True)])


def aligned(images: AnyArray, folder: Path) -> str:
    """URL of a run on these sections."""
    source, output = str(folder / "source.zarr"), str(folder / "out.zarr")
    array = create_array(
        source,
        shape=images.shape,
        axes=("z", "y", "x"),
        chunks=(1, 160, 160),
        dtype=images.dtype,
        shards=None,
        fill_value=0,
        attributes={},
    )
    array[:] = images
    config = {
        **SEPARATE,
        "register": {**SEPARATE["register"], "neighbours": 3},
        "compose": {"method": "relax", "relax": {"keep_natural": True}},
        "volume": {"pixel_size": 8.0, "section_thickness": 40.0},
    }
    summary = ssem_dask.align(source, output, cluster="serial", **config)
    assert summary.state == "complete"
    return output


def test_a_blank_section_is_bridged_and_uncertain(sections: AnyArray, tmp_path: Path) -> None:
    images = sections.copy()
    images[BLANK] = 0
    run = aligned(images, tmp_path)
    fields = np.asarray(open_field(join(run, "fields", "section"))[0][:])
    array, info = open_field(join(run, "fields", "uncertainty"))
    sigma = np.asarray(array[:])
    assert np.isfinite(fields).all()
    assert not any(fold_rate(torch.from_numpy(f), spacing=info.spacing) for f in fields)
    assert array.attrs["unit"] == "px@mip0"
    assert array.attrs["axes"] == ["z", "y", "x"]
    assert np.isfinite(sigma).all()
    assert sigma[BLANK].mean() > 2 * np.median(sigma.mean(axis=(1, 2)))
    state = np.asarray(open_array(join(run, "fields", "coarse_state"), mode="r")[:])
    assert np.flatnonzero(state != SectionState.TIED).tolist() == [BLANK]
    natural, _ = open_field(join(run, "fields", "natural"))
    assert natural.shape == fields.shape
    assert np.isnan(natural[0]).all()
    assert np.isfinite(np.asarray(natural[1:])).all()


def test_order_is_told_of_and_left_as_it_is(sections: AnyArray, tmp_path: Path) -> None:
    order = [0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11, 11, 12, 13, 14]
    run = aligned(sections[order], tmp_path)
    state = np.asarray(open_array(join(run, "fields", "coarse_state"), mode="r")[:])
    assert np.flatnonzero(state == SectionState.MISPLACED).tolist() == [3, 4]
    assert np.flatnonzero(state == SectionState.REPEATED).tolist() == [12]
