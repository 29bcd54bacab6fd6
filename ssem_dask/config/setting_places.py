"""Paths in a configuration: which settings are paths, and where relative ones begin.

One rule for all of them: a relative path begins in the folder of the TOML file that has it, so the file means the same
from any folder. Paths that a command or a program gives begin in the current folder. Both become absolute before they
are used or stored, so that a run means the same when it is continued from another folder.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from ssem_dask.types import ConfigBase, PlaceMark


def with_absolute_places(tree: Mapping[str, Any], *, model: type[ConfigBase], folder: Path) -> dict[str, Any]:
    """Return a configuration tree in which all relative paths are absolute.

    Args:
        tree: plain values; keys that the model does not have stay, for the message about them.
        model: what the tree is to become.
        folder: where relative paths begin.
    """
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return {key: _resolved(value, fields.get(key), folder) for key, value in tree.items()}


def _resolved(value: Any, field: FieldInfo | None, folder: Path) -> Any:
    if field is None:
        return value
    inner = table_type(field)
    if inner is not None and isinstance(value, Mapping):
        return with_absolute_places(value, model=inner, folder=folder)
    mark = place_mark(field)
    return _absolute(value, folder) if mark is not None and _is_path(value, mark) else value


def table_type(field: FieldInfo) -> type[ConfigBase] | None:
    """Return the type of the table that a setting is; None if it is no table."""
    types = (field.annotation, *get_args(field.annotation))
    return next((each for each in types if isinstance(each, type) and issubclass(each, ConfigBase)), None)


def place_mark(field: FieldInfo) -> PlaceMark | None:
    """Return the mark of a setting that is a path or URL; None for others."""
    optional = (part for each in get_args(field.annotation) for part in get_args(each))
    return next((part for part in (*field.metadata, *optional) if isinstance(part, PlaceMark)), None)


def _is_path(value: Any, mark: PlaceMark) -> bool:
    if not isinstance(value, str) or not value or not value.endswith(mark.suffix):
        return False
    return "://" not in value and "::" not in value


def _absolute(path: str, folder: Path) -> str:
    if path.startswith("~"):
        return str(Path(path).expanduser())
    return path if path.startswith("/") else os.path.normpath(folder / path)
