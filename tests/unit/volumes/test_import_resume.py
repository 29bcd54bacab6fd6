"""An import that was interrupted resumes; a volume is replaced only by a whole one; nothing foreign is ever deleted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from ssem_dask.errors import IncompleteError, OutputError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage import location
from ssem_dask.storage.volume import Volume
from ssem_dask.storage.volume_checks import IMPORT_KEY
from ssem_dask.types import AnyArray
from ssem_dask.volumes import import_slabs
from ssem_dask.volumes.import_place import STAGING
from ssem_dask.volumes.importing import import_volume
from tests.support.cli import ssem_dask

SHAPE = (7, 300, 310)
OPTIONS: dict[str, Any] = {
    "pixel_size": 4.0,
    "section_thickness": 40.0,
    "chunk": (1, 64, 64),
    "shard": (2, 128, 128),
}


def make_values(seed: int) -> AnyArray:
    """Noise, with shards and a whole slab of zeros, which have no files."""
    values = np.random.default_rng(seed).integers(1, 255, SHAPE, dtype=np.uint8)
    values[2:4] = 0
    values[:2, :128, :128] = 0
    return values


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for z, section in enumerate(make_values(0)):
        tifffile.imwrite(folder / f"{z}.tif", section)
    return folder


def level(url: str, mip: int) -> AnyArray:
    volume = Volume.open(url)
    return volume.read(Box((0, 0, 0), volume.shape_at(mip), mip))


def shards(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("c/*/*/*") if path.is_file()
    }


class Killed(BaseException):
    """The process dies: no handler of errors sees it."""


def killed_after(calls: int) -> Callable[[object], None]:
    left = [calls]

    def call(_what: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return call


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_slabs, "BAND_BYTES", 1)


@pytest.mark.parametrize("calls", range(1, 13, 2))
def test_an_interrupted_import_resumes_by_whole_shards(source: Path, tmp_path: Path, calls: int) -> None:
    out, whole = tmp_path / "out.zarr", tmp_path / "whole.zarr"
    import_volume(str(source), str(whole), **OPTIONS)
    with pytest.raises(Killed):
        import_volume(str(source), str(out), progress=killed_after(calls), **OPTIONS)
    with pytest.raises(SourceError, match="not finished"):
        Volume.open(str(out))
    before, done, notes = shards(out), list[int](), list[str]()
    assert before
    import_volume(str(source), str(out), progress=done.append, note=notes.append, **OPTIONS)
    after = shards(out)
    assert {path: after[path] for path in before} == before
    assert set(after) == set(shards(whole))
    assert sum(done) == np.prod(SHAPE)
    assert notes == []
    for mip in (0, 1):
        np.testing.assert_array_equal(level(str(out), mip), level(str(whole), mip))
    assert location.list_names(str(out)) == ["0", "1", "zarr.json"]


@pytest.mark.parametrize("change", ["options", "files", "source"])
def test_an_interrupted_import_of_something_else_starts_again(source: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "out.zarr"
    with pytest.raises(Killed):
        import_volume(str(source), str(out), progress=killed_after(5), **OPTIONS)
    options, other = OPTIONS, source
    if change == "options":
        options = {**OPTIONS, "shard": (1, 64, 64)}
    elif change == "files":
        tifffile.imwrite(source / "0.tif", make_values(1)[0])
    else:
        other = tmp_path / "others"
        shutil.copytree(source, other)
    notes = list[str]()
    import_volume(str(other), str(out), note=notes.append, **options)
    assert len(notes) == 1
    assert "starting again" in notes[0]
    import_volume(str(other), str(tmp_path / "fresh.zarr"), **options)
    assert set(shards(out)) == set(shards(tmp_path / "fresh.zarr"))
    np.testing.assert_array_equal(level(str(out), 1), level(str(tmp_path / "fresh.zarr"), 1))


def test_a_source_that_changes_while_it_is_read(source: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.zarr")

    def image_again(_pixels: int) -> None:
        tifffile.imwrite(source / "6.tif", make_values(3)[6])

    with pytest.raises(IncompleteError, match=r"images: 6\.tif changed while it was read"):
        import_volume(str(source), out, progress=image_again, **OPTIONS)
    with pytest.raises(SourceError, match="not finished"):
        Volume.open(out)
    import_volume(str(source), out, **OPTIONS)
    np.testing.assert_array_equal(level(out, 0)[6], make_values(3)[6])


def test_shards_are_counted_before_an_import_is_complete(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"

    def lose(_pixels: int) -> None:
        (out / "0" / "c" / "0" / "1" / "1").unlink(missing_ok=True)

    words = ("import", str(source), str(out), "--pixel-size", "4", "--section-thickness", "40")
    with pytest.raises(IncompleteError, match=r"0/c/0/1/1"):
        import_volume(str(source), str(out), progress=lose, **OPTIONS)
    assert json.loads((out / "zarr.json").read_text())["attributes"][IMPORT_KEY]["state"] == "importing"
    before = shards(out)
    import_volume(str(source), str(out), **OPTIONS)
    after = shards(out)
    assert set(after) - set(before) == {"0/c/0/1/1"}
    assert {path: after[path] for path in before} == before
    np.testing.assert_array_equal(level(str(out), 0), make_values(0))
    assert ssem_dask(*words, "--overwrite").returncode == 0  # other shards


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_output_that_is_removed_is_named_as_such(source: Path, tmp_path: Path, interrupted: bool) -> None:
    out = tmp_path / "out.zarr"
    if interrupted:
        with pytest.raises(Killed):
            import_volume(str(source), str(out), progress=killed_after(5), **OPTIONS)
    with pytest.raises(OutputError, match="the output was removed while it was written"):
        import_volume(str(source), str(out), progress=lambda _: shutil.rmtree(out, ignore_errors=True), **OPTIONS)


@pytest.mark.parametrize(("scheme", "old_format"), [("", 2), ("", 3), ("memory://import-test", 3)])
@pytest.mark.filterwarnings("ignore:Both zarr.json:zarr.errors.ZarrUserWarning")
def test_a_volume_is_replaced_whenever_the_import_is_killed(
    tmp_path: Path, scheme: str, old_format: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kill leaves the old volume, or an unfinished import; the same call then ends with the new volume."""
    out = f"{scheme}/{tmp_path.name}/out.zarr" if scheme else str(tmp_path / "out.zarr")
    old, new = make_values(8)[:3, :140, :], make_values(0)[:3, :140, :]
    tifffile.imwrite(tmp_path / "old.tif", old, photometric="minisblack")
    tifffile.imwrite(tmp_path / "new.tif", new, photometric="minisblack")
    source = tmp_path / "new.tif"
    options = {**OPTIONS, "pyramid": False}
    kills, calls = 0, 0
    originals = {name: getattr(location, name) for name in ("delete", "move_or_copy", "write_bytes")}
    limit = [10**9]

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if "drivers.lease" not in str(args[0]):
                limit[0] -= 1
                if limit[0] < 0:
                    raise Killed
            return originals[name](*args, **kwargs)

        return call

    for name in originals:
        monkeypatch.setattr(location, name, counted(name))
    while True:
        limit[0] = 10**9
        location.delete(out, recursive=True)
        if old_format == 3:
            import_volume(str(tmp_path / "old.tif"), out, **OPTIONS)
        else:
            _write_v2(out, old)
        limit[0] = calls
        try:
            import_volume(str(source), out, overwrite=True, **options)
        except Killed:
            kills += 1
        else:
            break
        limit[0] = 10**9
        try:
            found = Volume.open(out).read(Box((0, 0, 0), old.shape))
        except SourceError as error:
            assert "not finished" in str(error)  # noqa: PT017
        else:
            assert np.array_equal(found, old) or np.array_equal(found, new)
        import_volume(str(source), out, overwrite=True, **options)
        assert Volume.open(out).mips == (0,)
        np.testing.assert_array_equal(level(out, 0), new)
        assert location.list_names(out) == ["0", "zarr.json"]
        calls += 1 if old_format == 3 and not scheme else 3
    assert kills > 3


def _write_v2(url: str, values: AnyArray) -> None:
    """An OME-Zarr 0.4 image of two levels, as another program writes it."""
    group = zarr.open_group(url, mode="w", zarr_format=2)
    datasets = []
    for i, name in enumerate(("s0", "s1")):
        level_values = values[:, :: 2**i, :: 2**i]
        group.create_array(name, shape=level_values.shape, dtype="u1", chunks=(4, 64, 64))[:] = level_values
        scale = {"type": "scale", "scale": [40.0, 4.0 * 2**i, 4.0 * 2**i]}
        datasets.append({"path": name, "coordinateTransformations": [scale]})
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    multiscale: Any = {"version": "0.4", "axes": axes, "datasets": datasets}
    group.attrs["multiscales"] = [multiscale]


def test_an_interrupted_replacement_resumes_by_whole_shards(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    tifffile.imwrite(tmp_path / "old.tif", make_values(8), photometric="minisblack")
    import_volume(str(tmp_path / "old.tif"), str(out), **OPTIONS)
    with pytest.raises(Killed):
        import_volume(str(source), str(out), overwrite=True, progress=killed_after(6), **OPTIONS)
    np.testing.assert_array_equal(level(str(out), 0), make_values(8))
    before = shards(out / STAGING)
    assert before
    import_volume(str(source), str(out), overwrite=True, **OPTIONS)
    assert {path: shards(out)[path] for path in before} == before
    np.testing.assert_array_equal(level(str(out), 0), make_values(0))


@pytest.mark.parametrize("bad", ["constant", "damaged"])
def test_a_bad_source_replaces_nothing(source: Path, tmp_path: Path, bad: str) -> None:
    out = tmp_path / "out.zarr"
    import_volume(str(source), str(out), **OPTIONS)
    before = shards(out)
    if bad == "constant":
        for z in range(SHAPE[0]):
            tifffile.imwrite(source / f"{z}.tif", np.full(SHAPE[1:], 9, dtype=np.uint8))
    else:
        file = source / "6.tif"
        file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(SourceError):
        import_volume(str(source), str(out), overwrite=True, **OPTIONS)
    assert shards(out) == before
    assert location.list_names(str(out)) == ["0", "1", "zarr.json"]
    np.testing.assert_array_equal(level(str(out), 0), make_values(0))


@pytest.mark.parametrize(
    "name", ["labels/seg/zarr.json", "notes.txt", "0/notes.txt", "1/c/readme", "ledger/render/a.json"]
)
def test_foreign_files_are_named_and_stay(source: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.zarr"
    import_volume(str(source), str(out), **OPTIONS)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(
        OutputError, match=r"beside the volume itself there are (labels|ledger|notes.txt|0/notes|1/c/read)"
    ):
        import_volume(str(source), str(out), overwrite=True, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_simulation_is_never_replaced(observed: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "simulated.zarr"
    shutil.copytree(observed, out)
    with pytest.raises(OutputError, match=r"beside the volume itself there are labels, truth"):
        import_volume(str(source), str(out), overwrite=True, **OPTIONS)
    metadata = json.loads((out / "zarr.json").read_text())
    metadata["attributes"][IMPORT_KEY]["state"] = "simulating"
    (out / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(OutputError, match="something that is not a volume"):
        import_volume(str(source), str(out), overwrite=True, **OPTIONS)


def test_beside_its_images(source: Path) -> None:
    out = source / "volume.zarr"
    with pytest.raises(Killed):
        import_volume(str(source), str(out), progress=killed_after(5), **OPTIONS)
    notes = list[str]()
    import_volume(str(source), str(out), note=notes.append, **OPTIONS)
    assert notes == []
    np.testing.assert_array_equal(level(str(out), 0), make_values(0))
