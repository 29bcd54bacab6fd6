"""The viewer's server over HTTP: ranges, links, and data that are on an object store; `test_view_access` attacks it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import requests

import ssem_dask
from ssem_dask.geometry.box import Box
from ssem_dask.report.hotspots import find_hotspots
from ssem_dask.report.page import make_report
from ssem_dask.report.report_data import read_report_data
from ssem_dask.report.viewer.http import Site
from ssem_dask.report.viewer.served_files import StoredFiles, VirtualFiles
from ssem_dask.report.viewer.site import make_site
from ssem_dask.stages.source_sections import read_aligned
from ssem_dask.storage.fields import open_coarse
from ssem_dask.storage.location import join, write_bytes
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.volume import Volume
from tests.support.cli import assert_one_sentence
from tests.support.cli import ssem_dask as command
from tests.support.runs import SEPARATE
from tests.support.serving import Serving

CONTENT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def run(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("view") / "out.zarr")
    assert ssem_dask.align(observed, output, cluster="serial", **SEPARATE).state == "complete"
    return output


@pytest.fixture(scope="module", params=["disk", "memory"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of one file of 1024 bytes, on disk and behind fsspec as on an object store."""
    place = "memory://view-test" if request.param == "memory" else str(tmp_path_factory.mktemp("files"))
    write_bytes(join(place, "a", "b"), CONTENT)
    site = Site(
        "mark",
        {"thing": StoredFiles(place, root=place)},
        lambda data, viewpoint: {"data": data, "viewpoint": str(viewpoint)},
    )
    with Serving(site) as base:
        yield f"{base}/data/{site.key}/thing"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-5000", 1000, 1024),
        ("bytes=1000-", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-9999", 0, 1024),
    ],
)
def test_ranges(asked: str, start: int, stop: int, files: str) -> None:
    reply = requests.get(f"{files}/a/b", headers={"Range": asked}, timeout=20)
    assert reply.status_code == 206
    assert reply.content == CONTENT[start:stop]
    assert reply.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1024"


def test_whole_files_and_heads(files: str) -> None:
    whole = requests.get(f"{files}/a/b", timeout=20)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    head = requests.head(f"{files}/a/b", timeout=20)
    assert (head.headers["Content-Length"], head.headers["Accept-Ranges"], head.content) == ("1024", "bytes", b"")


def test_what_is_not_there(files: str) -> None:
    for path in ("a/c", "a", "b/a/b", "a//b", "a/%2e%2e/a/b", "..%2f..%2fetc%2fpasswd", "a/%00b", "a/" + 300 * "n"):
        assert requests.get(f"{files}/{path}", timeout=20).status_code in (404, 502), path
    assert requests.get(f"{files}/a/b", headers={"Range": "bytes=1024-"}, timeout=20).status_code == 416
    assert requests.get(files.replace("/thing", "/other") + "/a/b", timeout=20).status_code == 404


def test_links_lead_to_places_of_this_run_only(files: str) -> None:
    base, _, rest = files.partition("/data/")
    key = rest.partition("/")[0]
    place = f"{base}/at?key={key}&run=mark&z=3&y=10.5&x=20&side=64"
    reply = requests.get(place, timeout=20, allow_redirects=False)
    assert reply.status_code == 200
    assert f"/v/{key}-3-10.5-20.0-64/" in reply.text
    client = requests.get(f"{base}/v/{key}-3-10.5-20.0-64/", timeout=20)
    assert "<title>neuroglancer" in client.text
    assert requests.get(f"{base}/at?key={key}&run=mark&z=3", timeout=20).status_code == 400
    other = requests.get(f"{base}/at?key={key}&run=another&z=3&y=1&x=2&side=3", timeout=20)
    assert other.status_code == 404
    assert "another run" in other.text
    with requests.get(f"{base}/events/{key}-3-10.5-20.0-64?c=1&gs=", timeout=20, stream=True) as events:
        lines = (line.decode() for line in events.iter_lines())
        line = next(line for line in lines if line.startswith("data: "))
    printed = json.loads(line.removeprefix("data: "))
    assert printed["s"] == {"data": f"{base}/data/{key}", "viewpoint": "Viewpoint(z=3, y=10.5, x=20.0, side=64.0)"}


def test_coarse_chunks_are_what_the_stages_see(run: str) -> None:
    site, missing = make_site(run, labels=None, worst=3)
    assert missing == []
    assert list(site.files) == ["source", "coarse", "aligned", "confidence", "uncertainty"]
    coarse = site.files["coarse"]
    assert isinstance(coarse, VirtualFiles)
    metadata = json.loads(coarse.read("0/zarr.json", start=0, stop=1 << 20))
    assert metadata["shape"] == [10, 160, 160]
    chunk = np.frombuffer(coarse.read("0/c/4/0/0", start=0, stop=1 << 20), dtype=metadata["data_type"]).reshape(
        256, 256
    )
    volume = Volume.open(read_run(run).source)
    affine = np.asarray(open_coarse(join(run, "fields", "coarse"))[4])
    image, mask = read_aligned(volume, z=4, box=Box((4, 0, 0), (5, 160, 160)), affine=affine)
    np.testing.assert_allclose(chunk[:160, :160], image.clamp(0, 255).numpy(), atol=0.51)
    assert mask.any()
    for wrong in ("0/c/10/0/0", "0/c/0/1/0", "9/c/0/0/0", "0/c/0/0", "zarr"):
        with pytest.raises(FileNotFoundError):
            coarse.size(wrong)


def test_a_run_on_an_object_store(run: str) -> None:
    """Through fsspec alone, as s3 and gs are: the same bytes are served, and the same report is made."""
    fsspec.filesystem("memory").put(run, "/store/out.zarr", recursive=True)
    there = "memory://store/out.zarr"
    site, missing = make_site(there, labels=None, worst=3)
    assert missing == []
    here, _ = make_site(run, labels=None, worst=3)
    shard = "0/c/0/0/0"
    size = here.files["aligned"].size(shard)
    assert site.files["aligned"].size(shard) == size
    for start, stop in ((0, 100), (size - 100, size)):
        assert site.files["aligned"].read(shard, start=start, stop=stop) == here.files["aligned"].read(
            shard, start=start, stop=stop
        )
    assert [p.hotspot for p in make_report(there, worst=3, viewer=None).hotspots] == [
        p.hotspot for p in make_report(run, worst=3, viewer=None).hotspots
    ]


def test_the_state_names_layers_and_places(run: str) -> None:
    site, _ = make_site(run, labels=None, worst=3)
    state = site.state("http://h/data/m", None)
    assert list(state["dimensions"]) == ["x", "y", "z"]
    assert [layer["name"] for layer in state["layers"] if layer.get("visible", True)] == ["aligned", "worst places"]
    marked = [hotspot for hotspot in find_hotspots(read_report_data(run), count=3) if hotspot.is_outlier]
    assert marked
    assert len(state["layers"][-1]["annotations"]) == len(marked)


def test_mistakes_are_one_sentence(run: str, observed: str, tmp_path: Path) -> None:
    assert_one_sentence(command("view", str(tmp_path / "none.zarr")), naming="none.zarr")
    assert_one_sentence(command("view", run, "--labels", join(run, "fields", "section")), naming="fields/section")
    with Serving(Site("m", {}, lambda data, viewpoint: {})) as base:
        port = base.rpartition(":")[2]
        assert_one_sentence(command("view", run, "--port", port, "--print-url"), naming=f"port {port}")


def test_without_neuroglancer_it_says_what_to_install(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("neuroglancer", "ssem_dask.report.viewer."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    assert_one_sentence(command("view", run), naming="ssem_dask[view]")
