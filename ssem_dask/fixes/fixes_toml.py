"""Read and write `fixes.toml`, so that a person can read and edit it as well.

A change of one table leaves the text around it as it was, comments included.
"""

import difflib
import json
import re
import tomllib
from typing import Any

from pydantic import ValidationError

from ssem_dask.errors import ConfigError
from ssem_dask.fixes.fix_records import Fix, Fixes, JumpFix, PairFix, SectionFix

NAMES: dict[type[Fix], str] = {SectionFix: "section", PairFix: "pair", JumpFix: "jump"}
"""Name of each kind of table."""
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*(section|pair|jump)[ \t]*\]\][ \t]*(#.*)?$")
_WIDTH = 100
"""Characters up to which a list of points is written in one line."""
_TYPES = {"section": SectionFix, "pair": PairFix, "jump": JumpFix}


def parse_fixes(text: str, *, where: str = "fixes") -> Fixes:
    """Read the text of a file; the volume is not asked (`fix_checks.check_fixes`).

    Args:
        text: TOML.
        where: name of the file, for messages.

    Raises:
        ConfigError: it is no TOML, a key is unknown or missing, or a value is wrong.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Fixes {where}: invalid TOML ({error}); fix that line.") from error
    for name in _TYPES:
        if name in tree and not (isinstance(tree[name], list) and all(isinstance(t, dict) for t in tree[name])):
            raise ConfigError(f"Fixes {where}: {name} must be tables; write [[{name}]] above the keys of each.")
    try:
        return Fixes.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_sentence(error, tree, where=where)) from error


def fix_text(fix: Fix) -> str:
    """Return one table as TOML, with its header and a line break at the end."""
    lines = [f"[[{NAMES[type(fix)]}]]"]
    for key, value in fix.given().items():
        lines.append(f"{key} = {_value(value)}")
    return "\n".join(lines) + "\n"


def fixes_text(fixes: Fixes) -> str:
    """Return all tables as TOML, those of one section after each other."""
    head = [] if fixes.unit == "px" else [f'unit = "{fixes.unit}"\n']

    def place(item: tuple[str, int, Fix]) -> tuple[int, int]:
        _, number, fix = item
        z = fix.range.start if isinstance(fix, SectionFix) else fix.moving if isinstance(fix, PairFix) else fix.z
        return z, number

    return "\n".join([*head, *(fix_text(fix) for _, _, fix in sorted(fixes.tables(), key=place))])


def with_fix(text: str, fix: Fix) -> str:
    """Return the text of a file with a table added at its end; the rest stays as it was.

    Raises:
        ConfigError: the text is no file of fixes.
    """
    parse_fixes(text)
    return f"{text.rstrip()}\n\n{fix_text(fix)}" if text.strip() else fix_text(fix)


def without_fix(text: str, name: str, number: int) -> str:
    """Return the text of a file without one table, and without the comments inside it.

    Args:
        text: of the file.
        name: `section`, `pair` or `jump`.
        number: of the table among those of its name, counted from 1.

    Raises:
        ConfigError: the text is no file of fixes, or has no such table.
    """
    return _replaced(text, name, number, None)


def with_changed_fix(text: str, number: int, fix: Fix) -> str:
    """Return the text of a file with one table replaced by another of its kind; arguments as in `without_fix`."""
    return _replaced(text, NAMES[type(fix)], number, fix)


def _replaced(text: str, name: str, number: int, fix: Fix | None) -> str:
    fixes = parse_fixes(text)
    tables = getattr(fixes, name, ()) if name in _TYPES else ()
    if not 1 <= number <= len(tables):
        raise ConfigError(f"fixes: there is no table [[{name}]] number {number}; there are {len(tables)}.")
    changed = tuple(
        each if i != number else fix for i, each in enumerate(tables, start=1) if i != number or fix is not None
    )
    wanted = fixes.model_copy(update={name: changed})
    lines = text.splitlines(keepends=True)
    headers = [(i, match[1]) for i, line in enumerate(lines) if (match := _HEADER.match(line))]
    starts = [i for i, header in headers if header == name]
    if len(starts) == len(tables):
        first = starts[number - 1]
        last = next((i for i, _ in headers if i > first), len(lines))
        # Comments right above the next table belong to that table.
        while last > first + 1 and (lines[last - 1].lstrip().startswith("#") or not lines[last - 1].strip()):
            last -= 1
        middle = "" if fix is None else fix_text(fix)
        edited = "".join([*lines[:first], middle, *lines[last:]])
        edited = re.sub(r"\n{3,}", "\n\n", edited).lstrip("\n")
        if _same(edited, wanted):
            return edited
    return fixes_text(wanted)  # tables in another notation, such as section = [{…}]


def _same(text: str, wanted: Fixes) -> bool:
    try:
        return parse_fixes(text) == wanted
    except ConfigError:
        return False


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON escapes all that TOML wants escaped, but for the character DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        # A hundredth of a pixel is finer than anybody points; an integer is easier to read.
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, list):
        flat = f"[{', '.join(map(_value, value))}]"
        if len(flat) <= _WIDTH or not any(isinstance(each, list) for each in value):
            return flat
        return "[\n" + "".join(f"    {_value(each)},\n" for each in value) + "]"
    return repr(value)


def _sentence(error: ValidationError, tree: dict[str, Any], *, where: str) -> str:
    """Return one sentence about the first error."""
    first = error.errors()[0]
    location = list(first["loc"])
    model: type[Any] = Fixes
    place = f"Fixes {where}"
    if len(location) >= 2 and isinstance(location[1], int):
        name, index = str(location[0]), int(location[1])
        model = _TYPES[name]
        place = f"{place}: [[{name}]] number {index + 1}{_about(tree[name][index])}"
        location = location[2:]
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if not message.startswith(("[", '"')) else message
    key = str(location[0]) if location else ""
    if first["type"] == "extra_forbidden":
        known = sorted(field.alias or each for each, field in model.model_fields.items())
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        return f"{place}: unknown key {key!r}; {hint}"
    if first["type"] == "missing":
        return f"{place}: key {key!r} is missing; add it."
    return f"{place}: {f'{key}: ' if key else ''}{message}."


def _about(table: dict[str, Any]) -> str:
    """Return what a table says of its sections, to find it in the file."""
    said = [f"{key} = {table[key]!r}" for key in ("z", "sections", "fixed", "moving") if key in table]
    return f" ({', '.join(said)})" if said else ""
