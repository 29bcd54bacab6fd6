"""The command line: bad input is one sentence and exit code 2, and what it prints can be read by a program."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import ssem_dask as package
from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from tests.support.cli import assert_one_sentence, ssem_dask, ssem_dask_process
from tests.support.runs import SMALL, to_toml


def plain_array(path: Path, values: np.ndarray[Any, Any]) -> str:
    array = zarr.create_array(str(path), shape=values.shape, chunks=(1, *values.shape[1:]), dtype=values.dtype)
    array[:] = values
    return str(path)


SIZES = ("--pixel-size", "5", "--section-thickness", "40")


def test_a_missing_source(tmp_path: Path) -> None:
    ended = ssem_dask_process("align", str(tmp_path / "none.zarr"), str(tmp_path / "out.zarr"))
    assert_one_sentence(ended, naming="none.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_a_source_that_does_not_tell_its_pixel_size(tmp_path: Path) -> None:
    source = plain_array(tmp_path / "a.zarr", np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype("uint8"))
    assert_one_sentence(ssem_dask("align", source, str(tmp_path / "out.zarr")), naming="--pixel-size")


@pytest.mark.parametrize(
    ("values", "naming"),
    [
        (np.ones((1, 64, 64), "uint8"), "single section"),
        (np.zeros((3, 64, 64), "uint8"), "every pixel is 0"),
        (np.ones((3, 64, 64), "float32"), "uint8 or uint16"),
        (np.ones((3, 8, 64), "uint8"), "32"),
    ],
    ids=["one section", "blank", "float", "tiny"],
)
def test_a_volume_that_cannot_be_aligned(values: np.ndarray[Any, Any], naming: str, tmp_path: Path) -> None:
    source = plain_array(tmp_path / "a.zarr", values)
    assert_one_sentence(ssem_dask("align", source, str(tmp_path / "out.zarr"), *SIZES), naming=naming)
    assert not (tmp_path / "out.zarr").exists()


def hardly_anything() -> dict[str, np.ndarray[Any, Any]]:
    """Volumes of which no pair of sections can be registered."""
    noise = np.random.default_rng(1).integers(1, 255, (4, 96, 96), dtype=np.uint8)
    volumes = {"one of two is black": noise[:2].copy(), "one of four is not black": np.zeros_like(noise)}
    volumes["one of two is black"][1] = 0
    volumes["one of four is not black"][2] = noise[2]
    volumes["one pixel differs"] = np.full_like(noise, 9)
    volumes["one pixel differs"][1, 40, 40] = 10
    volumes["two small sections of noise"] = noise[:2, :64, :64]
    resin = np.random.default_rng(2).integers(198, 203, (8, 128, 128), dtype=np.uint8)
    volumes["resin with a speck"], volumes["an island of tissue"] = resin.copy(), resin.copy()
    volumes["resin with a speck"][3, 60:64, 50:54] = 40
    volumes["an island of tissue"][:, 50:70, 50:70] = np.random.default_rng(3).integers(60, 180, (8, 20, 20))
    return volumes


NOTHING_MATCHES = ("one of two is black", "one of four is not black", "one pixel differs")


@pytest.mark.parametrize("name", hardly_anything())
def test_a_volume_in_which_nothing_matches_ends_in_a_picture_and_a_remark(name: str, tmp_path: Path) -> None:
    values = hardly_anything()[name]
    source = plain_array(tmp_path / "a.zarr", values)
    summary = package.align(
        source, str(tmp_path / "out.zarr"), cluster="serial", volume={"pixel_size": 5, "section_thickness": 40}, **SMALL
    )
    assert summary.state == "complete"
    remarks = any(remark.key.startswith("coarse") for remark in summary.remarks)
    assert remarks or name == "an island of tissue"  # its place is that of the islands around it
    assert summary.verdict.startswith("not aligned; no section matches another") or name not in NOTHING_MATCHES
    np.testing.assert_array_equal(Volume.open(str(tmp_path / "out.zarr" / "aligned")).info.shape, values.shape)
    assert Volume.open(str(tmp_path / "out.zarr" / "aligned")).read(Box((0, 0, 0), values.shape)).any()


def test_missing_chunks_of_a_source_are_said_before_it_is_aligned(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(1, 255, (8, 64, 64), dtype=np.uint8)
    source = plain_array(tmp_path / "a.zarr", values)
    chunk = max((path for path in Path(source).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    chunk.unlink()
    ended = ssem_dask("plan", source, str(tmp_path / "out.zarr"), *SIZES)
    assert ended.returncode == 0
    assert re.search(
        r"1 of \d+ chunks? not stored, read as the fill value", " ".join((ended.stdout + ended.stderr).split())
    )


@pytest.mark.parametrize(
    ("change", "naming"),
    [
        ({"register": {"neigbours": 2}}, "did you mean 'neighbours'"),
        ({"registration": {}}, "did you mean 'register'"),
        ({"register": {"neighbours": 0}}, "neighbours = 0"),
        ({"register": {"window": 100}}, "window = 100"),
        ({"register": {"method": "magic"}}, "magic"),
        ({"register": {"ssemnet": {"interpolation": "cubic"}}}, "interpolation"),
        ({"render": {"chunk": [8, 100, 100], "shard": [8, 150, 150]}}, "multiple of chunk"),
        ({"register": {"method": "ssemnet", "ssemnet": {"encoder": "nothing.safetensors"}}}, "nothing.safetensors"),
        ({"register": {"method": "ssemnet", "ssemnet": {"encoder_digest": "0" * 64}}}, "sha256"),
        ({"register": {"method": "gauss_newton", "gauss_newton": {"encoder_digest": "0" * 64}}}, "sha256"),
        ({"cluster": {"name": "cloud9"}}, "cloud9"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_configuration_that_is_wrong(change: dict[str, Any], naming: str, observed: str, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), **change}))
    assert_one_sentence(ssem_dask("run", str(config)), naming=naming)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize(("text", "naming"), [("source = ", "TOML"), ('output = "x.zarr"', "source")])
def test_a_config_file_that_is_no_config(text: str, naming: str, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(text)
    assert_one_sentence(ssem_dask("plan", str(config)), naming=naming)


def test_a_missing_config_file(tmp_path: Path) -> None:
    assert_one_sentence(ssem_dask("plan", str(tmp_path / "none.toml")), naming="none.toml")


def test_an_output_that_belongs_to_another_configuration(observed: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    config = tmp_path / "run.toml"
    config.write_text(to_toml({"source": observed, "output": output, **SMALL}))
    assert ssem_dask("run", str(config), "--cluster", "serial").returncode == 0
    before = sorted((p, p.stat().st_mtime_ns) for p in Path(output).rglob("*"))
    changed = {**SMALL, "coarse": {**SMALL["coarse"], "max_rotation": 5.0}}
    config.write_text(to_toml({"source": observed, "output": output, **changed}))
    assert_one_sentence(ssem_dask("run", str(config), "--cluster", "serial"), naming="another source or configuration")
    assert sorted((p, p.stat().st_mtime_ns) for p in Path(output).rglob("*")) == before


def test_an_output_that_is_no_run(observed: str, tmp_path: Path) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.txt").write_text("irreplaceable")
    ended = ssem_dask("align", observed, str(other), "--cluster", "serial")
    assert_one_sentence(ended, naming="thesis")
    assert [p.name for p in other.iterdir()] == ["chapter1.txt"]


def test_an_unreachable_source(tmp_path: Path) -> None:
    ended = ssem_dask("align", "http://127.0.0.1:9/volume.zarr", str(tmp_path / "out.zarr"))
    assert_one_sentence(ended, naming="127.0.0.1:9")


def test_status_of_something_that_is_no_run(tmp_path: Path) -> None:
    assert_one_sentence(ssem_dask("status", str(tmp_path / "none.zarr")), naming="none.zarr")
    (tmp_path / "thesis.tex").touch()
    assert_one_sentence(ssem_dask("status", str(tmp_path)), naming="was written by none of")


def test_demo_never_deletes_what_is_not_a_demo(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    assert_one_sentence(ssem_dask("demo", "--dir", str(tmp_path)), naming="not a demo")
    assert (tmp_path / "thesis.tex").exists()


def test_plan_touches_nothing_and_counts_what_run_does(config_file: Path) -> None:
    planned = ssem_dask("plan", str(config_file), "--json")
    assert planned.returncode == 0, planned.stderr
    assert sorted(p.name for p in config_file.parent.iterdir()) == ["run.toml"]
    counted = {name: stage["tasks"] for name, stage in json.loads(planned.stdout)["stages"].items()}
    ended = ssem_dask("run", str(config_file), "--cluster", "serial", "--json")
    assert ended.returncode == 0, ended.stderr
    done = json.loads(ended.stdout)
    assert done["state"] == "complete"
    assert {stage: sum(counts.values()) for stage, counts in done["counts"].items()} == counted
    status = ssem_dask("status", str(config_file.parent / "out.zarr"), "--json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["counts"] == done["counts"]


def test_simulate_align_evaluate_by_hand(observed: str, tmp_path: Path) -> None:
    small = tmp_path / "small.zarr"
    made = ssem_dask("simulate", "phantom", str(small), "--seed", "5", "--sections", "8", "--size", "128", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["shape"] == [8, 128, 128]
    config = tmp_path / "run.toml"
    config.write_text(to_toml(SMALL | {"register": {**SMALL["register"], "window": 128}}))
    output = str(tmp_path / "out.zarr")
    ended = ssem_dask("align", str(small), output, "--config", str(config), "--cluster", "serial")
    assert ended.returncode == 0, ended.stderr
    measured = ssem_dask("evaluate", output, "--truth", str(small), "--json")
    assert measured.returncode == 0, measured.stderr
    rows = json.loads(measured.stdout)["rows"]
    assert rows["aligned"]["jitter_median"] < rows["observed"]["jitter_median"]
    table = ssem_dask("evaluate", output, "--truth", str(small))
    assert table.returncode == 0
    assert "jump between adjacent sections, median" in table.stdout
    assert json.loads(measured.stdout)["verdict"] == table.stdout.splitlines()[-1]
    assert "jitter_median" in ssem_dask("evaluate", output, "--truth", str(small), "--all").stdout


@pytest.mark.parametrize(("kind", "method"), [("metric", "gauss_newton"), ("autoencoder", "ssemnet")])
def test_train_writes_weights_that_align_takes(observed: str, tmp_path: Path, kind: str, method: str) -> None:
    encoder = tmp_path / "mine.safetensors"
    words = ("train", observed, str(encoder), "--encoder", kind, "--steps", "3", "--seed", "2", "--json")
    first = ssem_dask(*words)
    assert first.returncode == 0, first.stderr
    digest = json.loads(first.stdout)["digest"]
    assert json.loads(ssem_dask(*words).stdout)["digest"] == digest
    assert "3 of 3 steps" in first.stderr
    assert Path(json.loads(first.stdout)["picture"]).read_bytes().startswith(b"\x89PNG")
    other = ssem_dask(*(word if word != "2" else "3" for word in words))
    assert json.loads(other.stdout)["digest"] != digest
    assert ssem_dask(*words).returncode == 0  # the file holds the weights of the first seed again
    config = tmp_path / "run.toml"
    chosen = {"method": method, method: {"encoder": str(encoder), "encoder_digest": digest}}
    config.write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), "register": chosen}))
    assert ssem_dask("plan", str(config)).returncode == 0
    assert_one_sentence(ssem_dask("train", observed, str(tmp_path / "mine.pt")), naming=".safetensors")


def test_help_of_every_command() -> None:
    top = ssem_dask("--help")
    assert top.returncode == 0
    for command in (
        "demo",
        "import",
        "align",
        "plan",
        "run",
        "status",
        "rerun",
        "verify",
        "train",
        "simulate",
        "evaluate",
    ):
        assert command in top.stdout
        shown = ssem_dask(command, "--help")
        assert shown.returncode == 0
        assert "Usage" in shown.stdout


def test_a_volume_from_another_program_is_aligned_in_place(tmp_path: Path) -> None:
    info = VolumeInfo(shape=(3, 64, 64), dtype=np.dtype("uint16"), pixel_size=8.0, section_thickness=50.0)
    create_volume(str(tmp_path / "v.zarr"), info=info, chunk=(1, 64, 64), shard=(1, 64, 64), mips=1)
    config = tmp_path / "run.toml"
    config.write_text(to_toml({"source": str(tmp_path / "v.zarr"), "output": str(tmp_path / "out.zarr")}))
    planned = json.loads(ssem_dask("plan", str(config), "--json").stdout)
    assert "register.mip = 0" in planned["choices"][0]
