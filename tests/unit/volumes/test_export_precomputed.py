"""`export --precomputed`: TensorStore reads our values, at every level; what it does not hold is refused."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ssem_dask.cli.app import app
from ssem_dask.errors import OutputError, SourceError
from ssem_dask.storage.exports import precomputed, target
from ssem_dask.storage.volume import Volume
from ssem_dask.volumes.exporting import export_volume
from ssem_dask.volumes.importing import import_volume
from tests.support.exports import MIPS, make_volume, open_scale, values_of

pytestmark = pytest.mark.slow

HAS_TENSORSTORE = importlib.util.find_spec("tensorstore") is not None
needs_tensorstore = pytest.mark.skipif(not HAS_TENSORSTORE, reason="needs tensorstore")


@pytest.fixture(autouse=True)
def many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units so small that a small volume has many."""
    for module in (target, precomputed):
        monkeypatch.setattr(module, "UNIT_BYTES", 1 << 15)


@needs_tensorstore
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_precomputed(tmp_path: Path, dtype: str, sharded: bool) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr"), dtype=dtype), tmp_path / "out"
    done = export_volume(
        source, f"precomputed://{out}", form="precomputed", chunk=(4, 16, 32), sharded=sharded, cluster="serial"
    )
    assert done.state == "complete"
    info = json.loads((out / "info").read_text())
    assert info["type"] == ("image" if dtype in ("uint8", "uint16") else "segmentation")
    assert [scale["resolution"] for scale in info["scales"]] == [[4.6 * 2**m, 4.6 * 2**m, 50.0] for m in range(MIPS)]
    for mip, scale in enumerate(info["scales"]):
        wanted = values_of(source, mip)
        opened = open_scale(str(out), mip)
        assert tuple(opened.domain.inclusive_min) == (0, 0, 0, 0)
        np.testing.assert_array_equal(opened[..., 0].read().result().T, wanted)
        assert scale["size"] == list(wanted.shape[::-1])
        assert scale["chunk_sizes"] == [[32, 16, 4]]
        assert ("sharding" in scale) == sharded
    if not sharded:  # some readers take a chunk that is not there for an error
        assert len(list((out / info["scales"][0]["key"]).iterdir())) == 4 * 10 * 5
    imported = import_volume(str(out), str(tmp_path / "back.zarr"), labels=dtype not in ("uint8", "uint16"))
    assert imported == Volume.open(source).info
    np.testing.assert_array_equal(values_of(str(tmp_path / "back.zarr"), 0), values_of(source, 0))


@needs_tensorstore
@pytest.mark.parametrize("url", ["memory://out", "http://localhost/out"])
def test_places_that_precomputed_is_not_written_to(tmp_path: Path, url: str) -> None:
    source = make_volume(str(tmp_path / "v.zarr"))
    with pytest.raises(OutputError, match=r"(choose|use) one of these"):
        export_volume(source, url, form="precomputed", cluster="serial")


@needs_tensorstore
def test_types_that_precomputed_does_not_hold(tmp_path: Path) -> None:
    source = make_volume(str(tmp_path / "v.zarr"), dtype="int64")
    with pytest.raises(SourceError, match="holds no labels of type int64"):
        export_volume(source, str(tmp_path / "out"), form="precomputed", cluster="serial")


def test_without_tensorstore_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    source = make_volume(str(tmp_path / "v.zarr"))
    done = CliRunner().invoke(app, ["export", source, str(tmp_path / "out"), "--precomputed", "--cluster", "serial"])
    assert done.exit_code == 2
    assert "install it with `pip install 'ssem_dask[tensorstore]'`" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
