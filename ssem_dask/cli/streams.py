"""Standard streams that stop no command.

A stream may be closed (`>&-`, some daemons), have an encoding without the characters that are written (LANG=C), or lose
its reader (`| head -1`). None of these concerns the work, so the work continues, and the exit code is that of the work.
Only a result that could not be written, as to a full disk, is an error.
"""

import io
import os
import sys
from typing import Any, TextIO

_LOST: set[str] = set()
"""Names of the streams whose reader is gone."""
_FAILED: list[OSError] = []
"""Why the result could not be written to stdout."""


def prepare_streams() -> None:
    """Open the streams that are closed, and replace stdout and stderr by streams that accept everything."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor; else a file of ours would get it
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123  open as long as the process
    sys.stdout = accepting("stdout", 1, sys.stdout)
    sys.stderr = accepting("stderr", 2, sys.stderr)


def reader_is_gone() -> bool:
    """Return whether nobody reads stdout or stderr any more."""
    return bool(_LOST)


def flush_streams() -> OSError | None:
    """Write what is left; return the error of stdout, if it could not be written completely."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return _FAILED[0] if _FAILED else None


class _Accepting(io.FileIO):
    """A file descriptor that takes every byte, even if they go nowhere."""

    def __init__(self, name: str, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._stream = name

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BlockingIOError:
            raise
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                _LOST.add(self._stream)
            elif self._stream == "stdout":
                _FAILED.append(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(content)


def accepting(name: str, descriptor: int, stream: TextIO | None) -> io.TextIOWrapper:
    """Return a text stream that takes everything.

    Args:
        name: `stdout` or `stderr`.
        descriptor: file descriptor to write to.
        stream: the present stream, for its encoding; None if it was closed.
    """
    encoding = "utf-8" if stream is None else stream.encoding
    if stream is not None:
        stream.flush()
    raw = _Accepting(name, descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=raw.isatty() or name == "stderr",
    )
