"""The list of a run's arrays in docs/conventions.md, made from their table by `python -m ssem_dask.cli.arrays_page`."""

import sys
from pathlib import Path

from ssem_dask.stages.run_arrays import ARRAYS

_BEGIN = "<!-- arrays: made from ssem_dask/stages/run_arrays.py by `make docs` -->\n"
_END = "<!-- end of arrays -->\n"
_SOURCE_DTYPE = "the source's"


def arrays_markdown() -> str:
    """Return a Markdown table with one row per array."""
    rows = [
        f"| `{array.path}` | {', '.join(array.axis_names)} | {array.dtype or _SOURCE_DTYPE} | {array.frame} "
        f"| {array.unit} | {array.meaning} |\n"
        for array in ARRAYS
    ]
    return "| array | axes | dtype | frame | unit | meaning |\n|---|---|---|---|---|---|\n" + "".join(rows)


def page_with_arrays(page: str) -> str:
    """Return a page with the table between its two marks replaced by the present one."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{arrays_markdown()}\n{_END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(page_with_arrays(path.read_text(encoding="utf-8")), encoding="utf-8")
