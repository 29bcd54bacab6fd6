"""Whatever a store holds, a command ends well or in one sentence.

Files of a small complete run and of its source are replaced, torn and changed at random, and the commands are called in
this process. Only a `SsemDaskError` whose message is one sentence may come out, and no command takes much memory.

`HYPOTHESIS_PROFILE=fuzz` searches longer.
"""

import json
import os
import resource
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ssem_dask as package
from ssem_dask.errors import SsemDaskError
from ssem_dask.geometry.box import Box
from ssem_dask.report.page import make_report
from ssem_dask.report.report_data import read_report_data
from ssem_dask.report.summary import stage_rows, summary_facts
from ssem_dask.report.viewer.site import make_site
from ssem_dask.storage.volume import VolumeInfo, create_volume
from tests.support.cli import ssem_dask
from tests.support.runs import SMALL, to_toml

FUZZ = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
MAX_GROWTH_BYTES = 600 << 20
"""Bytes by which the memory of this process may grow over all examples."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 2, 7, 1 << 31, 1 << 63, 10**12, 10**30, 1e999, float("nan"), -0.5])
    | st.sampled_from(["", "x", "complete", "running", "zarr.json", "../..", "/etc/passwd", "uint8", "\x1b]0;a\x07"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["z", "name", "state", "files", "key"]), inner, max_size=3)
    ),
    max_leaves=5,
)
WHOLE = st.sampled_from(
    [b"", b" ", b"{", b"{}", b"[]", b"null", b"0", b'"x"', b"\xff\xfe\x00", b"[" * 50_000, b"9" * 5000]
)


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """Other content of a JSON file: something else as a whole, torn, or with one value replaced, removed or added."""
    kind = draw(st.sampled_from(["value", "value", "value", "value", "whole", "torn"]))
    if kind == "whole":
        return draw(WHOLE | VALUES.map(lambda value: json.dumps(value).encode()))
    if kind == "torn":
        return content[: draw(st.integers(0, len(content)))]
    try:
        tree = json.loads(content)
    except ValueError:
        return draw(WHOLE)
    places = list(_places(tree))
    if not places:
        return draw(WHOLE)
    parent, key = draw(st.sampled_from(places))
    action = draw(st.sampled_from(["replace", "replace", "remove"]))
    if action == "remove":
        del parent[key]
    else:
        parent[key] = draw(VALUES)
    return json.dumps(tree).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) of nested JSON."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny source volume and a complete run of it."""
    folder = tmp_path_factory.mktemp("odd")
    info = VolumeInfo(shape=(4, 96, 96), dtype=np.dtype(np.uint8), pixel_size=4.0, section_thickness=40.0)
    source = create_volume(str(folder / "source.zarr"), info=info, chunk=(1, 96, 96), shard=(4, 96, 96), mips=1)
    source.write(Box((0, 0, 0), info.shape), np.random.default_rng(1).integers(1, 255, info.shape, dtype=np.uint8))
    config = {**SMALL, "register": {**SMALL["register"], "neighbours": 1}}
    package.align(str(folder / "source.zarr"), str(folder / "out.zarr"), cluster="serial", **config)
    return folder


def files(whole: Path) -> list[Path]:
    """Return the files whose content is interpreted, relative to the folder."""
    names = {"zarr.json", "whole.page", "source.stamps", "run.record"}
    found = (path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    return sorted(path for path in found if path.name in names or path.suffix == ".json")


def _plan(source: Path, config: Path) -> object:
    config.write_text(to_toml({"source": str(source), "output": str(config.with_name("new.zarr")), **SMALL}))
    return ssem_dask("plan", str(config))


def _report(run: Path) -> None:
    data = read_report_data(str(run))
    summary_facts(data)
    stage_rows(data)


def _open(run: Path) -> None:
    alignment = package.open_alignment(str(run))
    alignment.field(0)
    _ = alignment.coarse(), alignment.state


Command = Callable[[Path, Path], object]
"""A command on a source and a run."""
QUICK: dict[str, Command] = {
    "status": lambda _source, run: ssem_dask("status", str(run)),
    "status --json": lambda _source, run: ssem_dask("status", str(run), "--json"),
    "plan": lambda source, run: _plan(source, run.with_name("plan.toml")),
    "rerun --dry-run": lambda _source, run: ssem_dask("rerun", str(run), "--dry-run"),
    "report": lambda _source, run: _report(run),
    "open": lambda _source, run: _open(run),
    "import": lambda source, run: ssem_dask("import", str(source), str(run.with_name("copy.zarr"))),
}
SLOW: dict[str, Command] = {
    "verify": lambda _source, run: ssem_dask("verify", str(run), "--cluster", "serial"),
    "rerun": lambda _source, run: ssem_dask("rerun", str(run), "--cluster", "serial"),
}


@pytest.mark.timeout(0 if FUZZ else 600)
@settings(
    max_examples=3000 if FUZZ else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
@given(data=st.data())
def test_a_command_ends_well_or_in_one_sentence(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    run, source = folder / "out.zarr", folder / "source.zarr"
    for relative in data.draw(
        st.lists(st.sampled_from(files(whole)), min_size=1, max_size=2, unique=True), label="files"
    ):
        path = folder / relative
        content = path.read_bytes()
        packed = path.name == "whole.page"
        other = data.draw(changed(zlib.decompress(content) if packed else content), label=str(relative))
        path.write_bytes(zlib.compress(other) if packed and data.draw(st.booleans(), label="packed") else other)
    name = data.draw(st.sampled_from([*QUICK, *QUICK, *SLOW]), label="command")
    command = {**QUICK, **SLOW}[name]
    try:
        ended = command(source, run)
    except SsemDaskError as error:
        assert_sentence(str(error))
    else:
        if isinstance(ended, subprocess.CompletedProcess):
            assert ended.returncode in (0, 1, 2)
            assert "Traceback" not in ended.stderr
            if ended.returncode == 2:
                assert_sentence(ended.stderr.rpartition("error: ")[2])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MAX_GROWTH_BYTES


ABSENT = object()


@pytest.mark.parametrize("value", [ABSENT, None, "", [], -1], ids=["absent", "null", "text", "list", "number"])
def test_whatever_a_run_says_of_itself_a_report_and_a_viewer_are_made_or_refused(
    whole: Path, tmp_path: Path, value: Any
) -> None:
    """Every attribute of a run and every table of its configuration in turn; a run has no other copy of them here."""
    run = Path(shutil.copytree(whole / "out.zarr", tmp_path / "out.zarr"))
    (run / "ledger" / "run.record").unlink()
    content = (run / "zarr.json").read_text()
    record = json.loads(content)["attributes"]["ssem_dask"]
    for path in [*((name,) for name in record), *(("config", name) for name in record["config"])]:
        tree = json.loads(content)
        parent = tree["attributes"]["ssem_dask"]
        for name in path[:-1]:
            parent = parent[name]
        if value is ABSENT:
            del parent[path[-1]]
        else:
            parent[path[-1]] = value
        (run / "zarr.json").write_text(json.dumps(tree))
        for show in (partial(make_report, worst=1, viewer=None), partial(make_site, labels=None, worst=1)):
            try:
                assert show(str(run))
            except SsemDaskError as error:
                assert_sentence(str(error))


@pytest.mark.parametrize("name", ["zarr.json", "aligned/zarr.json", "aligned/0/zarr.json", "ledger/source.stamps"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.timeout(100)
def test_what_is_no_file_is_not_waited_for(whole: Path, tmp_path: Path, name: str, kind: str) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    run = tmp_path / "copy" / "out.zarr"
    (run / name).unlink()
    if kind == "pipe":
        os.mkfifo(run / name)
    else:
        (run / name).symlink_to("/dev/zero")
    for command in ("status", "status --json", "report", "open", "rerun --dry-run"):
        try:
            QUICK[command](run.with_name("source.zarr"), run)
        except SsemDaskError as error:
            assert_sentence(str(error))


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.timeout(100)
def test_a_chunk_that_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source.zarr"
    zarr.create_array(str(source), data=np.ones((4, 96, 96), np.uint8), chunks=(1, 96, 96))
    chunk = source / "c" / "2" / "0" / "0"
    chunk.unlink()
    if kind == "pipe":
        os.mkfifo(chunk)
    else:
        chunk.symlink_to("/dev/zero")
    with pytest.raises(SsemDaskError) as caught:
        package.import_volume(str(source), str(tmp_path / "copy.zarr"), pixel_size=4, section_thickness=40)
    assert "is a pipe or a device, not a file" in str(caught.value)
    assert_sentence(str(caught.value))


def assert_sentence(message: str) -> None:
    assert message
    assert "\n" not in message.strip(), message
    assert len(message) < 2000, message
