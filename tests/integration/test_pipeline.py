"""The whole pipeline: any executor, any interruption, the same result; and what it leaves on disk."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ome_zarr_models.v05.image import Image as OmeImage

import ssem_dask
from ssem_dask.geometry.box import Box
from ssem_dask.registration.encoders.encoder import SHIPPED
from ssem_dask.storage.arrays import group_attributes, open_array
from ssem_dask.storage.fields import open_field
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.volume import Volume
from tests.support.runs import SEPARATE, SMALL, assert_same, section_fields, to_toml

STAGES = {"coarse", "calibrate", "register", "compose", "render", "downsample", "measure"}


@pytest.fixture(scope="module")
def serial_run(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The undisturbed run in this process."""
    output = str(tmp_path_factory.mktemp("serial") / "out.zarr")
    summary = ssem_dask.align(observed, output, cluster="serial", **SMALL)
    assert summary.state == "complete"
    return output


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "ssem_dask.cli", *words]


def test_dask_gives_the_same_as_serial(observed: str, serial_run: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    summary = ssem_dask.align(observed, output, cluster="local", workers=2, **SMALL)
    assert summary.state == "complete"
    assert_same(output, serial_run)


def test_the_other_modes_run_the_same_on_dask_and_serially(observed: str, tmp_path: Path) -> None:
    outputs = [str(tmp_path / f"{cluster}.zarr") for cluster in ("serial", "local")]
    for cluster, output in zip(("serial", "local"), outputs, strict=True):
        assert ssem_dask.align(observed, output, cluster=cluster, **SEPARATE).state == "complete"
    pairs = [np.asarray(open_array(join(output, "fields", "pairs"), mode="r")[:]) for output in outputs]
    np.testing.assert_allclose(pairs[0], pairs[1], atol=1e-3, rtol=0)
    # On 10 sections the likelihood of the spectra is nearly flat, so rounding (another number of threads) shows.
    np.testing.assert_allclose(section_fields(outputs[0]), section_fields(outputs[1]), atol=0.2, rtol=0)


def test_every_section_but_the_first_has_pair_fields(serial_run: str) -> None:
    pairs, info = open_field(join(serial_run, "fields", "pairs"))
    known = np.isfinite(np.asarray(pairs[:])).all(axis=2).mean(axis=(2, 3))
    assert info.spacing == 16
    assert known[0, 0] == 0
    assert (known[0, 1:] > 0.75).all()
    assert (known[1, 2:] > 0.75).all()
    confidence = np.asarray(open_array(join(serial_run, "fields", "confidence"), mode="r")[:, 2:])
    assert 0 <= confidence.min() < confidence.max() <= 1


def test_the_run_says_what_it_is(observed: str, serial_run: str) -> None:
    record = read_run(serial_run)
    assert record.state == "complete"
    assert record.source == observed
    assert len(record.config_digest) == 64
    assert record.encoder_digest == SHIPPED["metric"]
    assert record.config["register"]["spacing"] == 16
    assert {r.stage for r in open_ledger(serial_run).reports(None)} == STAGES


def test_the_aligned_volume_is_valid_ome_zarr(serial_run: str) -> None:
    attributes = group_attributes(join(serial_run, "aligned"))
    assert attributes is not None
    image = OmeImage.from_uri(join(serial_run, "aligned")) if hasattr(OmeImage, "from_uri") else None
    assert attributes["ome"]["version"] == "0.5"
    assert image is None or len(image.ome_attributes.multiscales[0].datasets) == 3
    volume = Volume.open(join(serial_run, "aligned"))
    assert [volume.shape_at(m) for m in volume.mips] == [(10, 160, 160), (10, 80, 80), (10, 40, 40)]
    fine = volume.read(Box((4, 0, 0), (5, 160, 160))).astype(float)
    coarse = volume.read(Box((4, 0, 0), (5, 80, 80), 1))
    np.testing.assert_allclose(coarse[0], fine[0].reshape(80, 2, 80, 2).mean(axis=(1, 3)), atol=0.51)


def test_a_finished_run_does_nothing_again(observed: str, serial_run: str) -> None:
    before = {r.key: r.started + str(r.seconds) for r in open_ledger(serial_run).reports(None)}
    state = ("zarr.json", "run.record")  # hold the state of the run, which is "running" in between
    files = {p: p.stat().st_mtime_ns for p in Path(serial_run).rglob("*") if p.is_file() and p.name not in state}
    ssem_dask.align(observed, serial_run, cluster="serial", **SMALL)
    assert {r.key: r.started + str(r.seconds) for r in open_ledger(serial_run).reports(None)} == before
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_killed_three_times_it_ends_as_if_undisturbed(serial_run: str, config_file: Path) -> None:
    output = config_file.parent / "out.zarr"
    moments = random.Random(11)
    kills = 0
    for _ in range(40):
        done_before = len(list(output.glob("ledger/**/*.json")))
        process = subprocess.Popen(
            command("run", str(config_file), "--cluster", "serial"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wanted = done_before + moments.randint(1, 9)
        while process.poll() is None and (kills == 3 or len(list(output.glob("ledger/**/*.json"))) < wanted):
            time.sleep(0.01)
        if process.poll() is None:
            time.sleep(moments.random() * 0.2)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0
            break
    assert kills == 3
    assert_same(str(output), serial_run)


def test_a_dask_run_killed_with_its_workers_goes_on(serial_run: str, config_file: Path) -> None:
    output = config_file.parent / "out.zarr"
    words = command("run", str(config_file), "--cluster", "local", "--workers", "2")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and len(list(output.glob("ledger/register/**/*.json"))) < 2:
        time.sleep(0.02)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command("run", str(config_file), "--cluster", "serial"), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert_same(str(output), serial_run)


def test_an_interrupt_stops_cleanly_and_the_run_goes_on(config_file: Path) -> None:
    output = config_file.parent / "out.zarr"
    # A shell that runs tests in the background has SIGINT ignored, and children inherit that.
    words = ["env", "--default-signal=INT", *command("run", str(config_file), "--cluster", "local", "--workers", "1")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while process.poll() is None and not list(output.glob("ledger/coarse/**/*.json")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and to its workers
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    for noise in (b"Traceback", b"CancelledError", b"WARNING", b"ERROR"):
        assert noise not in errors, errors.decode()
    assert errors.rstrip().splitlines()[-1].startswith(b"error: Interrupted")
    status = subprocess.run(command("status", str(output), "--json"), capture_output=True, check=False)
    assert status.returncode == 1
    assert json.loads(status.stdout)["state"] == "incomplete"
    before = {p: p.stat().st_mtime_ns for p in output.glob("ledger/coarse/**/*.json")}
    again = subprocess.run(command("run", str(config_file), "--cluster", "serial"), capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_damaged_source_chunk_fails_by_name_and_mending_it_suffices(
    observed: str, serial_run: str, tmp_path: Path
) -> None:
    source = tmp_path / "source.zarr"
    subprocess.run(["cp", "-r", observed, str(source)], check=True)
    chunk = source / "0" / "c" / "7" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    config = tmp_path / "run.toml"
    config.write_text(to_toml({"source": str(source), "output": str(tmp_path / "out.zarr"), **SMALL}))
    first = subprocess.run(
        command("run", str(config), "--cluster", "serial", "--json"), capture_output=True, check=False
    )
    assert first.returncode == 1, first.stderr.decode()
    printed = json.loads(first.stdout)
    assert printed["state"] == "incomplete"
    # Section 7 is also the neighbour of the sections in the second task.
    assert {report["key"] for report in printed["failed"]} == {"coarse/pairs-z000000", "coarse/pairs-z000008"}
    chunk.write_bytes(whole)
    second = subprocess.run(command("run", str(config), "--cluster", "serial"), capture_output=True, check=False)
    assert second.returncode == 0, second.stderr.decode()
    assert_same(str(tmp_path / "out.zarr"), serial_run)
