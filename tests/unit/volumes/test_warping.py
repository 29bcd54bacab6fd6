"""`warp` and `points`: another volume and coordinates follow the alignment; ids stay ids."""

import csv
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from ssem_dask.cli.app import app
from ssem_dask.config.digest import stored_config
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.driver.run_status import run_status
from ssem_dask.errors import ConfigError, OutputError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.image.label_pooling import pool_labels
from ssem_dask.runtime.clusters import local
from ssem_dask.stages.render import WarpTask
from ssem_dask.storage.arrays import group_attributes
from ssem_dask.storage.fields import FieldInfo, create_field
from ssem_dask.storage.fixes_store import keep_fixes
from ssem_dask.storage.ledger import Ledger
from ssem_dask.storage.run_group import create_run, update_run
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.storage.volume_checks import WARP_KEY
from ssem_dask.task import Result
from ssem_dask.volumes.warping import warp_volume
from tests.support.cli import ssem_dask
from tests.support.faults import redone, written

SHAPE = (3, 150, 130)
SHIFT = (7, -11)
"""Motion of section 0 by whole px; section 1 stays, section 2 is unknown."""
BIG = 2**63
"""An id that is not a floating-point number, nor are those next to it."""


def make_volume(path: Path, values: np.ndarray, *, dtype: str, depth: int = 3) -> str:
    info = VolumeInfo(shape=SHAPE, dtype=np.dtype(dtype), pixel_size=5.0, section_thickness=40.0)
    volume = create_volume(str(path), info=info, chunk=(1, 64, 64), shard=(depth, 192, 192), mips=1)
    volume.write(Box((0, 0, 0), SHAPE), values.astype(dtype))
    return str(path)


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(1, 2**20, SHAPE).astype("uint64") + np.uint64(BIG)


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A finished run of known fields."""
    random = np.random.default_rng(0)
    source = make_volume(tmp_path / "source.zarr", random.integers(0, 255, SHAPE), dtype="uint8")
    url = str(tmp_path / "run.zarr")
    tree = {
        "source": source,
        "output": url,
        "render": {"chunk": (2, 32, 32), "shard": (2, 64, 64)},
        "downsample": {"smallest": 40},
    }
    job, _ = resolve(make_config(tree))
    attributes = {"state": "complete", "source": source, "config": stored_config(job), "config_digest": "d" * 64}
    create_run(url, attributes=attributes)
    field = create_field(
        f"{url}/fields/section",
        info=FieldInfo(spacing=16, shape_mip0=SHAPE),
        leading=(),
        components=True,
        chunks=(1, 2, 10, 9),
        shards=None,
    )
    field[0] = np.broadcast_to(np.array(SHIFT, dtype="float32")[:, None, None], field.shape[1:])
    field[1] = 0
    return url


def expected(values: np.ndarray) -> np.ndarray:
    """Warp a volume with the fields of `run`."""
    out = np.zeros_like(values)
    out[0, : SHAPE[1] - SHIFT[0], -SHIFT[1] :] = values[0, SHIFT[0] :, : SHIFT[1]]
    out[1] = values[1]
    return out


def test_ids_are_carried_exactly(run: str, ids: np.ndarray, tmp_path: Path) -> None:
    labels = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64")
    target = str(tmp_path / "warped.zarr")
    summary = warp_volume(run, labels, target, labels=True, cluster="serial")
    assert summary.state == "complete"
    warped = Volume.open(target)
    np.testing.assert_array_equal(warped.read(Box((0, 0, 0), SHAPE)), expected(ids))
    assert warped.mips == (0, 1, 2)
    for mip in (1, 2):
        finer = warped.read(Box((0, 0, 0), warped.shape_at(mip - 1), mip - 1))
        coarser = warped.read(Box((0, 0, 0), warped.shape_at(mip), mip))
        np.testing.assert_array_equal(coarser, np.stack([pool_labels(section) for section in finer]))


def test_another_channel_is_interpolated(run: str, tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 60000, SHAPE)
    channel = make_volume(tmp_path / "channel.zarr", values, dtype="uint16")
    warp_volume(run, channel, str(tmp_path / "warped.zarr"), cluster="serial")
    found = Volume.open(str(tmp_path / "warped.zarr")).read(Box((0, 0, 0), SHAPE))
    inside = np.s_[:, 4:-12, 16:-4]  # away from the border, where interpolation sees the outside
    np.testing.assert_allclose(found[inside].astype(int), expected(values)[inside], atol=1)


@pytest.mark.parametrize(("factor", "shape"), [(2, (3, 75, 65)), (4, (3, 38, 33)), (1.5, (3, 100, 87))])
def test_labels_of_larger_pixels_follow_in_their_own_px(
    run: str, tmp_path: Path, factor: float, shape: tuple[int, int, int]
) -> None:
    """Each label is the source position of its pixel, so it shows where its aligned pixel came from."""
    y, x = np.mgrid[: shape[1], : shape[2]]
    ids = np.broadcast_to(y * 1000 + x + 1, shape).astype("uint32")
    field = zarr.open_array(f"{run}/fields/section", mode="r+")
    field[0] = np.asarray(field[0]) + 0.25  # so that no position is between two pixels
    info = VolumeInfo(shape=shape, dtype=ids.dtype, pixel_size=5.0 * factor, section_thickness=40.0)
    labels = create_volume(str(tmp_path / "l.zarr"), info=info, chunk=(1, 64, 64), shard=(3, 128, 128), mips=1)
    labels.write(Box((0, 0, 0), shape), ids)
    target = str(tmp_path / "warped.zarr")
    warp_volume(run, labels.url, target, labels=True, cluster="serial")
    warped = Volume.open(target)
    assert (warped.info.shape, warped.info.pixel_size) == (shape, 5.0 * factor)
    found = warped.read(Box((0, 0, 0), shape))
    np.testing.assert_array_equal(found[1], ids[1])
    rows, columns = (np.floor(at + 0.5 + (n + 0.25) / factor).astype(int) for at, n in zip((y, x), SHIFT, strict=True))
    inside = (rows >= 0) & (rows < shape[1]) & (columns >= 0) & (columns < shape[2])
    np.testing.assert_array_equal(found[0], np.where(inside, rows * 1000 + columns + 1, 0))
    assert not found[2].any()


def test_an_image_of_smaller_pixels_follows_in_its_own_px(run: str, tmp_path: Path) -> None:
    shape = (3, 300, 259)  # the source is it at half resolution, rounded up
    values = np.random.default_rng(4).integers(1, 250, shape).astype("uint8")
    info = VolumeInfo(shape=shape, dtype=values.dtype, pixel_size=2.5, section_thickness=40.0)
    fine = create_volume(str(tmp_path / "f.zarr"), info=info, chunk=(1, 64, 64), shard=(3, 128, 128), mips=1)
    fine.write(Box((0, 0, 0), shape), values)
    warp_volume(run, fine.url, str(tmp_path / "warped.zarr"), cluster="serial")
    found = Volume.open(str(tmp_path / "warped.zarr")).read(Box((0, 0, 0), shape))
    dy, dx = (2 * n for n in SHIFT)
    np.testing.assert_array_equal(found[0, 4 : -dy - 4, -dx + 4 : -4], values[0, dy + 4 : -4, 4 : dx - 4])


def test_a_pixel_size_that_the_user_gives_is_used(run: str, tmp_path: Path) -> None:
    half = zarr.create_array(str(tmp_path / "half.zarr"), shape=(3, 75, 65), dtype="uint8", chunks=(1, 75, 65))
    half[...] = np.random.default_rng(4).integers(1, 250, half.shape)
    target = str(tmp_path / "warped.zarr")
    words = ["warp", run, str(tmp_path / "half.zarr"), target, "--cluster", "serial"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "has 3 sections of 75 × 65 px of 5 nm, but the alignment" in " ".join(refused.stderr.split())
    assert CliRunner().invoke(app, [*words, "--pixel-size", "10"]).exit_code == 0
    assert Volume.open(target).info.pixel_size == 10
    wrong = CliRunner().invoke(app, ["warp", run, target.replace("warped", "source"), target, "--pixel-size", "10"])
    assert wrong.exit_code == 2
    assert "of 10 nm, but the alignment" in " ".join(wrong.stderr.split())


def test_an_interrupted_warp_goes_on(run: str, ids: np.ndarray, tmp_path: Path) -> None:
    labels = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64")
    target = tmp_path / "warped.zarr"
    warp_volume(run, labels, str(target), labels=True, cluster="serial")
    entries = sorted((target / "ledger").rglob("*.json"))
    times = {entry: entry.stat().st_mtime_ns for entry in entries}
    Ledger(str(target / "ledger")).delete(f"{entries[0].relative_to(target / 'ledger').parts[0]}/{entries[0].stem}")
    warp_volume(run, labels, str(target), labels=True, cluster="serial")
    again = [entry for entry in entries if entry.stat().st_mtime_ns != times[entry]]
    assert again == [entries[0]]
    attributes = group_attributes(str(target))
    assert attributes is not None
    assert attributes[WARP_KEY]["state"] == "complete"
    stands = run_status(str(target))
    assert (stands.state, set(stands.counts)) == ("complete", {"render", "downsample"})


def warped(run: str, labels: str, target: Path) -> set[str]:
    """Warp again; return the tasks that were done again, after a comparison with a warp from nothing."""
    before = written(target)
    assert warp_volume(run, labels, str(target), labels=True, cluster="serial").state == "complete"
    again = redone(before, target)
    fresh = target.with_name(f"fresh-{len(list(target.parent.iterdir()))}.zarr")
    warp_volume(run, labels, str(fresh), labels=True, cluster="serial")
    for mip in (0, 1, 2):
        one, two = Volume.open(str(target)), Volume.open(str(fresh))
        box = Box((0, 0, 0), one.shape_at(mip), mip)
        np.testing.assert_array_equal(one.read(box), two.read(box))
    return again


def test_labels_or_fields_that_have_changed_are_warped_again(run: str, ids: np.ndarray, tmp_path: Path) -> None:
    labels, target = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64", depth=1), tmp_path / "warped.zarr"
    warp_volume(run, labels, str(target), labels=True, cluster="serial")
    assert warped(run, labels, target) == set()
    Volume.open(labels).write(Box((2, 0, 0), SHAPE), ids[2:] + np.uint64(1))
    again = warped(run, labels, target)
    assert {key.split("z")[1][:6] for key in again} == {"000002"}
    assert {key.split("/")[0] for key in again} == {"render", "downsample"}
    field = zarr.open_array(f"{run}/fields/section", mode="r+")
    field[0] = np.asarray(field[0]) + 1
    assert {key.split("z")[1][:6] for key in warped(run, labels, target)} == {"000000"}
    # Replaced as a whole: every file is another one.
    shutil.rmtree(labels)
    make_volume(Path(labels), ids[::-1], dtype="uint64")
    assert len(warped(run, labels, target)) == len(written(target))


def test_a_warp_by_what_is_not_complete_is_not_complete(run: str, ids: np.ndarray, tmp_path: Path) -> None:
    labels, target = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64"), str(tmp_path / "warped.zarr")
    update_run(run, state="incomplete")
    words = ("warp", run, labels, target, "--labels", "--cluster", "serial")
    ended = ssem_dask(*words)
    assert ended.returncode == 1
    assert f"{run}: is not complete, so what was made of it is not either" in " ".join(ended.stderr.split())
    assert run_status(target).state == "incomplete"
    assert ssem_dask("export", target, str(tmp_path / "e.zarr"), "--ngff", "0.4", "--cluster", "serial").returncode == 1
    before = written(target)
    update_run(run, state="complete")
    assert ssem_dask(*words).returncode == 0
    assert run_status(target).state == "complete"
    assert redone(before, target) == set()


@pytest.mark.parametrize("changed", ["labels", "fields"])
def test_what_changes_while_it_is_warped(
    run: str, ids: np.ndarray, tmp_path: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, target = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64", depth=1), tmp_path / "warped.zarr"
    field = zarr.open_array(f"{run}/fields/section", mode="r+")
    work = WarpTask.run

    def watched(task: WarpTask) -> Result:
        if task.box.start == (2, 0, 0):
            if changed == "labels":
                Volume.open(labels).write(Box((1, 0, 0), (2, *SHAPE[1:])), ids[1:2] + np.uint64(1))
            else:
                field[1] = 3
        return work(task)

    monkeypatch.setattr(WarpTask, "run", watched)
    words = ("warp", run, labels, str(target), "--labels", "--cluster", "serial")
    ended = ssem_dask(*words)
    assert ended.returncode == 1
    assert "sections 1:2 were written while this command read them" in " ".join(ended.stderr.split())
    assert run_status(str(target)).state == "incomplete"
    monkeypatch.setattr(WarpTask, "run", work)
    assert {key.split("z")[1][:6] for key in warped(run, labels, target)} == {"000000"}  # sections 0 and 1


def test_a_warp_that_was_killed_while_it_followed_its_labels(run: str, ids: np.ndarray, tmp_path: Path) -> None:
    """Labels change, come back with their old times while the warp follows them; no entry vouches for half a result."""
    labels, target = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64"), tmp_path / "warped.zarr"
    warp_volume(run, labels, str(target), labels=True, cluster="serial")
    kept = tmp_path / "kept.zarr"
    shutil.copytree(labels, kept)
    Volume.open(labels).write(Box((0, 0, 0), SHAPE), ids + np.uint64(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WarpTask, "run", _write_and_die)
        with pytest.raises(KeyboardInterrupt):
            warp_volume(run, labels, str(target), labels=True, cluster="serial")
    shutil.rmtree(labels)
    shutil.copytree(kept, labels)
    assert warped(run, labels, target)


_WORK = WarpTask.run


def _write_and_die(task: WarpTask) -> Result:
    _WORK(task)
    raise KeyboardInterrupt


def test_what_does_not_fit_is_refused(run: str, ids: np.ndarray, tmp_path: Path) -> None:
    labels = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64")
    with pytest.raises(SourceError, match="uint8 or uint16"):
        warp_volume(run, labels, str(tmp_path / "w.zarr"), cluster="serial")
    with pytest.raises(OutputError, match="is the alignment itself"):
        warp_volume(run, labels, run, labels=True, cluster="serial")
    info = VolumeInfo(shape=(3, 99, 99), dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    create_volume(str(tmp_path / "other.zarr"), info=info, chunk=(1, 64, 64), shard=(1, 64, 64), mips=1)
    with pytest.raises(SourceError, match=r"has 3 sections of 99 × 99 px .* alignment .* is for 3 sections"):
        warp_volume(run, str(tmp_path / "other.zarr"), str(tmp_path / "w.zarr"), cluster="serial")
    assert not (tmp_path / "w.zarr").exists()


@pytest.mark.parametrize("command", [False, True])
def test_workers_that_are_too_small_are_refused(
    run: str, ids: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: bool
) -> None:
    monkeypatch.setattr(local, "MEMORY_LIMIT", 400 << 20)  # less than a worker's process takes alone
    labels, target = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64"), str(tmp_path / "warped.zarr")
    if command:
        words = ["warp", run, labels, target, "--labels", "--cluster", "local", "--workers", "1"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        assert "largest task needs" in " ".join(done.stderr.split())
    else:
        with pytest.raises(ConfigError, match=r"each worker has 0\.42 GB .* largest task needs"):
            warp_volume(run, labels, target, labels=True, cluster="local", workers=1)
    assert not Path(target).exists()


def test_the_most_frequent_id_wins() -> None:
    random = np.random.default_rng(3)
    ids = random.integers(0, 4, (61, 45)).astype("uint32")
    pooled = pool_labels(ids)
    assert pooled.shape == (31, 23)
    assert pooled.dtype == ids.dtype
    padded = np.pad(ids, [(0, 1), (0, 1)], mode="edge")
    for y, x in np.ndindex(*pooled.shape):
        counts = Counter(padded[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist())
        assert pooled[y, x] == max(counts, key=lambda value: (counts[value], value))


def test_the_command_warps(run: str, ids: np.ndarray, tmp_path: Path) -> None:
    labels = make_volume(tmp_path / "labels.zarr", ids, dtype="uint64")
    target = str(tmp_path / "warped.zarr")
    done = CliRunner().invoke(app, ["warp", run, labels, target, "--labels", "--cluster", "serial", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["state"] == "complete"
    np.testing.assert_array_equal(Volume.open(target).read(Box((0, 0, 0), SHAPE)), expected(ids))


def test_points_go_there_and_back(run: str, tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("name,z,y,x\na,0,60.5,50.5\nb,1,20,30\nc,2,20,30\n")
    done = CliRunner().invoke(app, ["points", run, str(file), "--to", "source"])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert [float(rows[0][axis]) for axis in "zyx"] == [0, 60.5 + SHIFT[0], 50.5 + SHIFT[1]]
    assert [float(rows[1][axis]) for axis in "zyx"] == [1, 20, 30]
    assert rows[2]["y"] == rows[2]["x"] == "nan"
    file.write_text(done.stdout)
    back = CliRunner().invoke(app, ["points", run, str(file), "--to", "aligned", "--json"])
    shown = json.loads(back.stdout)["points"]
    assert shown[0] == {"z": 0, "y": pytest.approx(60.5, abs=2e-3), "x": pytest.approx(50.5, abs=2e-3)}
    assert shown[2] == {"z": 2, "y": None, "x": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "columns z, y, x are needed"),
        ("z;y;x\n0;1;2\n", "columns z, y, x are needed"),
        ("0,1,2\n", "the first line has 0, 1, 2, but columns z, y, x are needed"),
        ("z,y\n1,2\n", "add x"),
        ("z,y,x\n0,1,2\n0,here,2\n", "line 3"),
        ("z,y,x\n0,1\n", "line 2"),
        ("z,y,x\n9,1,2\n", "the sections are 0 … 2"),
        ("z,y,x\n0.5,1,2\n", "the index of a section"),
    ],
)
def test_bad_points_are_named(run: str, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "points.csv"
    file.write_text(content)
    done = CliRunner().invoke(app, ["points", run, str(file)])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_warp_follows_the_sections_that_fixes_exchange(run: str, tmp_path: Path) -> None:
    # The mask is drawn in px of the run, and outside of a volume of coarser pixels.
    text = (
        "[[section]]\nz = 0\naction = 'swap'\nwith = 2\n"
        "[[section]]\nz = 1\nmask = [[[100, 100], [100, 120], [140, 120]]]\n"
    )
    update_run(run, fixes=keep_fixes(run, text), fitted_fixes=keep_fixes(run, text))
    values = np.random.default_rng(3).integers(1, 255, SHAPE)
    other = make_volume(tmp_path / "other.zarr", values, dtype="uint8", depth=1)
    target = str(tmp_path / "warped.zarr")
    assert warp_volume(run, other, target, cluster="serial").state == "complete"
    before = Volume.open(target).read(Box((0, 0, 0), SHAPE))
    moved = slice(SHIFT[0], 100 + SHIFT[0]), slice(20 + SHIFT[1], 100 + SHIFT[1])
    np.testing.assert_array_equal(before[0, :100, 20:100], values[2][moved])
    # Section 2 is read for the first shards, in which it is not.
    changed = 255 - values[2]
    Volume.open(other).write(Box((2, 0, 0), (3, *SHAPE[1:])), changed[None].astype("uint8"))
    assert warp_volume(run, other, target, cluster="serial").state == "complete"
    after = Volume.open(target).read(Box((0, 0, 0), SHAPE))
    np.testing.assert_array_equal(after[0, :100, 20:100], changed[moved])
    np.testing.assert_array_equal(after[1], before[1])
