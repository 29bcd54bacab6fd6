"""The start of a cluster of this machine: refused quickly if it is impossible, and undone if it is interrupted."""

import multiprocessing
import resource
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from distributed import Client

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.distributed import silenced_loggers
from ssem_dask.units import plural

_HOST = "127.0.0.1"
_LOOPBACK_S = 3.0
_FILES, _FILES_PER_WORKER = 26, 9
"""Open files of the driver of workers on this machine, sockets included: 32 measured with 1 worker, 62 with 4."""


def start_or_refuse(name: str, start: Callable[[], Client]) -> Client:
    """Start a cluster.

    Args:
        name: value of `--cluster`, for the message.
        start: starts the cluster and returns a client of it.

    Raises:
        ConfigError: this machine does not let its workers start.
    """
    _refuse_sandbox(name)
    # A cluster that is interrupted while it starts cannot be stopped, so it starts in a thread, and is stopped then.
    # The workers inherit the thread's mask: Ctrl-C, which a terminal sends to them too, is left to the driver.
    thread = ThreadPoolExecutor(1, initializer=_block_ctrl_c)
    with silenced_loggers():
        started = thread.submit(start)
        try:
            return started.result()
        except Exception as error:
            raise _refusal(name, _root_cause(error)) from error
        except KeyboardInterrupt:
            with suppress(Exception):
                client = started.result()
                cluster = client.cluster
                client.close()
                cluster.close()
            raise
        finally:
            thread.shutdown(wait=False)


def allow_open_files(name: str, *, workers: int) -> None:
    """Let this process open as many files as it may; raise ConfigError if that is too few for so many workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems have another limit below the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    needed = _FILES + _FILES_PER_WORKER * workers
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise ConfigError(
            f"--cluster {name}: {plural(workers, 'worker')} need {needed} open files, but a process may open {soft}; "
            "raise that (`ulimit -n`), start fewer workers, or use --cluster serial, which needs none."
        )


def _block_ctrl_c() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _refuse_sandbox(name: str) -> None:
    """Raise ConfigError if something is missing that sandboxes often forbid: Dask would need a minute to give up."""
    try:
        with (
            socket.create_server((_HOST, 0)) as server,
            socket.create_connection(server.getsockname(), timeout=_LOOPBACK_S),
        ):
            pass
    except OSError as error:
        raise _refusal(name, f"the loopback address {_HOST} does not answer: {error.strerror or error}") from error
    try:
        multiprocessing.get_context("spawn").Lock()
    except (OSError, ImportError) as error:
        raise _refusal(name, f"no semaphore can be made, /dev/shm must be writable: {error}") from error


def _refusal(name: str, cause: str) -> ConfigError:
    return ConfigError(
        f"--cluster {name}: its workers cannot be started ({cause}); allow that, or use --cluster serial, which needs "
        "no workers."
    )


def _root_cause(error: BaseException) -> str:
    """Return the kind and the text of the error that began a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
