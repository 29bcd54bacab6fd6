"""Order of the files of a series by their names, and what is noticeable about it.

The order is that of the numbers in the names (s2 before s10), whatever the case of letters. Whether a dot is a decimal
point and a dash a minus sign follows from all names together: in `s-1, s-2` the dash separates, in `z-1, z1` it does
not.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

from ssem_dask.units import plural, shortened

_Key: TypeAlias = tuple[tuple[int, Fraction, str], ...]
_SHOWN = 5
_MOST_BLOCKS = 3
"""Numbers that may vary in names, of which the last counts sections."""
_NUMBER = re.compile(r"(?<![\d.])(\d+\.\d+)(?![\d.]*\d)|(\d+)")
_HEXADECIMAL = frozenset("0123456789abcdef")
_NUMBER_PLACE = "#"
"""Mark of a number among the texts before another number."""
_STEM = re.compile(r"\.[a-z]+\d?(?:\.[a-z]+)?$")


def natural_order(names: Sequence[str]) -> list[str]:
    """Return names in the order of the numbers in them, which may be hexadecimal."""
    if _are_hexadecimal(names):
        return sorted(names, key=str.casefold)
    decimals = _uses_decimals(names)
    signed = _signed_places(names, decimals=decimals)
    return sorted(names, key=lambda name: (_key(name, decimals=decimals, signed=signed), name))


def natural_key(name: str) -> _Key:
    """Return a sort key that puts s2 before s10, without regard to dots and dashes."""
    return _key(name, decimals=False, signed=frozenset())


def order_notes(names: Sequence[str]) -> list[str]:
    """Return remarks about files in their order: first and last, other kinds of names, gaps, numbers that repeat."""
    if not names:
        return []
    short = [name.replace("\\", "/").rpartition("/")[2] for name in names]
    if len(set(short)) < len(short):
        short = list(names)
    notes = [f"order of sections: {plural(len(short), 'file')}, from {short[0]} (section 0) to {short[-1]}"]
    decimals = _uses_decimals(short)
    signed = _signed_places(short, decimals=decimals)
    keys = [_key(name, decimals=decimals, signed=signed) for name in short]
    forms = [tuple(text if kind else "#" for kind, _, text in key) for key in keys]
    counts = Counter(forms)
    common, number_of_common = counts.most_common(1)[0]
    if len(counts) == len(short) > 1:
        notes.append("names have no numbers in common, so their order is that of their letters")
    elif len(counts) > 1:
        others = [name for name, form in zip(short, forms, strict=True) if form != common]
        example = short[forms.index(common)]
        notes.append(
            f"names differ: {plural(number_of_common, 'name')} like {example}, but also "
            f"{shortened(others, limit=_SHOWN)}; check that each is a section"
        )
    alike = [(name, key) for name, key, form in zip(short, keys, forms, strict=True) if form == common]
    return notes + _number_notes(alike)


def _number_notes(alike: Sequence[tuple[str, _Key]]) -> list[str]:
    """Return remarks about the numbers in names of one form."""
    numbers = [tuple(number for kind, number, _ in key if not kind) for _, key in alike]
    notes = []
    same = defaultdict(list)
    for (name, _), found in zip(alike, numbers, strict=True):
        same[found].append(name)
    repeated = [" = ".join(group) for found, group in same.items() if found and len(group) > 1]
    if repeated:
        notes.append(
            f"numbers repeat: {shortened(repeated, limit=_SHOWN)}; check that each file is a section of its own"
        )
    varying = [i for i in range(len(numbers[0])) if len({found[i] for found in numbers}) > 1]
    if not varying or len(varying) > _MOST_BLOCKS or len(alike) < 3:
        return notes
    gaps = [f"{alike[i][0]} and {alike[i + 1][0]}" for i in _gaps([[found[k] for k in varying] for found in numbers])]
    if gaps:
        notes.append(
            f"{plural(len(gaps), 'gap')} in the numbers, between {shortened(gaps, limit=_SHOWN)}; missing sections "
            "are not "
            "added"
        )
    return notes


def _gaps(numbers: Sequence[Sequence[Fraction]]) -> list[int]:
    """Return the places after which numbers are missing.

    Args:
        numbers: of each section, in order; the last one counts sections, those before it count blocks, such as wafers.
    """
    counts = Counter(b[-1] - a[-1] for a, b in pairwise(numbers) if a[:-1] == b[:-1] and b[-1] > a[-1])
    usual = max(counts, key=lambda step: (counts[step], -step)) if counts else Fraction(0)
    blocks = sorted({tuple(found[:-1]) for found in numbers})
    steps = Counter(b[-1] - a[-1] for a, b in pairwise(blocks) if a[:-1] == b[:-1])
    usual_block = max(steps, key=lambda step: (steps[step], -step)) if steps else Fraction(0)
    gaps = []
    for i, (a, b) in enumerate(pairwise(numbers)):
        if a[:-1] == b[:-1]:
            missing = b[-1] - a[-1] > usual > 0
        else:
            # Numbers continue in the next block, or begin again where they began in the first.
            continued = b[-1] - a[-1] == usual
            missing = not (continued or b[-1] <= numbers[0][-1]) or (
                a[:-2] == b[:-2] and b[-2] - a[-2] > usual_block > 0
            )
        gaps += [i] if missing else []
    return gaps


def _key(name: str, *, decimals: bool, signed: frozenset[tuple[str, ...]]) -> _Key:
    """Split a name into texts (1, 0, text) and numbers (0, number, "")."""
    parts: list[tuple[int, Fraction, str]] = []
    texts: list[str] = []
    for kind, text in _tokens(name, decimals=decimals):
        if kind:
            parts.append((1, Fraction(0), text))
            texts.append(text)
            continue
        texts = texts if texts and parts[-1][0] else [*texts, ""]
        number = Fraction(text)
        if parts and parts[-1][0] and parts[-1][2][-1] in "+-" and (*texts[:-1], texts[-1][:-1]) in signed:
            sign, before = parts[-1][2][-1], parts.pop()[2][:-1]
            texts[-1] = before
            if before:
                parts.append((1, Fraction(0), before))
            number = -number if sign == "-" else number
        parts.append((0, number, ""))
        texts.append(_NUMBER_PLACE)
    return tuple(parts)


@lru_cache(maxsize=1 << 16)
def _tokens(name: str, *, decimals: bool) -> tuple[tuple[int, str], ...]:
    """Split a name into texts (1, text) and unsigned numbers (0, digits)."""
    folded = unicodedata.normalize("NFC", name).casefold()
    stem = _STEM.search(folded)
    body, suffix = (folded[: stem.start()], folded[stem.start() :]) if stem else (folded, "")
    pattern = _NUMBER if decimals else re.compile(r"(\d+)")
    tokens: list[tuple[int, str]] = []
    at = 0
    for match in pattern.finditer(body):
        if match.start() > at:
            tokens.append((1, body[at : match.start()]))
        # Digits of other scripts count; superscripts, which are no \d, are text.
        tokens.append((0, "".join(c if c == "." else str(int(c)) for c in match[0])))
        at = match.end()
    rest = body[at:] + suffix
    return (*tokens, (1, rest)) if rest else tuple(tokens)


def _are_hexadecimal(names: Sequence[str]) -> bool:
    """Return whether names differ in hexadecimal digits alone, of fixed length: s08, s09, s0a."""
    folded = [name.casefold() for name in names]
    if len(folded) < 2 or len({len(name) for name in folded}) > 1:
        return False
    columns = [{*column} for column in zip(*folded, strict=True)]
    varying = [column for column in columns if len(column) > 1]
    mixed = any(any(c.isdigit() for c in column) and any(c.isalpha() for c in column) for column in varying)
    return mixed and all(column <= _HEXADECIMAL for column in varying)


def _uses_decimals(names: Sequence[str]) -> bool:
    """Return whether dots between digits are decimal points, not separators as in 1.9, 1.10, 1.11."""
    fractions = []
    for name in names:
        fractions += [text.partition(".")[2] for kind, text in _tokens(name, decimals=True) if not kind and "." in text]
    lengths = {len(fraction) for fraction in fractions}
    if len(lengths) <= 1:
        # Of one length, both readings give one order, if no name lacks the dot.
        return bool(fractions)
    # Numbers that are written without fixed length do not end in 0, while 1.10 after 1.9 does.
    return not any(fraction.endswith("0") for fraction in fractions)


def _signed_places(names: Sequence[str], *, decimals: bool) -> frozenset[tuple[str, ...]]:
    """Return the texts before numbers that have a sign: those that occur with and without one, or with both signs."""
    ends: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in names:
        texts: list[str] = []
        tokens = _tokens(name, decimals=decimals)
        for i, (kind, text) in enumerate(tokens):
            if kind:
                texts.append(text)
                continue
            texts = texts if i and tokens[i - 1][0] else [*texts, ""]
            before = texts[-1]
            sign = before[-1:] if before[-1:] in ("+", "-") else ""
            ends[(*texts[:-1], before[: len(before) - len(sign)])].add(sign)
            texts.append(_NUMBER_PLACE)
    return frozenset(place for place, signs in ends.items() if "-" in signs and len(signs) > 1)
