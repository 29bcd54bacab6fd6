"""Write the figure of layers in docs/architecture.md from the import contract in pyproject.toml: `make docs`."""

import tomllib
from pathlib import Path

DOCUMENT = Path("docs/architecture.md")
BEGIN, END = "<!-- layers: from pyproject.toml, by `make docs` -->\n", "<!-- end of layers -->"
CONTENTS = {
    "cli": "commands (typer, rich)",
    "napari_plugin": "layers and a panel for napari",
    "api": "what `import ssem_dask` offers: paths and arrays in, results that notebooks show",
    "report": "report, viewer, pictures",
    "evaluation": "phantom, simulation, metrics",
    "volumes": "import, export, warp, points",
    "driver": "plan, run, align: the loop over stages; rerun, invalidation, cost",
    "config": "the configuration tree, its TOML, its digests, choices from the data",
    "stages": "tasks: read → core → write",
    "runtime": "where tasks run",
    "registration": "images → pair fields",
    "composition": "pair fields → section fields",
    "diagnosis": "measurements of sections → names",
    "fixes": "what a person knows: fixes.toml",
    "storage": "Zarr, fsspec, ledger, formats",
    "image": "pooling, tissue, similarity",
    "field": "grids, sampling, warp, compose, inverse, affine",
    "task": "one unit of work, how it ended",
    "section_record": "what a section is, or its fault",
    "geometry": "boxes, chunks, windows, mips",
    "units": "numbers for people",
    "shown": "text without secrets and control characters",
    "extras": "optional dependencies, and a message if one is missing",
    "errors": "errors that users can fix",
    "types": "shared types",
}
"""The contents of each package, by its name below ssem_dask."""


def layer_figure() -> str:
    """Return the layers, highest first, as an indented block with the contents of each package beside its name."""
    contracts = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    layers = [[name.strip().removeprefix("ssem_dask.") for name in row.split("|")] for row in rows]
    width = max(len(" | ".join(names)) for names in layers)
    return "".join(
        f"    {' | '.join(names):{width}}  {' | '.join(CONTENTS[name] for name in names)}\n" for names in layers
    )


def with_figure(document: str) -> str:
    """Return the text of a document with the figure between its marks."""
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{layer_figure()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_figure(DOCUMENT.read_text()))
