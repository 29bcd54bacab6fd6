"""The mask stage: found and given masks, their position, and input that is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.errors import SourceError
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.evaluation.truth import Truth
from ssem_dask.field.affine import IDENTITY, rotation_about
from ssem_dask.geometry.box import Box
from ssem_dask.stages import mask
from ssem_dask.stages.array_rows.coarse_arrays import COARSE_INVERTED
from ssem_dask.stages.job import Job
from ssem_dask.stages.mask import MaskStage
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.fields import create_coarse
from ssem_dask.storage.run_group import create_run

pytestmark = pytest.mark.slow

SECTIONS, SIDE = 6, 320


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A phantom with cracks, otherwise undeformed."""
    url = str(tmp_path_factory.mktemp("volume") / "observed.zarr")
    simulate_phantom(
        PhantomConfig(seed=3, shape=(SECTIONS, SIDE, SIDE), oblique=0.0),
        url,
        seed=5,
        deformation=DeformationConfig.preset("none"),
        damage=DamageConfig(fraction=0.34, kinds=("crack",)),
    )
    return url


def _job(source: str, folder: Path, affine: Any = IDENTITY, **table: Any) -> Job:
    job, _ = resolve(
        make_config({"source": source, "output": str(folder / "out.zarr"), "mask": table, "coarse": {"parts": False}})
    )
    create_run(job.output, attributes={"state": "running"})
    create_coarse(job.url("fields", "coarse"), shape_mip0=job.shape)[:] = np.stack([affine] * SECTIONS)
    COARSE_INVERTED.create(job)
    COARSE_INVERTED.write(job, np.zeros(SECTIONS, dtype=np.uint8))
    return job


def _masks(job: Job) -> np.ndarray[Any, Any]:
    MaskStage().prepare(job)
    for generation in MaskStage().generations(job):
        for task in generation:
            task.run()
    return np.asarray(open_array(job.url("masks", "damage"), mode="r")[:])


def _user(folder: Path, values: np.ndarray[Any, Any]) -> str:
    url = str(folder / "user.zarr")
    zarr.create_array(url, data=values)
    return url


def test_cracks_are_found_in_the_frame_of_the_source_whatever_the_coarse_affine(observed: str, tmp_path: Path) -> None:
    turned = rotation_about(degrees=20.0, centre=(SIDE / 2, SIDE / 2), shift=(9.0, -14.0))
    codes = _masks(_job(observed, tmp_path, affine=turned, detect=True))
    truth = Truth.open(observed)
    assert codes.shape == (SECTIONS, SIDE // 4, SIDE // 4)
    assert truth.damaged
    for z in range(SECTIONS):
        torn = truth.damage(z).reshape(SIDE // 4, 4, SIDE // 4, 4).mean(axis=(1, 3)) > 0.5
        if z in truth.damaged:
            assert (codes[z][torn] >= 2).mean() > 0.6
        assert (codes[z][~torn] >= 2).mean() < 0.06


def test_a_users_mask_overrides_or_adds(observed: str, tmp_path: Path) -> None:
    values = np.zeros((SECTIONS, SIDE // 2, SIDE // 2), dtype=np.uint16)
    values[1, 4:20, 8:30], values[2, 0, 0] = 3, 700
    url = _user(tmp_path, values)
    alone = _masks(_job(observed, tmp_path / "a", user=url))
    assert (alone[1, 2:10, 4:15] == 3).all()
    assert alone[2, 0, 0] == 2
    assert np.count_nonzero(alone) == 8 * 11 + 1
    both = _masks(_job(observed, tmp_path / "b", user=url, user_mode="add", detect=True))
    found = _masks(_job(observed, tmp_path / "c", detect=True))
    np.testing.assert_array_equal(both, np.maximum(found, alone))


def test_a_mask_with_larger_pixels_is_enlarged(observed: str, tmp_path: Path) -> None:
    values = np.zeros((SECTIONS, SIDE // 8, SIDE // 8), dtype=np.uint8)
    values[3, 5, 7] = 1
    codes = _masks(_job(observed, tmp_path, user=_user(tmp_path, values)))
    assert np.argwhere(codes).tolist() == [[3, 10, 14], [3, 10, 15], [3, 11, 14], [3, 11, 15]]


def test_nothing_is_done_where_nothing_is_to_be_masked(observed: str, tmp_path: Path) -> None:
    job = _job(observed, tmp_path, detect=False)
    MaskStage().prepare(job)
    assert [list(tasks) for tasks in MaskStage().generations(job)] == [[]]
    assert MaskStage().estimate(job).tasks == 0


def test_register_sees_the_mask_at_its_coarse_position(observed: str, tmp_path: Path) -> None:
    values = np.zeros((SECTIONS, SIDE, SIDE), dtype=np.uint8)
    values[1, 100:120, 40:80] = 3
    shifted = IDENTITY + np.array([[0.0, 0.0, 12.0], [0.0, 0.0, -20.0]])
    job = _job(observed, tmp_path, affine=shifted, user=_user(tmp_path, values))
    _masks(job)
    masks = open_array(job.url("masks", "damage"), mode="r")
    codes = mask.read_codes(masks, z=1, mip=2, box=Box((0, 0, 0), (1, SIDE, SIDE)), affine=shifted)
    expected = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    expected[88:108, 60:100] = 3
    assert torch.equal(codes, expected)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((SECTIONS, SIDE // 2 + 1, SIDE // 2), dtype=np.uint8), "divided by a power of two"),
        (np.zeros((SECTIONS - 1, SIDE, SIDE), dtype=np.uint8), "give a mask of that shape"),
        (np.zeros((SECTIONS, SIDE, SIDE), dtype=np.float32), "codes are integers"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_in_one_sentence(
    observed: str, tmp_path: Path, values: np.ndarray[Any, Any], sentence: str
) -> None:
    with pytest.raises(SourceError, match=sentence) as caught:
        _job(observed, tmp_path, user=_user(tmp_path, values))
    assert "\n" not in str(caught.value)


def test_a_mask_that_is_not_there_is_refused(observed: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.zarr"):
        _job(observed, tmp_path, user=str(tmp_path / "none.zarr"))
