"""The fence: what asks, right before bytes are written, whether the writer may still write.

A driver, and each task that it hands out, runs inside `fenced`. Whatever writes to a store below that (files, arrays,
groups, deletions) asks the fence of its context. Outside of any fence, as in a script that writes a volume, everything
may be written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Fence(Protocol):
    """Knows whether its owner may write."""

    def check(self) -> None:
        """Raise LeaseLostError if the owner may write no more; may rely on an answer that is young enough."""

    def confirm(self) -> None:
        """Raise LeaseLostError if the owner may write no more, after asking the store."""


# A context variable instead of an argument, since zarr and the stages' own code are called in between.
_FENCE: ContextVar[Fence | None] = ContextVar("fence", default=None)


@contextmanager
def fenced(fence: Fence | None) -> Iterator[None]:
    """Ask a fence before anything is written inside the context; None: ask nobody."""
    token = _FENCE.set(fence)
    try:
        yield
    finally:
        _FENCE.reset(token)


def current_fence() -> Fence | None:
    """Return the fence of this context; None if there is none."""
    return _FENCE.get()


def check_fence() -> None:
    """Raise LeaseLostError if the owner of this context may write no more."""
    fence = _FENCE.get()
    if fence is not None:
        fence.check()


def confirm_fence() -> None:
    """Raise LeaseLostError if the owner of this context may write no more, after asking the store.

    To be called before something is deleted or replaced that others may rely on.
    """
    fence = _FENCE.get()
    if fence is not None:
        fence.confirm()
