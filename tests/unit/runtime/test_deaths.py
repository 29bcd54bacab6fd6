"""The message about a lost worker follows from the signal by which it died."""

import signal

import pytest

from ssem_dask.runtime.deaths import deaths, describe_deaths, note_death


@pytest.mark.parametrize(
    ("codes", "naming", "memory"),
    [
        ([-signal.SIGSEGV], "SIGSEGV: native code crashed", False),
        ([-signal.SIGABRT, -signal.SIGBUS], "SIGABRT and SIGBUS: native code crashed", False),
        ([-signal.SIGKILL, -signal.SIGKILL], "SIGKILL: by hand, or by the kernel", True),
        ([-signal.SIGTERM], "SIGTERM", True),
        ([-signal.SIGUSR1], "SIGUSR1", False),
        ([1], "not known", True),
    ],
)
def test_the_signal_is_named(codes: list[int], naming: str, memory: bool) -> None:
    since = deaths()
    for code in codes:
        note_death(code)
    described = describe_deaths(since)
    assert naming in described
    assert ("memory" in described and "does not help" not in described) == memory
