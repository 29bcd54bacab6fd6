"""The configuration of a run: one strict, frozen tree, and the TOML file that it is read from.

A user may override any value and need not set one: `config.resolve` chooses every value that is None from pixel size
and section size, and reports the choice.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, create_model, field_validator

from ssem_dask.config.setting_places import with_absolute_places
from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.shown import without_secrets
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.types import ConfigBase, Place


class VolumeConfig(ConfigBase):
    """Sizes of the source volume, and its channel (detector, stain) that is registered."""

    pixel_size: float | None = Field(default=None, gt=0)
    """nm per mip-0 pixel; None: the value in the source's metadata."""
    section_thickness: float | None = Field(default=None, gt=0)
    """nm per section; None: the value in the source's metadata."""
    channel: Annotated[int, Field(ge=0)] | str | None = None
    """Number or name of the channel from which the alignment is computed; all channels are warped. None: the one that
    was chosen when the source was imported, or its only one."""


class SlabsConfig(ConfigBase):
    """Slabs: thick sections that were imaged one after the other, for example by ion milling.

    Each is solved for by itself, and no distortion is carried from one to the next.
    """

    borders: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """First section of each slab but the first, increasing, for example [20, 40]. Sections that have not come yet may
    be named."""
    file: Place | None = None
    """Path or URL of a text file with these numbers, one a line, instead of `borders`."""


class RunConfig(ConfigBase):
    """One run: source, output, where it runs, and one table per stage that has settings."""

    source: Place
    """URL of the source volume."""
    output: Place
    """URL of the run's Zarr group, conventionally `*.zarr`."""
    volume: VolumeConfig = VolumeConfig()
    slabs: SlabsConfig = SlabsConfig()
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("cluster")
    @classmethod
    def _known_stages(cls, cluster: ClusterConfig) -> ClusterConfig:
        return _check_stage_workers(cluster)

    def table(self, stage: str) -> ConfigBase:
        """Return the settings of a stage by its name."""
        table = getattr(self, _field_name(stage))
        assert isinstance(table, ConfigBase)
        return table


def _field_name(stage: str) -> str:
    """Return the name of a stage's field; pydantic's own attributes, such as `register`, cannot be fields."""
    return f"{stage}_" if hasattr(ConfigBase, stage) else stage


def _run_config_type() -> type[RunConfig]:
    """Return `RunConfig` with one field per stage that has settings."""
    tables: dict[str, Any] = {
        _field_name(stage.name): (stage.config_type, Field(default=stage.config_type(), alias=stage.name))
        for stage in STAGES
        if stage.config_type is not None
    }
    return create_model("RunConfig", __base__=RunConfig, __doc__=RunConfig.__doc__, **tables)


_RUN_CONFIG = _run_config_type()


def config_type() -> type[RunConfig]:
    """Return the type of a run's configuration, with the tables of all stages."""
    return _RUN_CONFIG


class ClusterFile(ConfigBase):
    """A TOML file that describes only a cluster, so that many runs can share it: `--cluster FILE.toml`."""

    cluster: ClusterConfig

    @field_validator("cluster")
    @classmethod
    def _known_stages(cls, cluster: ClusterConfig) -> ClusterConfig:
        return _check_stage_workers(cluster)


def _check_stage_workers(cluster: ClusterConfig) -> ClusterConfig:
    """Return the table; raise ValueError if `stage_workers` names a stage that does not exist."""
    names = [stage.name for stage in STAGES]
    unknown = [name for name in cluster.stage_workers if name not in names]
    if unknown:
        raise ValueError(f"stage_workers names no stage by {unknown[0]!r}; choose from {', '.join(names)}")
    return cluster


_Config = TypeVar("_Config", bound=ConfigBase)

_RENAMED_KEYS = {
    "compose.relax.plane": "max_nodes",
    "compose.relax.tile": "tile_nodes",
    "compose.relax.jumps_at": "known_jumps",
}
"""Former dotted keys, and the present names of their last parts."""


def load_config(path: str, **overrides: Any) -> RunConfig:
    """Read a TOML file; top-level `overrides` that are not None replace its values.

    Relative paths of the file begin in its folder, those of `overrides` in the current one.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    tree = with_absolute_places(_read_toml(path), model=_RUN_CONFIG, folder=_folder_of(path))
    tree.update({key: value for key, value in overrides.items() if value is not None})
    return make_config(tree, where=f"Config {path}")


def cluster_settings(cluster: str | None, *, workers: int | None, table: ClusterConfig) -> ClusterConfig:
    """Return the `[cluster]` table with the options `--cluster` and `--workers` applied.

    Args:
        cluster: a cluster's name or address, or a TOML file with nothing but a `[cluster]` table, which replaces
            `table`. None: as in `table`.
        workers: number of workers; None: as in the table.
        table: the `[cluster]` table of the run's configuration.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    if cluster is not None and cluster.endswith(".toml"):
        tree = with_absolute_places(_read_toml(cluster), model=ClusterFile, folder=_folder_of(cluster))
        table = _validated(ClusterFile, tree, where=f"Config {cluster}").cluster
    elif cluster is not None:
        table = table.model_copy(update={"name": cluster})
    return table if workers is None else table.model_copy(update={"workers": workers})


def make_config(tree: dict[str, Any], *, where: str = "Config") -> RunConfig:
    """Validate a tree of plain values. Relative paths begin in the current folder.

    Those of source and output stay as they are: a run records where they are relative to each other.

    Raises:
        ConfigError: a key is unknown or missing, or a value is out of range; the message names the key and the cure.
    """
    settings = with_absolute_places(tree, model=_RUN_CONFIG, folder=Path.cwd())
    given: dict[str, Any] = {key: tree[key] for key in ("source", "output") if key in tree}
    return _validated(_RUN_CONFIG, {**settings, **given}, where=where)


def _folder_of(path: str) -> Path:
    return Path(path).expanduser().absolute().parent


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"Config {path}: there is no such file; give the path of a TOML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config {path}: cannot be read ({error}); give the path of a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Config {path}: invalid TOML ({error}); fix that line.") from error


def _validated(model: type[_Config], tree: dict[str, Any], *, where: str) -> _Config:
    try:
        return model.model_validate(_without_secrets(tree))
    except ValidationError as error:
        raise ConfigError(_sentence(error, model=model, where=where)) from error


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(each) for key, each in value.items()}
    return without_secrets(value) if isinstance(value, str) else value


def _sentence(error: ValidationError, *, model: type[ConfigBase], where: str) -> str:
    """Return one sentence about the first error."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    table, key = ".".join(keys[:-1]), keys[-1]
    place = f"{where}: [{table}] {key}" if table else f"{where}: {key}"
    if first["type"] == "extra_forbidden":
        renamed = _RENAMED_KEYS.get(".".join(keys))
        if renamed is not None:
            return f"{place}: this key was renamed; write {renamed!r}."
        known = _known_keys(model, keys[:-1])
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        return f"{place}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{place}: required key is missing; add it."
    return f"{place} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}."


def _known_keys(model: type[ConfigBase], path: list[str]) -> list[str]:
    """Return the sorted keys of the table at `path`."""
    for part in path:
        field = next(f for name, f in model.model_fields.items() if part in (name, f.alias))
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, ConfigBase)):
            break
        model = field.annotation
    return sorted(f.alias or name for name, f in model.model_fields.items())
