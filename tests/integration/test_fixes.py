"""Fixes of a user, from the file to the aligned volume, on a small stack."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.spoilt.kinds import spoil_stack
from benchmarks.spoilt.measure import Measured, measure, truth_maps
from benchmarks.spoilt.stacks import DeformedStack, deform_stack, load_stack
from ssem_dask.runtime.events import SilentObserver, StageStarted
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_STATE, SectionState
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE
from ssem_dask.stages.fix_clusters import REACH
from ssem_dask.storage.fixes_store import kept_fixes, read_kept_fixes
from ssem_dask.task import TaskReport
from tests.support.fixed_runs import SHALLOW, FixedRun

AT = 5
UNSEARCHED = {**SHALLOW, "coarse": {"search": False}, "register": {"neighbours": 2}}
"""The wide search would find by itself what the user says."""


@pytest.fixture(scope="module")
def stack() -> DeformedStack:
    return deform_stack(load_stack("phantom", sections=10, size=192, data=Path()), seed=11)


@pytest.fixture(scope="module")
def undamaged(stack: DeformedStack, tmp_path_factory: pytest.TempPathFactory) -> FixedRun:
    run = FixedRun(tmp_path_factory.mktemp("undamaged"), stack.images, stack, UNSEARCHED)
    assert run.align().state == "complete"
    return run


@pytest.fixture
def tied(tmp_path: Path) -> FixedRun:
    """An undamaged run in which the pairs determine the places; in the other, a few matches decide on px."""
    stack = deform_stack(load_stack("phantom", sections=10, size=192, data=Path()), seed=1)
    run = FixedRun(tmp_path / "tied", stack.images, stack, UNSEARCHED)
    assert run.align().state == "complete"
    return run


def spoilt(folder: Path, undamaged: FixedRun, kind: str, fixes: str) -> tuple[FixedRun, Measured]:
    stack = undamaged.stack
    assert stack is not None
    made = spoil_stack(stack.images, kind, at=AT, seed=3, foreign=stack.foreign)
    run = FixedRun(folder, made.images, stack, UNSEARCHED)
    assert run.align(fixes).state == "complete"
    reference = truth_maps(undamaged.fields(), stack, {})
    return run, measure(truth_maps(run.fields(), stack, made.sources), reference, made)


@pytest.mark.parametrize(
    ("kind", "fixes", "most"),
    [
        ("mirrored", f"[[section]]\nz = {AT}\naction = 'turn'\nmirror = true", 1.2),
        ("inverted", f"[[section]]\nz = {AT}\naction = 'invert'", 4.0),
        ("turn180", f"[[section]]\nz = {AT}\naction = 'place'\naffine = [[-1, 0, 192], [0, -1, 192]]", 1.2),
    ],
)
def test_a_section_is_where_the_user_says(
    undamaged: FixedRun, tmp_path: Path, kind: str, fixes: str, most: float
) -> None:
    _, found = spoilt(tmp_path, undamaged, kind, fixes)
    assert found.back[AT][0] < most
    assert found.harm_median < most


def test_an_excluded_section_takes_no_part(tied: FixedRun, tmp_path: Path) -> None:
    fixes = f"[[section]]\nz = {AT}\naction = 'exclude'"
    run, found = spoilt(tmp_path / "spoilt", tied, "foreign", fixes)
    assert found.harm_median < 2.0  # ten sections, one of them lost, determine their shift but loosely
    assert run.read(COARSE_STATE)[AT] == SectionState.EXCLUDED
    support = np.nan_to_num(run.read(CONFIDENCE))
    assert not support[:, AT].any()
    assert not any(support[k - 1, AT + k].any() for k in (1, 2))
    assert not run.pixels()[AT].any()
    begun = run.ended()
    assert run.fix(fixes + "\nfill = 'nearest'").state == "complete"
    pixels = run.pixels().astype(float)
    np.testing.assert_array_equal(pixels[AT], pixels[AT - 1])
    run.fix(fixes + "\nfill = 'between'")
    pixels = run.pixels().astype(float)
    np.testing.assert_allclose(pixels[AT], (pixels[AT - 1] + pixels[AT + 1]) / 2, atol=0.5)
    # The choice of the section shown in its place concerns no field.
    again = {key.split("/")[0] for key, time in run.ended().items() if begun.get(key) != time}
    assert again == {"render", "measure"}


def test_swapped_sections_change_places(undamaged: FixedRun, tmp_path: Path) -> None:
    stack = undamaged.stack
    assert stack is not None
    images = stack.images.copy()
    images[[4, 7]] = images[[7, 4]]
    run = FixedRun(tmp_path, images, stack, UNSEARCHED)
    assert run.align("[[section]]\nz = 4\naction = 'swap'\nwith = 7").state == "complete"
    np.testing.assert_array_equal(run.fields().values, undamaged.fields().values)
    np.testing.assert_array_equal(run.pixels(), undamaged.pixels())


def test_a_mask_hides_what_it_covers_from_registration(undamaged: FixedRun, tmp_path: Path) -> None:
    stack = undamaged.stack
    assert stack is not None
    run = FixedRun(tmp_path, stack.images, stack, UNSEARCHED)
    # Polygons are drawn in the source section, and may leave it.
    run.align(f"[[section]]\nz = {AT}\nmask = [[[-5, -5], [-5, 200], [96, 200], [96, -5]]]")
    known = np.nan_to_num(run.read(CONFIDENCE)) > 0
    half = known.shape[2] // 2
    assert not known[:, AT, : half - 3].any()
    assert known[0, AT, half + 3 :].mean() > 0.5
    assert known[0, AT - 1, : half - 3].mean() > 0.5


def test_a_fix_changes_what_it_reaches_and_nothing_else(tmp_path: Path) -> None:
    """The statistics stay; beyond the reach all is equal to the bit, and without the fix as before."""
    stack = deform_stack(load_stack("phantom", sections=28, size=96, data=Path()), seed=5)
    config = {"coarse": {"search": False}, "register": {"neighbours": 2}, "render": {"shard": (8, 256, 256)}}
    run = FixedRun(tmp_path, stack.images, stack, config)
    run.align()
    fields, pixels, begun = run.fields().values, run.pixels(), run.ended()
    at = 10
    text = f"[[section]]\nz = {at}\naction = 'exclude'\nfill = 'nearest'"
    rerun = run.plan_fix(text)
    planned = rerun.invalidation
    assert rerun.is_quick
    assert not run.plan_fix(text, refit=True).is_quick
    heard = Heard()
    assert run.fix(text, observer=heard).state == "complete"
    assert heard.surprises == []
    # Nothing that a fix cannot change is read again.
    assert not any(key.startswith("measure/source-") for key in heard.ended)
    assert {key for key in heard.ended if key.startswith("register/")} == {"register/fix-z000008-y0000000-x0000000"}
    change = np.abs(run.fields().values - fields).max(axis=(1, 2, 3))
    reached = np.flatnonzero(change)
    assert at in reached
    assert reached.min() > at - REACH
    assert reached.max() < at + REACH
    # It fades: what is left at the ends is small beside what there is in the middle.
    assert max(change[reached[0]], change[reached[-1]]) < 0.25 * change[at - 1 : at + 2].max()
    np.testing.assert_array_equal(run.pixels()[at + REACH :], pixels[at + REACH :])
    np.testing.assert_array_equal(run.pixels()[: at - REACH + 1], pixels[: at - REACH + 1])
    again = [key for key, time in run.ended().items() if begun.get(key) != time]
    assert not any(key.startswith("calibrate/") for key in again)
    assert {key for key in again if key.startswith("compose/")} == {
        "compose/fix-affines-z000003",
        "compose/sections-00000",
    }
    assert all(key.startswith("register/fix-") for key in again if key.startswith("register/"))
    assert len([key for key in again if key.startswith("render/z")]) == 3
    assert set(planned.dependent) <= set(again)
    run.fix("")
    np.testing.assert_array_equal(run.fields().values, fields)
    np.testing.assert_array_equal(run.pixels(), pixels)
    # Every version that was used is kept.
    assert [read_kept_fixes(run.output, name) for name in kept_fixes(run.output)] == [text]


class Heard(SilentObserver):
    """Keys of the tasks that ended, and whatever a user would stumble over."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.surprises: list[str] = []
        self._tasks = self._done = 0

    def stage_started(self, event: StageStarted) -> None:
        self._tasks, self._done = event.tasks, event.done_tasks

    def task_ended(self, report: TaskReport) -> None:
        self.ended.append(report.key)
        self._done += 1

    def stage_ended(self, stage: str) -> None:
        if self._done != self._tasks:
            self.surprises.append(f"{stage}: {self._done} of {self._tasks} tasks")

    def note(self, message: str) -> None:
        if "missing" in message or "damaged" in message:
            self.surprises.append(message)


def correspondences(undamaged: FixedRun, *, shift: float, noise: float) -> list[list[float]]:
    """Points (y, x) in the section before `AT`, and in section `AT`, whose image is shifted along x."""
    spacing, fields = undamaged.job.spacing, undamaged.fields().values
    rng = np.random.default_rng(5)
    points = []
    left = 4 if shift > 0 else 1  # so that all of them are still in the image
    for row, column in ((2, left), (3, left + 6), (9, left + 1), (8, left + 6)):
        place = (np.array([row, column]) + 0.5) * spacing
        before, at = (place + fields[z, :, row, column] for z in (AT - 1, AT))
        points.append([*before, *(at - [0.0, shift] + rng.normal(size=2) * noise)])
    return [[round(float(value), 2) for value in point] for point in points]


def test_points_bring_a_section_to_where_registration_finds_it(undamaged: FixedRun, tmp_path: Path) -> None:
    stack = undamaged.stack
    assert stack is not None
    made = spoil_stack(stack.images, "shift30", at=AT, seed=3, foreign=stack.foreign)
    source = made.sources[AT]
    shift = float(np.nanmedian(source[1] - np.arange(source.shape[2])[None] - 0.5))
    config = {**UNSEARCHED, "coarse": {"search": False, "max_shift": 0.2}}
    run = FixedRun(tmp_path, made.images, stack, config)
    points = correspondences(undamaged, shift=shift, noise=3.0)
    run.align(f"[[pair]]\nfixed = {AT - 1}\nmoving = {AT}\nsd = 3\npoints = {points}")
    assert abs(shift) > 50
    # Registration searches 96 px of the working image around the place that the points give.
    middle = np.array([96.0, 96.0, 1.0])
    wanted = undamaged.read(COARSE)[AT] @ middle - [0.0, shift]
    assert np.linalg.norm(run.read(COARSE)[AT] @ middle - wanted) < 8


def test_points_that_contradict_the_images_are_reported(undamaged: FixedRun, tmp_path: Path) -> None:
    stack = undamaged.stack
    assert stack is not None
    run = FixedRun(tmp_path, stack.images, stack, UNSEARCHED)
    points = correspondences(undamaged, shift=0.0, noise=0.0)
    # One place of the moving section is said to be at two places of the fixed one.
    mistaken = [points[0], [points[0][0] + 40, points[0][1], points[0][2] + 2, points[0][3]], *points[1:]]
    summary = run.align(f"[[pair]]\nfixed = {AT - 1}\nmoving = {AT}\nsd = 2\npoints = {mistaken}")
    remarks = [report.message for report in summary.remarks if report.stage == "register"]
    assert any(f"points between sections {AT} and {AT - 1} contradict" in remark for remark in remarks), remarks


class Stopping(SerialExecutor):
    """Ends after some tasks, as a driver does that is killed: nothing that follows the last task happens."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self._left = tasks

    def map(self, work: Any, tasks: Any) -> Any:
        for report in super().map(work, tasks):
            yield report
            self._left -= 1
            if self._left <= 0:
                raise KeyboardInterrupt


def test_fixes_that_are_interrupted_anywhere_lose_nothing(tmp_path: Path) -> None:
    stack = deform_stack(load_stack("phantom", sections=12, size=96, data=Path()), seed=5)
    render = {"chunk": (4, 64, 64), "shard": (4, 256, 256)}
    config = {"coarse": {"search": False}, "register": {"neighbours": 2}, "render": render}
    run = FixedRun(tmp_path, stack.images, stack, config)
    run.align()
    plain = run.fields().values, run.pixels()
    first = f"[[section]]\nz = {AT}\naction = 'exclude'"
    other = (
        f"[[section]]\nz = {AT}\naction = 'turn'\nangle = 2\n[[section]]\nz = 9\nmask = [[[0, 0], [0, 50], [50, 0]]]"
    )
    wanted = {}
    for text in (first, other):
        run.fix(text)
        wanted[text] = run.fields().values, run.pixels()
    # Interrupted on the way from one to the other, continued without saying what to, or turned back.
    for tasks, (before, after) in enumerate([(other, first), (first, other), (other, first), (first, "")], start=1):
        with pytest.raises(KeyboardInterrupt):
            run.fix(after, executor=Stopping(2 * tasks - 1))
        assert run.resume().state == "complete"
        fields, pixels = plain if not after else wanted[after]
        np.testing.assert_array_equal(run.fields().values, fields)
        np.testing.assert_array_equal(run.pixels(), pixels)
        assert before != after


def test_a_section_that_was_lost_in_the_fit_is_brought_back_by_a_fix(undamaged: FixedRun, tmp_path: Path) -> None:
    stack = undamaged.stack
    assert stack is not None
    made = spoil_stack(stack.images, "turn180", at=AT, seed=3, foreign=stack.foreign)
    run = FixedRun(tmp_path, made.images, stack, UNSEARCHED)
    run.align()
    reference = truth_maps(undamaged.fields(), stack, {})
    lost = measure(truth_maps(run.fields(), stack, made.sources), reference, made)
    assert lost.back[AT][0] > 20
    begun = run.ended()
    text = f"[[section]]\nz = {AT}\naction = 'turn'\nangle = 180"
    assert run.fix(text).state == "complete"
    fixed = run.fields().values
    found = measure(truth_maps(run.fields(), stack, made.sources), reference, made)
    # What the lost section did to the fit of so small a stack remains.
    assert found.back[AT][0] < 0.1 * lost.back[AT][0]
    again = [key for key, time in run.ended().items() if begun.get(key) != time]
    assert "coarse/sections" not in again
    # With the statistics fitted again it is the same run as if the fix had been there from the start.
    run.fix(text, refit=True)
    assert not np.array_equal(run.fields().values, fixed)
    (tmp_path / "fresh").mkdir()
    fresh, _ = spoilt(tmp_path / "fresh", undamaged, "turn180", text)
    np.testing.assert_array_equal(run.fields().values, fresh.fields().values)
