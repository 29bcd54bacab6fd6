"""The process from which workers of this machine are forked: it has imported everything that they need, once.

A worker that starts by itself takes seconds of CPU to import torch and this package, and every core pays them. The
server is Python's own (`multiprocessing.forkserver`). It never runs anything but imports, so that it has one thread and
no CUDA context when it forks. It ends with the process that started it.

This module imports nothing heavy, so that a command can start the server before it loads what it needs itself.
"""

import atexit
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker

_PRELOADED = ("distributed", "ssem_dask.runtime.clusters.worker_modules")
_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "6640",
}
"""Variables that Dask sets before it starts a worker; libraries read some of them when they are loaded."""


def start_fork_server() -> None:
    """Start the server, without waiting until it is ready; do nothing if it runs, or if the system has none."""
    if os.name != "posix":
        return
    resource_tracker.ensure_running()  # the server would start it, which unblocks signals
    # It inherits the mask: Ctrl-C, which a terminal sends to workers as well, is left to the driver. So is a SIGTERM to
    # the process group; Dask's supervisors do not end if the server dies while it forks. Workers unblock SIGTERM.
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with _environment({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}):
            forkserver.set_forkserver_preload(list(_PRELOADED))
            forkserver.ensure_running()
        atexit.unregister(_end_fork_server)
        atexit.register(_end_fork_server)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _end_fork_server() -> None:
    """Kill the server: it would end by itself only after its imports, and until then hold what this process writes to.

    By now no worker is left: what closes clusters at exit was registered later, so it ran before.
    """
    server = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if server is not None:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
