"""Drawings of a person, and words about jumps, order and places, end to end on small stacks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.spoilt.stacks import load_stack
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, PART_LABELS, PART_MAPS
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.coarse_parts import part_regions, read_parts
from ssem_dask.types import AnyArray, Float64Array
from tests.support.fixed_runs import SHALLOW, FixedRun

QUICK = {**SHALLOW, "coarse": {"search": False, "parts": False}, "register": {"neighbours": 2}}
POINTS = np.array([[60.0, 230.0], [90.0, 330.0], [300.0, 240.0], [320.0, 340.0]])


def phantom(sections: int, size: int) -> AnyArray:
    return load_stack("phantom", sections=sections, size=size, data=Path()).images


def steps(run: FixedRun) -> Float64Array:
    """Mean displacement along y of each section against the one before."""
    return np.asarray(np.diff(np.nanmean(run.fields().values[:, 0], axis=(1, 2))))


def test_a_jump_is_kept_or_undone_as_the_user_says(tmp_path: Path) -> None:
    tissue = phantom(12, 160)
    images = np.stack([image[16 if z < 6 else 0 :][:144, :144] for z, image in enumerate(tissue)])
    run = FixedRun(tmp_path, images, None, QUICK)
    run.align("[[jump]]\nz = 6\naction = 'undo'")
    assert steps(run)[5] == pytest.approx(16.0, abs=3.0)
    # All other sections follow their neighbours in either case.
    assert np.abs(np.delete(steps(run), 5)[:-1]).max() < 1.0
    run.fix("[[jump]]\nz = 6\naction = 'keep'")
    assert np.abs(steps(run)[:-1]).max() < 1.0


def test_a_mask_is_read_from_a_file(tmp_path: Path) -> None:
    mask = np.zeros((72, 72), dtype=np.uint8)
    mask[:36] = 255
    Image.fromarray(mask).save(tmp_path / "half.png")
    run = FixedRun(tmp_path, phantom(5, 144), None, QUICK)
    run.align(f"[[section]]\nz = 2\nmask = '{tmp_path / 'half.png'}'")
    known = np.nan_to_num(run.read(CONFIDENCE)) > 0
    half = known.shape[2] // 2
    assert not known[:, 2, : half - 1].any()
    assert known[0, 2, half + 1 :].mean() > 0.5
    assert known[0, 1, : half - 1].mean() > 0.5


def test_sides_of_a_line_may_move_apart(tmp_path: Path) -> None:
    large = phantom(5, 216)
    images = large[:, 12:204, 12:204].copy()
    images[2, :, 96:] = large[2, 2:194, 108:204]  # the right half was moved by 10 px
    bent = {}
    for name, text in (("without", ""), ("with", "[[section]]\nz = 2\nsplit = [[[-2, 96], [194, 96]]]")):
        (tmp_path / name).mkdir()
        run = FixedRun(tmp_path / name, images, None, QUICK)
        run.align(text)
        along = np.nanmedian(np.asarray(run.read(PAIRS))[0, 2, 0, 2:-2], axis=0)
        line = len(along) // 2
        # What the left half loses towards the line, of what it has far from it.
        bent[name] = float(along[2:5].mean() - along[line - 4 : line - 2].mean())
    assert bent["without"] > 3.0
    assert abs(bent["with"]) < 1.5


def shifted(images: AnyArray, z: int, shift: int) -> AnyArray:
    """Sections of which one was displaced along x."""
    out = images.copy()
    out[z] = 0
    out[z, :, :-shift] = images[z, :, shift:]
    return out


def test_four_rough_points_bring_back_a_section_that_is_far_off(tmp_path: Path) -> None:
    images, config = phantom(6, 384), {**QUICK, "coarse": {**QUICK["coarse"], "max_shift": 0.2}}
    (tmp_path / "sound").mkdir()
    sound = FixedRun(tmp_path / "sound", images, None, config)
    sound.align()
    wanted = sound.fields().values
    run = FixedRun(tmp_path, shifted(images, 3, 200), None, config)
    run.align()

    def error() -> float:
        """Error of the step from the section before, where the section has an image."""
        found, shown = run.fields().values, slice(round(0.6 * wanted.shape[3]), None)
        step, right = (f[3, :, :, shown] - f[2, :, :, shown] for f in (found, wanted))
        return float(np.nanmedian(np.linalg.norm(step - right + np.array([0.0, 200.0])[:, None, None], axis=0)))

    assert error() > 50.0
    rng, spacing = np.random.default_rng(3), sound.job.spacing
    rows, columns = (POINTS.T // spacing).astype(int)
    places = (np.stack([rows, columns], axis=1) + 0.5) * spacing
    before, at = (places + wanted[z][:, rows, columns].T for z in (2, 3))
    moved = at - np.array([0.0, 200.0]) + 5.0 * rng.normal(size=at.shape)
    points = np.round(np.column_stack([before, moved]), 1).tolist()
    run.fix(f"[[pair]]\nfixed = 2\nmoving = 3\nsd = 5\npoints = {points}")
    assert error() < 2.5  # registration has taken over: points alone would leave more


def test_points_that_contradict_everything_are_reported(tmp_path: Path) -> None:
    run = FixedRun(tmp_path, phantom(5, 384), None, QUICK)
    points = np.column_stack([POINTS, POINTS + np.array([-50.0, 38.0])]).tolist()
    summary = run.align(f"[[pair]]\nfixed = 1\nmoving = 2\nsd = 2\npoints = {points}")
    remarks = [report.message for report in summary.remarks]
    assert any("sections 2 and 1 do not agree where the 4 points" in remark for remark in remarks), remarks
    # The others of section 2 are near enough to say where it is.
    middle = np.array([192.0, 192.0, 1.0])
    assert np.isfinite(run.read(COARSE)[2] @ middle).all()


def test_parts_move_with_a_section_that_changes_places(tmp_path: Path) -> None:
    images = phantom(6, 128).copy()
    images[[1, 4]] = images[[4, 1]]
    run = FixedRun(tmp_path, images, None, {**QUICK, "coarse": {"search": False}})
    run.align()
    job = run.job
    # Section 1 is broken in two; where such parts come from does not matter here.
    maps = np.full((1, *PART_MAPS.open(job).shape[1:]), np.nan)
    maps[0, :2] = np.eye(2, 3), [[1, 0, 9], [0, 1, 4]]
    PART_MAPS.write(job, maps[0], z=1)
    labels = np.zeros(PART_LABELS.open(job).shape[1:], dtype=np.uint8)
    labels[:, labels.shape[1] // 2 :] = 1
    PART_LABELS.write(job, labels, z=1)
    assert set(read_parts(job, range(6))) == {1}
    swapped = run.plan_fix("[[section]]\nz = 1\naction = 'swap'\nwith = 4").plan.job
    assert set(read_parts(swapped, range(6), fixes=swapped.fixes)) == {4}
    assert set(read_parts(swapped, range(6))) == {1}  # what the fit sees stays
    regions = part_regions(swapped, 4, 5, fixes=swapped.fixes)
    assert any(region.box.sections == range(1, 2) for region in regions)
    assert run.fix("[[section]]\nz = 1\naction = 'swap'\nwith = 4").state == "complete"


def test_a_line_places_both_sides_of_a_fold_and_leaves_no_trace(tmp_path: Path) -> None:
    size, half, shift = 184, 92, 20
    tissue = phantom(7, size + 80)
    images = tissue[:, 40 : 40 + size, 40 : 40 + size].copy()
    images[3, :, half:] = tissue[3, 45 : 45 + size, 40 + half + shift : 40 + size + shift]
    images[3, :, half - 6 : half + 6] = 12
    # In so small a section the run does not find the parts by itself.
    run = FixedRun(tmp_path, images, None, {**QUICK, "coarse": {"search": False}})
    run.align()

    def errors() -> list[float]:
        """Error of the left and the right side against the mean of the neighbours, px."""
        fields = run.fields().values
        step = fields[3] - (fields[2] + fields[4]) / 2
        x = (np.arange(step.shape[2]) + 0.5) * run.job.spacing
        left, right = step[:, :, (x > 15) & (x < half - 20)], step[:, :, (x > half + 20) & (x < size - shift - 5)]
        moved = np.array([5.0, float(shift)])[:, None, None]
        return [float(np.nanmedian(np.linalg.norm(side, axis=0))) for side in (left, right + moved)]

    before, stored = errors(), run.fields().values
    assert max(before) > 3.0
    line = f"[[section]]\nz = 3\nsplit = [[[4, {half}], [{size - 4}, {half}]]]\n"
    run.fix(line)
    drawn = errors()
    assert max(drawn) < min(2.6, 0.75 * max(before))  # what the phantom moves from section to section stays
    assert set(read_parts(run.job, range(7), fixes=run.job.fixes)) == {3}
    assert read_parts(run.job, range(7)) == {}  # the fit is as it was
    # A point on one side says where this side is, even where the images do not.
    at = size / 2
    pair = f"[[pair]]\nfixed = 2\nmoving = 3\nsd = 2\npoints = [[{at}, {half + 30}, {at - 30}, {half + 50}]]\n"
    run.fix(line + pair)
    (parts,) = read_parts(run.job, range(7), fixes=run.job.fixes).values()
    right = int(parts.labels[parts.labels.shape[0] // 2, -2])
    other = parts.maps[1 - right] if right == 0 else parts.maps[right]
    apart = np.abs(other @ np.array([at, half, 1.0]) - np.array([at, half]))
    assert apart == pytest.approx([30.0, 20.0], abs=8.0)
    run.fix("")
    np.testing.assert_array_equal(run.fields().values, stored)
