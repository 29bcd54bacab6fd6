"""The entry point of the `ssem-dask` script: streams, signals and log, then the command.

It imports nothing else at its top, so that Ctrl-C while modules are imported ends in one sentence too.
"""

import logging
import os
import signal
import sys
import time
import traceback
from types import TracebackType
from typing import Any

from ssem_dask.cli.streams import flush_streams, prepare_streams
from ssem_dask.shown import redacted, visible

EXIT_INTERRUPTED = 130
INTERRUPTED = "Interrupted. Finished work is kept; run the same command again to resume."
_PATIENCE_S = 10.0
"""Seconds that a command has to clean up after a signal before another signal ends it at once."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupt:
    """Handler of signals: the first stops the command, those that follow shortly after must not stop its clean-up."""

    def __init__(self) -> None:
        self._first: float | None = None

    def __call__(self, _number: int, _frame: Any) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            raise KeyboardInterrupt
        if now - self._first > _PATIENCE_S:
            os._exit(EXIT_INTERRUPTED)

    def install(self) -> None:
        """Handle the signals; those that nohup or a shell ignores stay ignored."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self)

    def ignore(self) -> None:
        """Ignore the signals after an interrupt; while Python ends, another one would change the exit code."""
        if self._first is not None:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            # Python notes an interrupt that leaves an `exec`, as of a dataclass, and later dies of SIGINT although the
            # interrupt was handled. Another `exec` clears the note.
            exec("")


def main() -> None:
    """Run the `ssem-dask` script."""
    prepare_streams()
    _make_log_visible()
    interrupt = _Interrupt()
    interrupt.install()  # a cluster that this process starts must not outlive it
    try:
        from ssem_dask.cli.app import app

        app()
    except KeyboardInterrupt:
        interrupt.ignore()
        sys.stderr.write(f"error: {INTERRUPTED}\n")
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as ended:
        interrupt.ignore()
        sys.exit(_after_flush(ended.code))


def _after_flush(code: Any) -> Any:
    error = flush_streams()
    if error is None:
        return code
    sys.stderr.write(
        f"error: stdout: the result cannot be written ({error.strerror}); free some space, or write it to another "
        "place.\n"
    )
    return code or 2


def _make_log_visible() -> None:
    """Let no control character of a store and no secret of a URL reach a log by a message or a traceback."""

    class Record(logging.LogRecord):
        def getMessage(self) -> str:  # noqa: N802  the name of the base class
            return visible(redacted(super().getMessage()), keep="\n\t")

    logging.setLogRecordFactory(Record)

    def show(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        sys.stderr.write(visible(redacted("".join(traceback.format_exception(kind, error, where))), keep="\n\t"))

    sys.excepthook = show
