"""Names from files and users stay inside their group, and nothing from a store is unpickled."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays, location
from ssem_dask.storage.formats.source import ReadOptions
from ssem_dask.storage.formats.zarr_array import ZarrSource
from ssem_dask.storage.ledger import Ledger
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.task import Outcome, TaskReport

OUTWARD = (
    "../other",
    "a/../../other",
    "..",
    "/etc/passwd",
    "//host/share",
    "~/other",
    "s3://bucket/other",
    "file:///etc/passwd",
    "..\\other",
    "\\\\host\\share",
    "a\0b",
)


@pytest.mark.parametrize("part", OUTWARD)
@pytest.mark.parametrize("url", ["/data/out.zarr", "s3://bucket/out.zarr", "memory://out.zarr"])
def test_outward_parts_are_refused(url: str, part: str) -> None:
    with pytest.raises(SourceError, match="leads out of it"):
        location.join_below(url, "fields", part)


@given(st.lists(st.text(alphabet="ab./\\~:", max_size=8), max_size=4))
def test_whatever_is_accepted_lies_below(parts: list[str]) -> None:
    try:
        found = location.join_below("/data/out.zarr", *parts)
    except SourceError:
        return
    assert os.path.normpath(found).split("/")[:3] == ["", "data", "out.zarr"]


@pytest.mark.parametrize("part", ["0", "fields/pairs", "register/z0-y0-x0", "a..b", "...", ".zattrs"])
def test_other_names_are_not(part: str) -> None:
    assert location.join_below("/data/out.zarr", part) == f"/data/out.zarr/{part}"


@pytest.mark.parametrize("key", [part for part in OUTWARD if "\0" not in part])
def test_no_key_of_a_task_leads_out_of_the_ledger(key: str, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "out.zarr" / "ledger"))
    with pytest.raises(SourceError, match="leads out of it"):
        ledger.write(TaskReport(key=key, digest="d", outcome=Outcome.OK))
    with pytest.raises(SourceError, match="leads out of it"):
        ledger.read(key)
    with pytest.raises(SourceError, match="leads out of it"):
        ledger.delete(key)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("path", ["../secret", "/etc", "s3://bucket/secret"])
def test_no_level_of_an_image_lies_outside_of_it(path: str, tmp_path: Path) -> None:
    info = VolumeInfo(shape=(2, 32, 32), dtype=np.dtype(np.uint8), pixel_size=4.0, section_thickness=40.0)
    create_volume(str(tmp_path / "image.zarr"), info=info, chunk=(1, 32, 32), shard=(1, 32, 32), mips=1)
    secret = zarr.create_array(str(tmp_path / "secret"), shape=(2, 32, 32), dtype="uint8")
    secret[:] = 1
    metadata = tmp_path / "image.zarr" / "zarr.json"
    tree = json.loads(metadata.read_text())
    tree["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = path
    metadata.write_text(json.dumps(tree))
    for opened in (Volume.open, lambda url: ZarrSource(url, ReadOptions())):
        with pytest.raises(SourceError, match="leads out of it"):
            opened(str(tmp_path / "image.zarr"))


def test_what_a_link_leads_to_is_never_deleted(tmp_path: Path) -> None:
    """A link in the place of an array goes when the array is removed; foreign files behind it, or below it, stay."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("irreplaceable")
    group = tmp_path / "out.zarr" / "aligned"
    (group / "1").mkdir(parents=True)
    for link in (group / "0", group / "1" / "c"):
        link.symlink_to(foreign)
    for name in ("0", "1"):
        location.delete(str(group / name), recursive=True)
    assert list(group.iterdir()) == []
    assert (foreign / "thesis.tex").read_text() == "irreplaceable"


class Planted:
    """Unpickling it makes a folder: what an attacker would run."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    ("dtype", "filters", "compressor"),
    [
        ("|O", [{"id": "pickle", "protocol": 5}], None),
        ("|u1", [{"id": "pickle", "protocol": 5}], None),
        ("|u1", None, {"id": "pickle", "protocol": 5}),
        ("|O", [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}], None),
        ("|O", [{"id": "vlen-utf8"}], {"id": "pickle", "protocol": 5}),
        ("|O", [{"id": "vlen-utf8"}], None),
    ],
)
def test_nothing_is_unpickled(dtype: str, filters: Any, compressor: Any, tmp_path: Path) -> None:
    folder = tmp_path / "planted.zarr"
    folder.mkdir()
    shape = {"shape": [2, 32, 32], "chunks": [2, 32, 32], "order": "C", "fill_value": 0, "zarr_format": 2}
    (folder / ".zarray").write_text(json.dumps({**shape, "dtype": dtype, "filters": filters, "compressor": compressor}))
    (folder / "0.0.0").write_bytes(pickle.dumps(Planted(tmp_path / "owned")))
    with pytest.raises(SourceError, match=r"never read|metadata cannot be read"):
        _ = arrays.open_array(str(folder), mode="r")[:]
    assert not (tmp_path / "owned").exists()


def test_a_planted_pickle_would_have_run(tmp_path: Path) -> None:
    """The test above would see it."""
    pickle.loads(pickle.dumps(Planted(tmp_path / "owned")))
    assert (tmp_path / "owned").exists()


def test_no_module_of_the_package_unpickles() -> None:
    words = ("import pickle", "pickle.load", "torch.load(", "allow_pickle", "joblib", "yaml.load(", "marshal")
    root = Path(location.__file__).parents[1]
    sources = {path: path.read_text().replace("safetensors.torch.load(", "") for path in root.rglob("*.py")}
    assert [f"{path}: {word}" for path, text in sources.items() for word in words if word in text] == []
