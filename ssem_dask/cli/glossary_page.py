"""The table of kinds of sections in docs/failures.md, made by `python -m ssem_dask.cli.glossary_page`."""

import sys
from pathlib import Path

from ssem_dask.report.glossary import glossary_markdown

_BEGIN = "<!-- kinds: made from ssem_dask/report/glossary.py by `make docs` -->\n"
_END = "<!-- end of kinds -->\n"


def page_with_glossary(page: str) -> str:
    """Return a page with the table between its two marks replaced by the present one."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{glossary_markdown()}\n{_END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(page_with_glossary(path.read_text(encoding="utf-8")), encoding="utf-8")
