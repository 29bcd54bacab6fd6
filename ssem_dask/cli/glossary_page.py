"""Tables of kinds of sections in docs/failures.md and of words in docs/glossary.md, made by `make docs`."""

import sys
import textwrap
from pathlib import Path

from ssem_dask.report.glossary import glossary_markdown
from ssem_dask.report.words import WORDS

_WIDTH = 120


def words_markdown() -> str:
    """Return the words of a report with their meanings, one paragraph each."""
    return "\n".join(textwrap.fill(f"**{word}**: {meaning}", width=_WIDTH) + "\n" for word, meaning in WORDS.items())


_PARTS = {
    "<!-- kinds: made from ssem_dask/report/glossary.py by `make docs` -->\n": (
        "<!-- end of kinds -->\n",
        glossary_markdown,
    ),
    "<!-- words: made from ssem_dask/report/words.py by `make docs` -->\n": ("<!-- end of words -->\n", words_markdown),
}
"""Content between two marks of a page."""


def page_with_glossary(page: str) -> str:
    """Return a page with what is between its marks replaced by the present text."""
    for begin, (end, text) in _PARTS.items():
        if begin in page:
            before, _, rest = page.partition(begin)
            _, _, after = rest.partition(end)
            page = f"{before}{begin}\n{text()}\n{end}{after}"
    return page


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(page_with_glossary(path.read_text(encoding="utf-8")), encoding="utf-8")
