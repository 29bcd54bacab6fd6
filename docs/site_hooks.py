"""Links of the site that lead out of this folder go to the repository, since the documents are read there as well."""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)")
_OTHER_KINDS = (".py", ".ipynb", ".txt")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Replace relative links to files that are not part of the site."""

    def replaced(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), match[2]))
        if target.startswith("docs/") and not target.endswith(_OTHER_KINDS):
            return match[0]
        return f"{match[1]}{config.repo_url}/blob/main/{target}"

    return _LINK.sub(replaced, markdown)
