"""`verify` names every kind of damage to every file of a run, and `rerun` brings back the same bytes."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ssem_dask as package
from ssem_dask.storage.ledger import open_ledger
from tests.support import damage
from tests.support.cli import ssem_dask
from tests.support.damage import Harm, assert_opens_in_plain_zarr, contents, harms
from tests.support.runs import SETTINGS

pytestmark = pytest.mark.filterwarnings("ignore:Object at .* is not recognized as a component of a Zarr hierarchy")


@pytest.fixture(scope="module")
def whole(observed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run."""
    output = tmp_path_factory.mktemp("verified") / "whole.zarr"
    assert package.align(observed, str(output), cluster="serial", **SETTINGS["chain"]).state == "complete"
    return output


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "out.zarr"))


def assert_repaired(run: Path, whole: Path, *, damaged: list[Path]) -> None:
    """Every damaged file is named, the run is incomplete until `rerun`, and afterwards it is the same as before."""
    verified = ssem_dask("verify", str(run), "--cluster", "serial", "--json")
    assert verified.returncode == 1, damaged
    printed = verified.stderr + verified.stdout
    keys = {report["key"] for report in json.loads(verified.stdout)["failed"]}
    for path in damaged:
        assert str(path) in printed or _task_of(whole, path) in keys, path
    assert ssem_dask("status", str(run)).returncode == 1
    ended = ssem_dask("rerun", str(run), "--cluster", "serial")
    assert ended.returncode == 0, ended.stderr
    found, wanted = contents(run), contents(whole)
    assert {name for name in {*found, *wanted} if found.get(name) != wanted.get(name)} == set()
    assert ssem_dask("verify", str(run), "--cluster", "serial").returncode == 0
    assert_opens_in_plain_zarr(run)


def _task_of(whole: Path, path: Path) -> str:
    """Return the key of the task that wrote a file."""
    return next(report.key for report in open_ledger(str(whole)).reports(None) if str(path) in report.files)


def damage_all(run: Path, whole: Path, *, harm: Harm, where: Callable[[Path], bool]) -> list[Path]:
    """Damage every file of a kind that can have this damage."""
    paths = [path for path, kind in harms(whole) if kind is harm and where(path)]
    for path in paths:
        harm(run / path)
    return paths


METADATA = (
    damage.delete,
    damage.empty,
    damage.truncate,
    damage.garble,
    damage.other_type,
    damage.other_object,
    damage.other_node,
    damage.other_shape,
    damage.other_dtype,
    damage.other_codecs,
    damage.no_attributes,
)


@pytest.mark.parametrize("harm", METADATA)
def test_metadata_of_every_array_and_group(whole: Path, run: Path, harm: Harm) -> None:
    """The metadata of the run, its groups, its arrays and its OME-Zarr image, all at once."""
    damaged = damage_all(run, whole, harm=harm, where=lambda path: path.name == "zarr.json")
    assert len(damaged) > 10
    assert_repaired(run, whole, damaged=damaged)


@pytest.mark.parametrize("harm", [damage.delete, damage.garble, damage.other_type, damage.other_page])
def test_every_page_of_the_ledger(whole: Path, run: Path, harm: Harm) -> None:
    damaged = damage_all(run, whole, harm=harm, where=lambda path: path.name == "whole.page")
    assert_repaired(run, whole, damaged=[] if harm is damage.other_page else damaged)


@pytest.mark.parametrize(
    "harm", [damage.delete, damage.garble, damage.other_object, damage.other_report, damage.other_digest]
)
def test_entries_of_the_ledger(whole: Path, run: Path, harm: Harm) -> None:
    assert_repaired(run, whole, damaged=damage_all(run, whole, harm=harm, where=_is_late_entry))


@pytest.mark.parametrize("harm", [damage.empty, damage.other_digest])
def test_entries_and_their_pages(whole: Path, run: Path, harm: Harm) -> None:
    """Nothing says any more what the entries held, so everything that depends on them is made again."""
    damaged = damage_all(run, whole, harm=harm, where=_is_late_entry)
    for page in (run / "ledger").rglob("whole.page"):
        page.unlink()
    assert_repaired(run, whole, damaged=damaged)


def _is_late_entry(path: Path) -> bool:
    """Return whether a file is an entry of the last stages, which are quickly done again."""
    return path.parts[:2] in (("ledger", "downsample"), ("ledger", "measure")) and path.suffix == ".json"


def test_a_ledger_that_is_gone(whole: Path, run: Path) -> None:
    shutil.rmtree(run / "ledger")
    assert_repaired(run, whole, damaged=[])


@pytest.mark.parametrize("seed", range(3))
def test_shards_and_records(whole: Path, run: Path, seed: int) -> None:
    """Some damages of any kind at once, each to another file."""
    cases = [(path, harm) for path, harm in harms(whole) if path.parts[0] != "ledger" and path.name != "zarr.json"]
    chosen = dict(random.Random(seed).sample(cases, 5))
    for path, harm in chosen.items():
        harm(run / path)
    assert_repaired(run, whole, damaged=list(chosen))


@pytest.mark.parametrize("harm", [damage.digit, damage.empty])
def test_every_record(whole: Path, run: Path, harm: Harm) -> None:
    records = [path.relative_to(whole) for path in (whole / "quality").rglob("*.json")]
    assert len(records) > 2
    for record in records:
        harm(run / record)
    assert_repaired(run, whole, damaged=records)


def test_only_the_task_whose_entry_was_lost_runs_again(whole: Path, run: Path) -> None:
    """The page says what the entry held, so nothing depends on the loss."""
    entry = run / "ledger" / "register" / "z000000" / "z000000-y0000000-x0000000.json"
    entry.unlink()
    before = {path: path.stat().st_mtime_ns for path in (run / "ledger").rglob("*-x*.json")}
    assert_repaired(run, whole, damaged=[entry.relative_to(run)])
    after = {path: path.stat().st_mtime_ns for path in (run / "ledger").rglob("*-x*.json")}
    assert {path for path in after if after[path] != before.get(path)} == {entry}


def test_a_late_write_of_another_configuration_is_named_and_undone(whole: Path, run: Path) -> None:
    """A task of an earlier driver overwrites a shard and its entry; the page still says what the run wants."""
    entry = run / "ledger" / "render" / "z000000" / "z000000-y0000000-x0000000.json"
    shutil.copy(run / "aligned/0/c/1/0/0", run / "aligned/0/c/0/0/0")
    stored = json.loads(entry.read_text())
    files = {"aligned/0/c/0/0/0": (run / "aligned/0/c/0/0/0").stat().st_size}
    entry.write_text(json.dumps({**stored, "digest": "earlier", "files": files}))
    assert_repaired(run, whole, damaged=[entry.relative_to(run)])


def test_verify_says_what_it_covers(observed: str) -> None:
    refused = ssem_dask("verify", observed, "--cluster", "serial")
    assert refused.returncode == 2
    assert "not an alignment" in refused.stderr


def test_a_group_may_have_further_attributes(whole: Path, run: Path) -> None:
    """Viewers add display settings to an image; that is no damage, and they stay when something else is repaired."""
    path = run / "aligned" / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["ome"] = {**document["attributes"]["ome"]}
    document["attributes"]["display"] = {"gamma": 2}
    path.write_text(json.dumps(document))
    assert ssem_dask("verify", str(run), "--cluster", "serial").returncode == 0
    document["attributes"]["ome"] = None
    path.write_text(json.dumps(document))
    assert ssem_dask("verify", str(run), "--cluster", "serial").returncode == 1
    assert ssem_dask("rerun", str(run), "--cluster", "serial").returncode == 0
    restored = json.loads(path.read_text())["attributes"]
    assert restored["display"] == {"gamma": 2}
    assert restored["ome"] == json.loads((whole / "aligned" / "zarr.json").read_text())["attributes"]["ome"]
