"""Relative paths: in a TOML file they begin in its folder, elsewhere in the current one, for every path setting."""

from pathlib import Path
from typing import Any

import pytest

from ssem_dask.config.schema import cluster_settings, config_type, load_config, make_config
from ssem_dask.config.setting_places import place_mark, table_type
from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.types import ConfigBase
from tests.support.runs import to_toml

WORDS_OF_PATHS = ("URL", "Path or URL", "path of", "Folder", "Apptainer image")
"""Beginnings of the descriptions of settings that are places."""


def settings(model: type[ConfigBase] | None = None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """All settings by their keys."""
    found: dict[tuple[str, ...], Any] = {}
    for name, field in (model or config_type()).model_fields.items():
        key, inner = (*path, field.alias or name), table_type(field)
        found |= {key: field} if inner is None else settings(inner, key)
    return found


PLACES = {key: place_mark(field) for key, field in settings().items() if place_mark(field) is not None}


def tree(key: tuple[str, ...], value: str) -> dict[str, Any]:
    whole: dict[str, Any] = {"source": "/s.zarr", "output": "/o.zarr"}
    table = whole
    for part in key[:-1]:
        table = table.setdefault(part, {})
    table[key[-1]] = value
    return whole


def value_of(config: ConfigBase, key: tuple[str, ...]) -> Any:
    value: Any = config.model_dump(by_alias=True)
    for part in key:
        value = value[part]
    return value


def test_every_setting_that_is_a_place_is_known() -> None:
    described = {
        key for key, field in settings().items() if any(words in (field.description or "") for words in WORDS_OF_PATHS)
    }
    assert described - PLACES.keys() == {("cluster", "slurm", "scratch")}  # a folder on another machine
    assert len(PLACES) >= 12


@pytest.mark.parametrize("key", PLACES, ids=".".join)
@pytest.mark.parametrize("name", ["runs/a.toml", "a.toml"])
def test_a_path_in_a_file_begins_in_its_folder(
    key: tuple[str, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix = ".safetensors"
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for value, expected in {
        f"x{suffix}": str(file.parent / f"x{suffix}"),
        f"../up/x{suffix}": str(file.parent.parent / "up" / f"x{suffix}"),
        f"/abs/x{suffix}": f"/abs/x{suffix}",
        f"s3://bucket/x{suffix}": f"s3://bucket/x{suffix}",
        f"~/x{suffix}": str(Path.home() / f"x{suffix}"),
    }.items():
        file.write_text(to_toml(tree(key, value)))
        assert value_of(load_config(name), key) == expected
        if key not in (("source",), ("output",)):
            in_cwd = str(tmp_path / f"x{suffix}") if value == f"x{suffix}" else None
            assert in_cwd is None or value_of(make_config(tree(key, value)), key) == in_cwd


def test_names_of_encoders_are_no_paths(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(to_toml(tree(("register", "gauss_newton", "encoder"), "lcn")))
    assert value_of(load_config(str(file)), ("register", "gauss_newton", "encoder")) == "lcn"


def test_paths_of_the_command_line_begin_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.toml").write_text('[mask]\nuser = "m.zarr"\n')
    monkeypatch.chdir(tmp_path)
    config = load_config("runs/a.toml", source="s.zarr", output="o.zarr")
    assert (config.source, config.output) == ("s.zarr", "o.zarr")
    assert value_of(config, ("mask", "user")) == str(tmp_path / "runs" / "m.zarr")


def test_a_file_of_a_cluster_has_the_same_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    text = '[cluster]\ntls = "certs"\n[cluster.slurm]\nimage = "a.sif"\nlogs = "logs"\n'
    (tmp_path / "site" / "c.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    table = cluster_settings("site/c.toml", workers=None, table=ClusterConfig())
    folder = tmp_path / "site"
    assert (table.tls, table.slurm.image, table.slurm.logs) == tuple(
        str(folder / n) for n in ("certs", "a.sif", "logs")
    )


def test_a_relative_folder_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scratch = 'tmp': .*cannot be relative; begin it with / or a variable"):
        make_config(tree(("cluster", "slurm", "scratch"), "tmp"))
