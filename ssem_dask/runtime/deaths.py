"""Signals by which workers of this machine died: what their deaths say about a task."""

import signal

_SIGNALS: list[int] = []
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}


def note_death(exit_code: int) -> None:
    """Note that a worker ended; a negative code is that of a signal."""
    if exit_code < 0:
        _SIGNALS.append(-exit_code)


def deaths() -> int:
    """Return the number of workers of this machine that have died of a signal."""
    return len(_SIGNALS)


def describe_deaths(since: int) -> str:
    """Return the sentence about the workers that died since `deaths` returned `since`.

    Workers of other machines are not seen; nothing is known about their deaths.
    """
    seen = list(dict.fromkeys(_SIGNALS[since:]))
    if not seen:
        return "why is not known; it may need more memory than a worker has"
    names = " and ".join(_name(number) for number in seen)
    if signal.SIGKILL in seen:
        return f"killed by {names}: by hand, or by the kernel because the machine ran out of memory"
    if signal.SIGTERM in seen:
        return f"killed by {names}: by hand, or because it took more memory than a worker has"
    if any(number in _CRASHES for number in seen):
        return f"killed by {names}: native code crashed, such as a codec or a driver; more memory does not help"
    return f"killed by {names}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
