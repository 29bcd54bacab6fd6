"""Writes a generated text into a page, between its markers."""

from pathlib import Path


def write_between(page: Path, *, name: str, text: str) -> None:
    """Replace the text between `<!-- NAME -->` and `<!-- end of NAME -->` on their own lines.

    Raises:
        ValueError: the page lacks the markers.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    whole = page.read_text(encoding="utf-8")
    if begin not in whole or end not in whole:
        raise ValueError(
            f"{page}: has no lines '{begin.strip()}' and '{end.strip()}'; put them where the text belongs."
        )
    head, _, rest = whole.partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}{text}{end}{tail}", encoding="utf-8")
