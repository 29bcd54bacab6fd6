"""The configuration of a run: one strict, frozen tree, its TOML file, its digest, and what follows from the data.

A user overrides, never must: every `None` is chosen in `resolve` from pixel size and section size, and the choice is
told. The digest covers everything that decides the result and nothing that does not (where it runs).
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.stages.configs import (
    CoarseStageConfig,
    ComposeStageConfig,
    DownsampleStageConfig,
    MaskStageConfig,
    RegisterStageConfig,
    RenderStageConfig,
)
from ssem_dask.types import ConfigBase


class VolumeConfig(ConfigBase):
    """What the source does not say of itself."""

    pixel_size: float | None = Field(default=None, gt=0)
    """nm per mip-0 pixel; None: as the source says."""
    section_thickness: float | None = Field(default=None, gt=0)
    """nm per section; None: as the source says."""


class RunConfig(ConfigBase):
    """One run."""

    source: str
    """URL of the source volume."""
    output: str
    """URL of the run's Zarr group, by custom ending in .zarr."""
    volume: VolumeConfig = VolumeConfig()
    coarse: CoarseStageConfig = CoarseStageConfig()
    mask: MaskStageConfig = MaskStageConfig()
    register_: RegisterStageConfig = Field(default=RegisterStageConfig(), alias="register")
    compose: ComposeStageConfig = ComposeStageConfig()
    render: RenderStageConfig = RenderStageConfig()
    downsample: DownsampleStageConfig = DownsampleStageConfig()
    cluster: ClusterConfig = ClusterConfig()


class ClusterFile(ConfigBase):
    """A file that describes a cluster alone, to be shared by many runs: `--cluster FILE.toml`."""

    cluster: ClusterConfig


_Config = TypeVar("_Config", bound=ConfigBase)


def load_config(path: str, **overrides: Any) -> RunConfig:
    """Read a TOML file; top-level `overrides` that are not None replace its values.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, a value is out of range.
    """
    tree = _read_toml(path)
    tree.update({key: value for key, value in overrides.items() if value is not None})
    return make_config(tree, where=f"Config {path}")


def cluster_settings(cluster: str | None, *, workers: int | None, table: ClusterConfig) -> ClusterConfig:
    """What `--cluster` and `--workers` make of the `[cluster]` table.

    Args:
        cluster: a cluster's name or address, or a TOML file that holds a `[cluster]` table and nothing else; it then
            takes the place of `table`. None: as `table` says.
        workers: number of workers; None: as the table says.
        table: of the run's configuration.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, a value is out of range.
    """
    if cluster is not None and cluster.endswith(".toml"):
        tree = _read_toml(cluster)
        table = _validated(ClusterFile, tree, where=f"Config {cluster}").cluster
    elif cluster is not None:
        table = table.model_copy(update={"name": cluster})
    return table if workers is None else table.model_copy(update={"workers": workers})


def make_config(tree: dict[str, Any], *, where: str = "Config") -> RunConfig:
    """Validate a tree of plain values.

    Raises:
        ConfigError: names the key, what was given and what is wanted.
    """
    return _validated(RunConfig, tree, where=where)


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"Config {path}: there is no such file; give the path of a TOML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config {path}: cannot be read ({error}); give the path of a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Config {path}: not valid TOML ({error}); mend that line.") from error


def _validated(model: type[_Config], tree: dict[str, Any], *, where: str) -> _Config:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_sentence(error, model=model, where=where)) from error


def _sentence(error: ValidationError, *, model: type[ConfigBase], where: str) -> str:
    """One sentence for the first thing that is wrong."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    table, key = ".".join(keys[:-1]), keys[-1]
    place = f"{where}: [{table}] {key}" if table else f"{where}: {key}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        return f"{place}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{place}: is missing; add it."
    return f"{place} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}."


def _known_keys(model: type[ConfigBase], path: list[str]) -> list[str]:
    for part in path:
        field = next(f for name, f in model.model_fields.items() if part in (name, f.alias))
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, ConfigBase)):
            break
        model = field.annotation
    return sorted(f.alias or name for name, f in model.model_fields.items())
