"""The stage from a stored volume to affines and marks: sections that match nothing, and affines that are given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssem_dask.config.digest import config_digest
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.errors import ConfigError
from ssem_dask.field.affine import IDENTITY, apply_affine, compose_affine, invert_affine, rotation_about
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.geometry.box import Box
from ssem_dask.registration.coarse_alignment.flat_contrast import blur
from ssem_dask.stages import source_sections as sections
from ssem_dask.stages.array_rows.coarse_arrays import SectionState
from ssem_dask.stages.coarse import CoarseStage
from ssem_dask.stages.job import Job
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import open_coarse
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Outcome, Result
from ssem_dask.types import AnyArray, Float64Array

SIDE = 128
COUNT = 9
CENTRE = (SIDE / 2, SIDE / 2)


def texture(seed: int) -> torch.Tensor:
    noise = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    layers = [blur(noise[i : i + 1], sigma)[0] for i, sigma in enumerate((1.0, 2.5, 6.0))]
    return torch.stack([12 * layer / layer.std() for layer in layers]).sum(dim=0) + 128


def volume() -> tuple[AnyArray, Float64Array]:
    """One texture seen through a map of its own in each section: (z, y, x) uint8, and aligned → source."""
    rng = np.random.default_rng(5)
    grid = Grid((SIDE, SIDE), 1.0)
    images, truth = [], []
    for _ in range(COUNT):
        pull = rotation_about(degrees=float(rng.uniform(-12, 12)), centre=CENTRE, shift=tuple(rng.uniform(-9, 9, 2)))
        positions = apply_affine(pull, grid.positions())
        image, mask = sample_image(texture(1)[None], grid=grid, positions=positions, kind="bilinear")
        images.append((image[0] * mask).clamp(0, 255).byte().numpy())
        truth.append(invert_affine(pull))
    return np.stack(images), np.array(truth)


def make_job(folder: Path, images: AnyArray, **settings: Any) -> Job:
    source, output = str(folder / "source.zarr"), str(folder / "out.zarr")
    array = create_array(
        source,
        shape=images.shape,
        axes=("z", "y", "x"),
        chunks=(1, 64, 64),
        dtype=images.dtype,
        shards=None,
        fill_value=0,
        attributes={},
    )
    array[:] = images
    tree = {"source": source, "output": output, "volume": {"pixel_size": 8.0, "section_thickness": 40.0}}
    job, _ = resolve(make_config({**tree, "coarse": settings}))
    return job


def run(job: Job) -> Result:
    """All tasks; the result of the last one, which solves for the sections."""
    CoarseStage().prepare(job)
    return [task.run() for generation in CoarseStage().generations(job) for task in generation][-1]


def written(job: Job) -> tuple[Float64Array, list[int]]:
    """Affines, and the sections marked as bridged."""
    state = np.asarray(open_array(job.url("fields", "coarse_state"), mode="r")[:])
    assert np.isin(state, (SectionState.TIED, SectionState.BRIDGED)).all()
    return np.asarray(open_coarse(job.url("fields", "coarse"))[:]), np.flatnonzero(
        state == SectionState.BRIDGED
    ).tolist()


def affines_of(job: Job) -> Float64Array:
    return np.asarray(open_coarse(job.url("fields", "coarse"))[:])


def errors(found: Float64Array, truth: Float64Array, *, gauge: int) -> Float64Array:
    """Distance at the centre, px, in the frame where `gauge` is as it was found."""
    back = compose_affine(outer=invert_affine(truth[gauge]), inner=found[gauge])
    expected = np.array([compose_affine(outer=t, inner=back) for t in truth])
    return np.linalg.norm((found - expected) @ np.array([*CENTRE, 1.0]), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "how"), [([3], "noise"), ([6], "other"), ([2], "empty"), ([0, 8], "noise"), ([4, 5], "other")]
)
def test_sections_that_match_nothing_are_named_marked_and_bridged(lost: list[int], how: str, tmp_path: Path) -> None:
    images, truth = volume()
    for z in lost:
        noise = np.random.default_rng(z).integers(0, 256, (SIDE, SIDE))
        replacement = {"noise": noise, "other": texture(100 + z).clamp(0, 255).numpy(), "empty": np.full_like(noise, 7)}
        images[z] = replacement[how]
    job = make_job(tmp_path, images)
    result = run(job)
    found, bridged = written(job)
    assert result.outcome is Outcome.LOW_QUALITY
    assert result.message.endswith(": " + ", ".join(map(str, lost)))
    assert bridged == lost
    good = [z for z in range(COUNT) if z not in lost]
    assert errors(found, truth, gauge=good[3])[good].max() < 1.0
    # Placed like the sections around it, which are rotated by up to 24° against each other here.
    for z in lost:
        near = [g for g in good if abs(g - z) <= 2]
        assert np.linalg.norm((found[near] - found[z]) @ np.array([*CENTRE, 1.0]), axis=1).min() < 20
    ratios = np.asarray(open_array(job.url("fields", "coarse_ratio"), mode="r")[:])
    assert (ratios[:, lost][np.isfinite(ratios[:, lost])] < 1.24).all()


def test_nothing_to_mark_where_all_sections_match(tmp_path: Path) -> None:
    images, truth = volume()
    job = make_job(tmp_path, images, sections="match")
    assert run(job).outcome is Outcome.OK
    found, bridged = written(job)
    assert bridged == []
    assert errors(found, truth, gauge=4).max() < 0.5


def test_two_sections(tmp_path: Path) -> None:
    images, truth = volume()
    job = make_job(tmp_path, images[:2])
    assert run(job).outcome is Outcome.OK
    assert errors(written(job)[0], truth[:2], gauge=1).max() < 0.5


def write_affines(path: Path, rows: dict[int, Float64Array]) -> str:
    lines = [",".join(map(str, [z, *affine.ravel()])) for z, affine in rows.items()]
    path.write_text("\n".join(["z,a00,a01,a02,a10,a11,a12", *lines]) + "\n")
    return str(path)


def test_given_affines_are_refined_and_keep_their_frame(tmp_path: Path) -> None:
    images, truth = volume()
    # A frame of its own, and each section a little off.
    frame = rotation_about(degrees=20.0, centre=CENTRE, shift=(15.0, -4.0))
    rng = np.random.default_rng(8)
    off = [
        rotation_about(degrees=rng.uniform(-0.8, 0.8), centre=CENTRE, shift=tuple(rng.uniform(-1, 1, 2))) for _ in truth
    ]
    off[4] = IDENTITY
    given = {
        z: compose_affine(outer=compose_affine(outer=t, inner=frame), inner=o)
        for z, (t, o) in enumerate(zip(truth, off, strict=True))
    }
    images[7] = np.random.default_rng(7).integers(0, 256, (SIDE, SIDE))
    missing = given.pop(1)
    # The whole range would not reach these sections.
    job = make_job(tmp_path, images, initial=write_affines(tmp_path / "a.csv", given), max_rotation=25.0)
    assert run(job).outcome is Outcome.LOW_QUALITY
    found, bridged = written(job)
    assert bridged == [7]
    centre = np.array([*CENTRE, 1.0])
    wanted = np.array([compose_affine(outer=t, inner=frame) for t in truth])
    np.testing.assert_allclose(found[4], given[4], atol=1e-6)
    distance = np.linalg.norm((found - wanted) @ centre, axis=1)
    assert distance[[z for z in range(COUNT) if z != 7]].max() < 0.5
    # What matches nothing stays where it was given, corrected as its neighbours are.
    assert np.linalg.norm((found[7] - given[7]) @ centre) < 3
    assert np.linalg.norm((found[1] - missing) @ centre) < 3


def test_what_is_said_of_one_section_reaches_it_alone(tmp_path: Path) -> None:
    images, truth = volume()
    given = rotation_about(degrees=180.0, centre=CENTRE)
    images[6] = images[6, ::-1, ::-1]
    truth[6] = compose_affine(outer=given, inner=truth[6])
    images[7] = np.random.default_rng(7).integers(0, 256, (SIDE, SIDE))
    path = write_affines(tmp_path / "a.csv", {6: given, 7: given})
    job = make_job(tmp_path, images, initial=path, search=False, sections="match")
    run(job)
    found = affines_of(job)
    assert np.delete(errors(found, truth, gauge=4), 7).max() < 1.0
    assert found[7][0, 0] < -0.95  # placed as it was given, corrected like its neighbours
    assert np.linalg.norm((found[7] - given) @ np.array([*CENTRE, 1.0])) < 20


@pytest.mark.parametrize("what", ["quarter", "mirrored", "inverted"])
def test_sections_that_were_turned_mirrored_or_inverted_are_found_and_named(what: str, tmp_path: Path) -> None:
    images, truth = volume()
    changes: dict[str, tuple[Callable[[AnyArray], AnyArray], list[list[float]], str]] = {
        "quarter": (np.rot90, [[0, -1, SIDE], [1, 0, 0]], "turned by 90°"),
        "mirrored": (lambda image: image[:, ::-1], [[1, 0, 0], [0, -1, SIDE]], "mirrored"),
        "inverted": (lambda image: 255 - image, [[1, 0, 0], [0, 1, 0]], "of inverted contrast"),
    }
    change, moved, words = changes[what]
    images[4] = change(images[4])
    truth[4] = compose_affine(outer=np.array(moved, dtype=np.float64), inner=truth[4])
    job = make_job(tmp_path, images, sections="match")
    assert words in run(job).message
    assert errors(affines_of(job), truth, gauge=2).max() < 1.0
    inverted = np.asarray(open_array(job.url("fields", "coarse_inverted"), mode="r")[:])
    assert np.flatnonzero(inverted).tolist() == ([4] if what == "inverted" else [])


def test_the_content_of_the_file_is_part_of_the_digest(tmp_path: Path) -> None:
    images, _ = volume()
    (tmp_path / "one").mkdir()
    path = tmp_path / "a.csv"
    jobs = []
    for shift in (0.0, 0.0, 1.0):
        write_affines(path, {0: IDENTITY + np.array([[0, 0, shift], [0, 0, 0]])})
        jobs.append(make_job(tmp_path / "one", images, initial=str(path)))
    assert config_digest(jobs[0]) == config_digest(jobs[1]) != config_digest(jobs[2])
    assert jobs[0].digests == jobs[1].digests
    assert jobs[0].digests["coarse"] != jobs[2].digests["coarse"]
    with pytest.raises(ConfigError, match="sha256"):
        run(jobs[0])


@pytest.mark.slow
def test_inverted_volume_gives_the_same(tmp_path: Path) -> None:
    images, _ = volume()
    found = []
    for name, values in (("plain", images), ("inverted", 255 - images)):
        (tmp_path / name).mkdir()
        job = make_job(tmp_path / name, values)
        run(job)
        found.append(written(job)[0])
    np.testing.assert_allclose(found[0], found[1], atol=1e-2)


def test_a_task_that_searches_parts_decodes_its_sections_twice_however_many_a_chunk_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, volume()[0])
    *before, search, _, _ = CoarseStage().generations(job)
    CoarseStage().prepare(job)
    for generation in before:
        for task in generation:
            task.run()
    boxes: list[Box] = []
    read = Volume.read

    def counted(source: Volume, box: Box) -> AnyArray:
        boxes.append(box)
        return read(source, box)

    monkeypatch.setattr(Volume, "read", counted)
    next(iter(search)).run()
    assert [box.shape[0] for box in boxes] == [9, 8]  # with the section behind the task; then placed rigidly


def test_large_sections_are_read_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 500, 300), dtype=np.uint8)
    job = make_job(tmp_path, values, thumbnail=64)
    mip = sections.thumbnail_mip(job)
    source = sections.open_source(job)
    (whole,) = sections.read_thumbnails(source, sections=range(1, 2), mip=mip)
    monkeypatch.setattr(sections, "_BAND_PIXELS", 300 * 20)
    assert whole.shape == (63, 38)
    (banded,) = sections.read_thumbnails(source, sections=range(1, 2), mip=mip)
    torch.testing.assert_close(banded, whole)
