"""A file of fixes while people work on it: atomic saves, refused if somebody else saved in between, and its history.

`fixes.toml` is what counts. Beside it, `fixes.history.jsonl` has one line per state that the file had, with its whole
text, so that any change can be undone, also after this process was killed. The file is replaced first and the line
appended after that. So a kill in between leaves a state without a line, which the next change adds as one from
outside, as it does with what somebody wrote in an editor.

Undo does not remove lines: it appends one that points to the state before. So what was undone can be done again, and
nothing that anybody ever saved is lost.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ssem_dask.errors import OutputError, SsemDaskError
from ssem_dask.storage.local_files import write_file

_MAX_HISTORY = 16 << 20
"""Characters of all states from which the older half of the history is dropped."""
_OUTSIDE = "Changed outside of this page"


class _Line(TypedDict):
    """A line of the history."""

    text: str
    label: str
    at: Annotated[int, Field(ge=0)]
    """State that the file has since then: its own number, or after an undo that of an earlier line."""
    before: int
    """State that the file had before the change; -1: there was none."""


_LINES = TypeAdapter(_Line)


class StaleError(SsemDaskError):
    """The file is not the one that the change is for."""


@dataclass(frozen=True, slots=True)
class FixesText:
    """The content of the file."""

    text: str
    version: str
    """Digest of the text; a change names the version that it is for."""
    undo: str
    """The change that an undo takes back; empty if there is none."""
    redo: str
    """The change that can be done again; empty if there is none."""


class FixesFile:
    """A file of fixes on this machine."""

    def __init__(self, path: Path, *, initial: str = "") -> None:
        """Name the file.

        Args:
            path: of the file.
            initial: text that counts as its content while it does not exist.
        """
        self.path = path
        self._initial = initial
        self._history_path = path.with_name(path.stem + ".history.jsonl")
        self._lock_path = path.with_name(f".{path.name}.lock")

    def read(self) -> FixesText:
        """Read the file; one that does not exist is empty. Nothing is written.

        Raises:
            OutputError: it cannot be read, or is no text.
        """
        lines, _ = self._states()
        return _summary(lines)

    def change(self, version: str, label: str, edit: Callable[[str], str]) -> FixesText:
        """Replace the text by an edited one.

        Args:
            version: of the text that the change is for.
            label: the change in a few words, such as `Exclude section 12`.
            edit: function from the text to the new one; if it raises, nothing changes.

        Raises:
            StaleError: somebody else has changed the file since that version.
            OutputError: the file cannot be written.
        """
        with self._locked(version) as (lines, stored):
            edited = edit(lines[-1]["text"])
            if edited != lines[-1]["text"]:
                line: _Line = {"text": edited, "label": label, "at": len(lines), "before": lines[-1]["at"]}
                self._save(lines, line, stored=stored)
            return _summary(lines)

    def write(self, version: str) -> None:
        """Make sure that the file exists; arguments and errors as in `change`."""
        with self._locked(version) as (lines, _):
            if not self.path.exists():
                write_file(self.path, lines[-1]["text"].encode())

    def undo(self, version: str) -> FixesText:
        """Take the last change back; arguments and errors as in `change`."""
        with self._locked(version) as (lines, stored):
            before = lines[lines[-1]["at"]]["before"]
            if before >= 0:
                self._save(lines, {**lines[before], "at": before, "label": "Undo"}, stored=stored)
            return _summary(lines)

    def redo(self, version: str) -> FixesText:
        """Do the change again that was undone last; arguments and errors as in `change`."""
        with self._locked(version) as (lines, stored):
            after = _undone(lines)
            if after is not None:
                self._save(lines, {**lines[after], "at": after, "label": "Redo"}, stored=stored)
            return _summary(lines)

    def _save(self, lines: list[_Line], line: _Line, *, stored: int) -> None:
        """Write the file, then the lines of the history after the first `stored`."""
        write_file(self.path, line["text"].encode())
        lines.append(line)
        known = b"".join(map(_encoded, lines[:stored]))
        # What follows the known lines was cut off by a kill.
        if not self._history_path.exists() or self._history_path.stat().st_size != len(known):
            write_file(self._history_path, known)
        with self._history_path.open("ab") as file:
            file.write(b"".join(map(_encoded, lines[stored:])))
            file.flush()
            os.fsync(file.fileno())

    def _states(self) -> tuple[list[_Line], int]:
        """Return the history, the present state of the file last, and how many of its lines are stored."""
        lines = self._stored_lines()
        stored = len(lines)
        text = self._text()
        if not lines:
            lines.append({"text": text, "label": "As it was found", "at": 0, "before": -1})
        elif lines[-1]["text"] != text:
            lines.append({"text": text, "label": _OUTSIDE, "at": len(lines), "before": lines[-1]["at"]})
        if sum(len(line["text"]) for line in lines) > _MAX_HISTORY:
            return _shortened(lines), 0
        return lines, stored

    def _text(self) -> str:
        try:
            return self.path.read_bytes().decode()
        except FileNotFoundError:
            return self._initial
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise OutputError(f"Fixes {self.path}: cannot be read ({reason}); give another --file.") from error

    def _stored_lines(self) -> list[_Line]:
        """Return the lines up to the first damaged one, which a kill or a full disk has cut off."""
        lines: list[_Line] = []
        try:
            content = self._history_path.read_bytes()
        except OSError:
            return lines
        for each in content.splitlines(keepends=True):
            try:
                line = _LINES.validate_json(each)
            except ValidationError:
                break
            if not each.endswith(b"\n") or line["before"] >= len(lines) or line["at"] > len(lines):
                break
            lines.append(line)
        return lines

    @contextmanager
    def _locked(self, version: str) -> Iterator[tuple[list[_Line], int]]:
        """Keep other processes out while the file changes; the system frees the lock if this one is killed."""
        try:
            with self._lock_path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                lines, stored = self._states()
                if version != _digest(lines[-1]["text"]):
                    raise StaleError(
                        f"{self.path.name}: somebody else has changed it since this page read it, so nothing was "
                        "saved; reload to see their change, then say yours again."
                    )
                yield lines, stored
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"Fixes {self.path}: cannot be written ({error.strerror or error}); give another --file, or free space."
            ) from error


def _summary(lines: list[_Line]) -> FixesText:
    at = lines[-1]["at"]
    after = _undone(lines)
    return FixesText(
        text=lines[-1]["text"],
        version=_digest(lines[-1]["text"]),
        undo=lines[at]["label"] if lines[at]["before"] >= 0 else "",
        redo="" if after is None else lines[after]["label"],
    )


def _undone(lines: list[_Line]) -> int | None:
    """Return the newest change that was made to the present state and is not part of it; None if there is none."""
    at = lines[-1]["at"]
    changes = [i for i, line in enumerate(lines) if line["at"] == i and line["before"] == at]
    return changes[-1] if changes else None


def _shortened(lines: list[_Line]) -> list[_Line]:
    """Return the newer half of the history, with the numbers that its lines then have."""
    dropped = len(lines) // 2
    kept: list[_Line] = []
    for i, line in enumerate(lines[dropped:]):
        # What pointed to a dropped line becomes a first state of its own.
        at, before = line["at"] - dropped, line["before"] - dropped
        kept.append({**line, "at": at if at >= 0 else i, "before": max(-1, before)})
    return kept


def _encoded(line: _Line) -> bytes:
    values: Any = line
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
