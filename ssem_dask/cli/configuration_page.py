"""Generator of `docs/configuration.md` from the configuration records.

Run by `python -m ssem_dask.cli.configuration_page`.
"""

import sys
import textwrap
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from ssem_dask.config.schema import config_type
from ssem_dask.types import ConfigBase, Place

_WIDTH = 120
_HEAD = """# Configuration

Generated from the configuration records by `make docs`; do not edit by hand.

A TOML file describes a run. Only `source` and `output` are required; every other key has a default, which may follow
from the data. An unknown or misspelt key is an error.

A relative path in a TOML file, `source` and `output` included, begins in the folder of that file. `~` is your home.
URLs and absolute paths stay as they are. A path on the command line, or in Python, begins in the current folder.

```toml
source = "sections.zarr"
output = "aligned.zarr"

[register]
neighbours = 2
```
"""


def configuration_markdown() -> str:
    """Return the whole document."""
    return _HEAD + "".join(_tables("", config_type()))


def _tables(path: str, model: type[ConfigBase]) -> Iterator[str]:
    nested: list[tuple[str, type[ConfigBase]]] = []
    rows = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        if isinstance(field.annotation, type) and issubclass(field.annotation, ConfigBase):
            nested.append((f"{path}.{key}".lstrip("."), field.annotation))
            continue
        default = "*required*" if field.is_required() else f"`{_default(field)}`"
        rows.append(f"| `{key}` | {default} | {' '.join((field.description or '').split())} |\n")
    title = f"`[{path}]`" if path else "Top level"
    summary = textwrap.fill(" ".join((model.__doc__ or "").split()), _WIDTH, break_on_hyphens=False)
    yield f"\n## {title}\n\n{summary}\n"
    if rows:
        yield "\n| key | default | meaning |\n|---|---|---|\n" + "".join(rows)
    for inner_path, inner in nested:
        yield from _tables(inner_path, inner)


def _default(field: FieldInfo) -> str:
    """Return the default as text: an optional path is none, any other optional value is chosen from the data."""
    texts = (str | None, Place | None)
    return "none" if field.default is None and field.annotation in texts else _toml(field.default)


def _toml(value: object) -> str:
    if value is None:
        return "chosen from the data"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    sys.stdout.write(configuration_markdown())
