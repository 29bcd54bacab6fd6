"""Fixes that a user gives: read, checked against the volume, and kept in the run."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.driver.run_fixes import GivenFixes, RunFixes, meaning, stored_fixes
from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.fixes.fixes_toml import parse_fixes
from ssem_dask.storage.fixes_store import keep_fixes, kept_fixes, read_kept_fixes
from ssem_dask.storage.run_group import create_run, read_run
from ssem_dask.storage.volume import VolumeInfo
from tests.support.fixed_runs import write_stack

INFO = VolumeInfo(shape=(10, 64, 96), dtype=np.dtype("uint8"), pixel_size=4.0, section_thickness=40.0)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Fixes .*none.toml: there is no such file; give the path of a TOML file\."):
        GivenFixes.read(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"is no text in UTF-8 .*; save it as that\."):
        GivenFixes.read(str(tmp_path / "bad.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read"):
        GivenFixes.read(str(tmp_path / "folder.toml"))


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "fixes.toml").write_bytes(b"\xef\xbb\xbf[[section]]\r\nz = 3\r\naction = 'invert'\r\n")
    assert meaning(GivenFixes.read(str(tmp_path / "fixes.toml")).text, INFO, where="").of(3).inverted


def test_a_mask_is_found_beside_its_file_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "spots.tif", np.ones((32, 48), dtype=np.uint8))
    text = "# a comment\n[[section]]\nz = 3\nmask = 'spots.tif'\n"
    (tmp_path / "fixes.toml").write_text(text)
    given = GivenFixes.read(str(tmp_path / "fixes.toml"))
    (fix,) = parse_fixes(given.text).section
    assert fix.mask == str(tmp_path / "spots.tif")
    monkeypatch.chdir("/")
    before = meaning(given.text, INFO, where="")
    tifffile.imwrite(tmp_path / "spots.tif", np.zeros((32, 48), dtype=np.uint8))
    # Another image is another fix.
    assert meaning(given.text, INFO, where="").differing(before) == {3}


@pytest.mark.parametrize("shape", [(64, 64), (33, 96), (128, 192), (2, 64, 96)])
def test_a_mask_of_another_shape_is_one_sentence(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tifffile.imwrite(tmp_path / "spots.tif", np.ones(shape, dtype=np.uint8), photometric="minisblack")
    with pytest.raises(SourceError, match=r"one section of 64 × 96 px is wanted, or the same at a coarser scale"):
        meaning(f"[[section]]\nz = 3\nmask = '{tmp_path / 'spots.tif'}'", INFO, where="")


def test_a_mask_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Fixes: mask .*spots\.tif"):
        meaning(f"[[section]]\nz = 3\nmask = '{tmp_path / 'spots.tif'}'", INFO, where="")


def test_a_run_keeps_every_version(tmp_path: Path) -> None:
    output = str(tmp_path / "run.zarr")
    assert stored_fixes(output) == RunFixes()
    create_run(output, attributes={"state": "running"})
    assert stored_fixes(output) == RunFixes()
    one, two = ("[[section]]\nz = 1\naction = 'invert'\n", "[[section]]\nz = 2\naction = 'invert'\n")
    RunFixes(one, one).keep(output)
    RunFixes(two, one).keep(output)
    RunFixes(two, one).keep(output)
    assert stored_fixes(output) == RunFixes(two, one)
    assert [read_kept_fixes(output, name) for name in kept_fixes(output)] == [one, two]
    RunFixes("", one).keep(output)
    assert stored_fixes(output) == RunFixes("", one)
    assert read_run(output).fixes == ""


def test_a_version_that_was_changed_is_noticed(tmp_path: Path) -> None:
    name = keep_fixes(str(tmp_path), "[[section]]\nz = 1\naction = 'invert'\n")
    (tmp_path / "fixes" / name).write_text("[[section]]\nz = 2\naction = 'invert'\n")
    with pytest.raises(SourceError, match="the file was changed after the run had used it"):
        read_kept_fixes(str(tmp_path), name)


@pytest.mark.parametrize(
    ("text", "register", "sentence"),
    [
        (
            "[[pair]]\nfixed = 1\nmoving = 6\npoints = [[9, 9, 9, 9]]",
            {},
            r"joins sections 1 and 6, but only sections up to 3 apart are compared",
        ),
        (
            "[[pair]]\nfixed = 1\nmoving = 2\npoints = [[9, 9, 9, 9]]",
            {"method": "ssemnet"},
            r"\[\[pair\]\] is understood by \[register\] method = 'gauss_newton' alone, not by 'ssemnet'",
        ),
        ("[[section]]\nz = 1\nsplit = [[[1, 1], [9, 9]]]", {"method": "ssemnet"}, r"split is understood by"),
    ],
)
def test_fixes_that_the_run_has_no_use_for_are_one_sentence(
    tmp_path: Path, text: str, register: dict[str, str], sentence: str
) -> None:
    source = write_stack(tmp_path / "source.zarr", np.zeros((10, 64, 64), dtype=np.uint8))
    tree = {"source": source, "output": str(tmp_path / "run.zarr"), "register": register}
    (tmp_path / "fixes.toml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        plan(make_config(tree), fixes=GivenFixes.read(str(tmp_path / "fixes.toml")))
