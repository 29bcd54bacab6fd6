r"""Text as people may see it.

Names, messages and attributes of a store may hold characters that command a terminal: they could set its clipboard or
title, or hide a part of a line. `visible` shows them as escapes, like \x1b.
"""

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, *, keep: str = "") -> str:
    """Return text with control characters, C0 and C1, and marks that change the direction of writing as escapes.

    Args:
        text: anything.
        keep: control characters that stay, for example a newline.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return _NAMES.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
