"""The core works without what the extras bring, and one sentence says what to install."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ssem_dask.errors import MissingExtraError
from ssem_dask.extras import require_extra
from tests.support.cli import Ended, assert_one_sentence

pytestmark = pytest.mark.slow

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
OPTIONAL = [
    "PIL",
    "bokeh",
    "dask_jobqueue",
    "gcsfs",
    "h5py",
    "imagecodecs",
    "matplotlib",
    "neuroglancer",
    "plyfile",
    "prometheus_client",
    "s3fs",
    "tensorstore",
    "tifffile",
]
"""Packages that only the extras bring: a dependency of the core may bring the others."""
WITHOUT_EXTRAS = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))  # an import of any of them fails
sys.argv[0] = "ssem-dask"
"""


def without_extras(code: str, *words: str) -> Ended:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + code, *words], capture_output=True, text=True, check=False
    )


def test_the_sentence_names_package_and_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra("formats", purpose="a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"a\.h5: needs h5py, .* `pip install 'ssem_dask\[formats\]'`"):
        require_extra("formats", purpose="a.h5")


def test_the_core_imports_without_extras() -> None:
    code = """
import ssem_dask
for name in ssem_dask.__all__:
    getattr(ssem_dask, name)
import ssem_dask.driver.rerun, ssem_dask.evaluation.protocol, ssem_dask.evaluation.simulate
import ssem_dask.runtime.clusters.certificates
"""
    ended = without_extras(code)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["report", "run.zarr"], "report"),
        (["demo", "--dir", "{}/demo"], "report"),
        (["train", "volume.zarr", "{}/weights.safetensors"], "report"),
        (["view", "run.zarr"], "view"),
        (["fix", "run.zarr"], "view"),
        (["compare", "a.zarr", "b.zarr", "--file", "{}/c.html"], "report"),
        (["import", "{}/a.h5", "{}/out.zarr"], "formats"),
        (["import", "{}/stack.tif", "{}/out.zarr"], "formats"),
        (["import", "{}/images", "{}/out.zarr"], "formats"),
        (["import", "{}/n5", "{}/out.zarr"], "tensorstore"),
        (["import", "s3://bucket/volume.zarr", "{}/out.zarr"], "s3"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]).replace("{}/", ""),
)
def test_a_command_says_which_extra_it_needs(words: list[str], extra: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "s1.png").touch()
    (tmp_path / "stack.tif").touch()
    (tmp_path / "n5").mkdir()
    (tmp_path / "n5" / "attributes.json").write_text(json.dumps({"dimensions": [9, 9, 9]}))
    ended = without_extras(
        "from ssem_dask.cli.main import main; main()", *(word.replace("{}", str(tmp_path)) for word in words)
    )
    assert_one_sentence(ended, naming=f"pip install 'ssem_dask[{extra}]'")
    assert not (tmp_path / "out.zarr").exists()


def test_all_is_every_extra_of_the_product() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    others = ("all", "dev", "napari", "test")  # napari is for a desktop
    products = {name for name in extras if name not in others and not name.startswith("bench")}
    assert extras["all"] == [f"ssem_dask[{','.join(sorted(products))}]"]
