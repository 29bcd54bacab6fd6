"""Anchors, from the user's files through the stage to the fields; and input that is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssem_dask.config.digest import config_digest
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.errors import ConfigError
from ssem_dask.field.affine import affine_field, apply_affine, invert_affine, rotation_about
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.registration.coarse_alignment.flat_contrast import blur
from ssem_dask.stages.array_rows.coarse_arrays import COARSE_GROSS
from ssem_dask.stages.coarse import CoarseStage
from ssem_dask.stages.compose.compose_stage import ComposeStage
from ssem_dask.stages.compose.far_pairs import FarTask
from ssem_dask.stages.job import Job
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import FieldInfo, create_field, open_coarse
from ssem_dask.storage.run_group import create_run
from ssem_dask.task import Outcome, Result
from ssem_dask.types import Float64Array

pytestmark = pytest.mark.slow

COUNT, SIDE, SPACING, PIXEL = 28, 128, 16, 8.0
CENTRE = (SIDE / 2, SIDE / 2)
SHAPE = (COUNT, SIDE, SIDE)
LINES = {
    "landmarks": "z,y,x,ref_y,ref_x\n1,10,20,10,20\n",
    "affines": "z,a00,a01,a02,a10,a11,a12\n1,1,0,0,0,1,0\n",
}


def maps() -> Float64Array:
    """Aligned → source: random shifts and rotations, and slow rotation and shift that look like tissue."""
    rng = np.random.default_rng(0)
    t = np.linspace(-1, 1, COUNT)
    return np.array(
        [
            rotation_about(
                degrees=8 * x + float(rng.normal()),
                centre=CENTRE,
                shift=(14 * x + float(rng.normal()), -8 * x + float(rng.normal())),
            )
            for x in t
        ]
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One texture seen through each section's map."""
    url = str(tmp_path_factory.mktemp("reference") / "source.zarr")
    noise = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    layers = [blur(noise[i : i + 1], sigma)[0] for i, sigma in enumerate((1.0, 2.5, 6.0))]
    texture = torch.stack([12 * layer / layer.std() for layer in layers]).sum(dim=0) + 128
    grid = Grid((SIDE, SIDE), 1.0)
    array = create_array(
        url,
        shape=SHAPE,
        axes=("z", "y", "x"),
        chunks=(1, SIDE, SIDE),
        dtype="uint8",
        shards=None,
        fill_value=0,
        attributes={},
    )
    for z, pull in enumerate(maps()):
        positions = apply_affine(invert_affine(pull), grid.positions())
        image, mask = sample_image(texture[None], grid=grid, positions=positions, kind="bilinear")
        array[z] = (image[0] * mask).clamp(0, 255).byte().numpy()
    return url


def job_of(source: str, folder: Path, **tables: Any) -> Job:
    tree = {"source": source, "output": str(folder / "out.zarr"), "register": {"spacing": SPACING}}
    volume = {"pixel_size": PIXEL, "section_thickness": 40.0}
    return resolve(make_config({**tree, "volume": volume, "compose": tables}))[0]


def composed(job: Job) -> list[Result]:
    """Coarse maps that know nothing, exact pair fields, and stage compose upon them."""
    truth, grid = maps(), Grid.of_section((SIDE, SIDE), spacing=SPACING)
    create_run(job.output, attributes={})
    pairs = np.full((3, COUNT, 2, *grid.shape), np.nan, dtype=np.float32)
    CoarseStage().prepare(job)
    open_coarse(job.url("fields", "coarse"), mode="r+")[:] = np.tile(np.eye(3)[:2], (COUNT, 1, 1))
    COARSE_GROSS.write(job, np.tile(np.eye(3)[:2], (COUNT, 1, 1)))
    near = open_array(job.url("fields", "coarse_pairs"), mode="r+")
    open_array(job.url("fields", "coarse_ratio"), mode="r+")[:] = 2.0
    for k in (1, 2, 3):
        for z in range(k, COUNT):
            through = np.vstack([truth[z - k], [0, 0, 1]]) @ np.linalg.inv(np.vstack([truth[z], [0, 0, 1]]))
            pairs[k - 1, z] = affine_field(through[:2], grid=grid).numpy()
            near[k - 1, z] = through[:2]
    info = FieldInfo(spacing=SPACING, shape_mip0=SHAPE)
    for name, values in (("pairs", pairs), ("confidence", np.isfinite(pairs).all(axis=2).astype(np.float32))):
        create_field(
            job.url("fields", name),
            info=info,
            leading=(3,),
            components=name == "pairs",
            chunks=(1, *values.shape[1:]),
            shards=None,
        )[:] = values
    ComposeStage().prepare(job)
    tasks = [task for generation in ComposeStage().generations(job) for task in generation]
    assert len(tasks) == ComposeStage().estimate(job).tasks
    for task in tasks:
        assert task.footprint().writes
    return [task.run() for task in tasks]


def wander(job: Job) -> Float64Array:
    """How much section 0 and the last one differ in what is left of their maps: shift y, x (px) and turn (degrees)."""
    truth, grid = maps(), Grid.of_section((SIDE, SIDE), spacing=SPACING)
    fields = np.asarray(open_array(job.url("fields", "section"), mode="r")[:], dtype=np.float64)
    left = []
    for z in (0, COUNT - 1):
        reached = grid.positions().double() + torch.from_numpy(fields[z])
        back = apply_affine(invert_affine(truth[z]), reached).reshape(2, -1).T.numpy()
        at = grid.positions().double().reshape(2, -1).T.numpy()
        design = np.column_stack([at - np.asarray(CENTRE), np.ones(len(at))])
        found = np.linalg.lstsq(design, back - np.asarray(CENTRE), rcond=None)[0]
        left.append([found[2, 0], found[2, 1], np.rad2deg(np.arctan2(found[0, 1], found[0, 0]))])
    return np.abs(np.subtract(left[0], left[1]))


def landmark_file(folder: Path, *, nm: bool) -> str:
    """Three landmarks in every fourth section; the reference is shifted by 7 and 3 px."""
    rng, scale = np.random.default_rng(1), PIXEL if nm else 1.0
    rows = ["z,y,x,ref_y,ref_x"]
    for z in range(0, COUNT, 4):
        for point in rng.uniform(0.3 * SIDE, 0.7 * SIDE, (3, 2)):
            source = maps()[z] @ [*point, 1.0]
            cells = [*source * scale, *(point + np.array([7.0, 3.0])) * scale]
            rows.append(f"{z}," + ",".join(f"{v:.4f}" for v in cells))
    path = folder / "landmarks.csv"
    path.write_text("\n".join(rows))
    return str(path)


@pytest.fixture(scope="module")
def alone(source: str, tmp_path_factory: pytest.TempPathFactory) -> Float64Array:
    job = job_of(source, tmp_path_factory.mktemp("alone"))
    assert all(result.outcome is Outcome.OK for result in composed(job))
    left = wander(job)
    assert left[0] > 15
    assert left[2] > 8
    return left


@pytest.mark.parametrize("unit", ["px", "nm"])
def test_landmarks_of_a_file(unit: str, source: str, alone: Float64Array, tmp_path: Path) -> None:
    given = {"landmarks": landmark_file(tmp_path, nm=unit == "nm"), "unit": unit, "standard_deviation": 1.0}
    job = job_of(source, tmp_path, reference=given)
    results = composed(job)
    assert (wander(job) < 0.25 * alone).all()
    assert any("Slow distortion undone" in result.message for result in results)


def test_the_aligned_volume_lies_as_the_reference_where_that_is_wanted(source: str, tmp_path: Path) -> None:
    given = {"landmarks": landmark_file(tmp_path, nm=False), "standard_deviation": 0.5, "frame": "reference"}
    job = job_of(source, tmp_path, reference=given)
    composed(job)
    field = np.asarray(open_array(job.url("fields", "section"), mode="r")[COUNT // 2])
    grid = Grid.of_section((SIDE, SIDE), spacing=SPACING)
    at = grid.positions().double() - torch.tensor([7.0, 3.0])[:, None, None]
    expected = apply_affine(maps()[COUNT // 2], at) - grid.positions().double()
    assert np.abs(field - expected.numpy()).max() < 3.0


@pytest.mark.parametrize("kind", ["affines", "fields"])
def test_maps_of_some_sections(kind: str, source: str, alone: Float64Array, tmp_path: Path) -> None:
    known = range(0, COUNT, 9)
    if kind == "affines":
        place = str(tmp_path / "maps.csv")
        rows = [f"{z}," + ",".join(f"{v:.6f}" for v in maps()[z].ravel()) for z in known]
        Path(place).write_text("z,a00,a01,a02,a10,a11,a12\n" + "\n".join(rows))
    else:
        place = str(tmp_path / "maps.zarr")
        info = FieldInfo(spacing=32, shape_mip0=SHAPE)
        array = create_field(place, info=info, leading=(), components=True, chunks=(1, 2, 4, 4), shards=None)
        for z in known:
            array[z] = affine_field(maps()[z], grid=Grid.of_section((SIDE, SIDE), spacing=32)).numpy()
    job = job_of(source, tmp_path, reference={kind: place, "standard_deviation": 1.0})
    composed(job)
    assert (wander(job) < 0.25 * alone).all()


def test_far_thumbnails_pin_turning_alone(source: str, alone: Float64Array, tmp_path: Path) -> None:
    job = job_of(source, tmp_path, far={"distances": [8, 16]})
    tasks = [task for generation in ComposeStage().generations(job) for task in generation if isinstance(task, FarTask)]
    assert {region.name for task in tasks for region in task.footprint().reads} == {
        "source",
        "fields/coarse",
        "fields/coarse_pairs",
        "fields/coarse_ratio",
    }
    composed(job)
    pairs = np.asarray(open_array(job.url("fields", "far_pairs"), mode="r")[:])
    assert np.isfinite(pairs[0, 8:]).all()
    assert np.isnan(pairs[1, :16]).all()
    left = wander(job)
    assert left[2] < 0.25 * alone[2]
    assert left[0] > 0.5 * alone[0]


@pytest.mark.parametrize(
    ("tables", "naming"),
    [
        ({"method": "chain", "reference": "landmarks"}, 'method = "relax"'),
        ({"relax": {"natural_motion": "remove"}, "reference": "affines"}, 'natural_motion = "keep"'),
        ({"relax": {"known_jumps": [4, 28]}}, "section 28 of 28"),
        ({"relax": {"known_jumps": [4], "jumps": "keep"}}, "leave one of them out"),
        ({"far": {"distances": [8, 100]}}, "from 4 to 64"),
        ({"far": {"distances": [8, 8]}}, "different numbers"),
        ({"far": {"distances": [40]}}, "only 28 sections"),
        ({"far": {"distances": [8]}, "method": "chain"}, "[compose.far]"),
    ],
)
def test_what_cannot_be_used_is_refused(tables: dict[str, Any], naming: str, source: str, tmp_path: Path) -> None:
    if "reference" in tables:
        path = tmp_path / "given.csv"
        path.write_text(LINES[tables["reference"]])
        tables = {**tables, "reference": {tables["reference"]: str(path)}}
    with pytest.raises(ConfigError) as caught:
        job_of(source, tmp_path, **tables)
    assert naming in str(caught.value)
    assert "\n" not in str(caught.value)


def test_points_outside_and_a_wrong_digest_are_refused(source: str, tmp_path: Path) -> None:
    path = tmp_path / "landmarks.csv"
    path.write_text("z,y,x,ref_y,ref_x\n1,10,20,10,20\n1,10,200,10,20\n")
    with pytest.raises(ConfigError, match=r"row 2: \(10, 200\) px is outside"):
        job_of(source, tmp_path, reference={"landmarks": str(path)})
    path.write_text(LINES["landmarks"])
    with pytest.raises(ConfigError, match="sha256"):
        job_of(source, tmp_path, reference={"landmarks": str(path), "digest": "0" * 64})


def test_content_is_part_of_the_digest(source: str, tmp_path: Path) -> None:
    path = tmp_path / "landmarks.csv"
    path.write_text(LINES["landmarks"])
    first = job_of(source, tmp_path, reference={"landmarks": str(path)})
    path.write_text(LINES["landmarks"].replace("20", "21"))
    second = job_of(source, tmp_path, reference={"landmarks": str(path)})
    assert config_digest(first) != config_digest(second)
    assert first.digests["register"] == second.digests["register"]
    assert first.digests["compose"] != second.digests["compose"]
