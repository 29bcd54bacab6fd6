"""Wildcards in local paths: brackets in the name of a folder that exists are none."""

import glob
from pathlib import Path

_MARKS = "*?["


def has_wildcards(path: Path) -> bool:
    """Return whether a path has a wildcard outside the names that exist."""
    return any(mark in part for part in _unescaped(path) for mark in _MARKS)


def matches(pattern: Path) -> list[str]:
    """Return the sorted paths that match a pattern."""
    start, rest = _split(pattern)
    return sorted(glob.glob(str(Path(glob.escape(str(start)), *rest))))  # noqa: PTH207  (Path.glob takes no absolute patterns)


def _unescaped(path: Path) -> tuple[str, ...]:
    return _split(path)[1]


def _split(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the longest existing beginning of a path, and the names after it."""
    parts = path.parts
    for number in range(len(parts), 0, -1):
        start = Path(*parts[:number])
        if start.exists():
            return start, parts[number:]
    return Path(), parts
