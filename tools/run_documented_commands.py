"""Run the commands of documents that are marked by a line `<!-- run -->`: `python tools/run_documented_commands.py`.

The block of code after the mark is run line by line in a new folder, the blocks of one document in the same one. There
is a folder `sections/` of TIFF files, and the `volume.zarr` of a small synthetic volume. The first command that fails
ends it.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/tutorial.md", "docs/good-enough.md")
_BLOCK = re.compile(r"^<!-- run -->\n\n((?:    .*\n|\n(?=    ))+)", re.MULTILINE)
_MAKE = """
import tifffile
from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume
volume = Volume.open("made.zarr")
for z, image in enumerate(volume.read(Box((0, 0, 0), volume.shape_at(0), 0))):
    tifffile.imwrite(f"sections/s{z}.tif", image)
"""


def commands_of(text: str) -> list[str]:
    """Return the marked commands of a document, without comments and the path of the environment of `make env`."""
    lines = [line.strip() for block in _BLOCK.findall(text) for line in block.splitlines()]
    without_comments = [re.sub(r"\s+#.*", "", line) for line in lines]
    return [line.replace(".venv/bin/", "") for line in without_comments if line and not line.startswith("#")]


def main() -> None:
    """Run all marked commands; print each with its seconds."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name in DOCUMENTS:
        commands = commands_of((ROOT / name).read_text(encoding="utf-8"))
        if not commands:
            sys.exit(f"{name}: no command is marked by <!-- run -->.")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "sections").mkdir()
            simulate = "ssem-dask simulate phantom made.zarr --seed 2 --sections 12 --size 256"
            for command in (simulate, [sys.executable, "-c", _MAKE]):
                subprocess.run(command, shell=isinstance(command, str), cwd=folder, env=environment, check=True)
            if name != "README.md":  # its commands make it
                (Path(folder) / "made.zarr").rename(Path(folder) / "volume.zarr")
            for command in commands:
                begin = time.perf_counter()
                ended = subprocess.run(
                    command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
                )
                sys.stdout.write(f"{name}: {command}: {time.perf_counter() - begin:.1f} s\n")
                if ended.returncode:
                    sys.exit(f"{ended.stdout}\n{ended.stderr}\n{name}: exit code {ended.returncode}: {command}")


if __name__ == "__main__":
    main()
