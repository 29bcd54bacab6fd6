"""A server of this machine's own address, for pages that only the holder of a key may read (`access`).

In a container it listens on another address (`--listen`), since a published port does not reach the container's
loopback. Browsers still ask under the loopback name of the machine, and `access` answers to no other.
"""

import errno
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from ssem_dask.errors import ConfigError
from ssem_dask.report.viewer.access import GuardedHandler, UnknownHandler

LOOPBACK = "127.0.0.1"


def _no_such_address(address: str) -> ConfigError:
    return ConfigError(
        f"--listen {address}: no interface of this machine has this address; give one that it has, 0.0.0.0 for all of "
        "them, or leave the option out to listen on loopback."
    )


class LoopbackServer:
    """The server; it runs in the event loop in which it is started."""

    def __init__(
        self,
        handlers: Sequence[tuple[str, type[GuardedHandler]]],
        *,
        shared: Mapping[str, Any],
        threads: int,
        port_taken: str,
        largest_body: int | None = None,
    ) -> None:
        """Make the server.

        Args:
            handlers: handler of each pattern of addresses.
            shared: arguments of `initialize` of every handler, beside `pool`, the threads that do slow work.
            threads: number of these threads.
            port_taken: message if the port cannot be used, with `{port}` and `{error}` in it.
            largest_body: bytes of the body of a request; None: Tornado's own limit.
        """
        self._port_taken = port_taken
        self._pool = ThreadPoolExecutor(threads)
        given = {**shared, "pool": self._pool}
        self._server = HTTPServer(
            Application(
                [(pattern, handler, given) for pattern, handler in handlers],
                default_handler_class=UnknownHandler,
                log_function=lambda _: None,
            ),
            max_body_size=largest_body,
            max_buffer_size=None if largest_body is None else 2 * largest_body,
        )

    def start(self, *, port: int, address: str = LOOPBACK) -> int:
        """Listen and return the port; port 0 chooses a free one.

        Args:
            port: number of the port.
            address: of the interface of this machine on which to listen.

        Raises:
            ConfigError: the port is taken or forbidden, or no interface of this machine has the address.
        """
        try:
            sockets = bind_sockets(port, address=address)
        except socket.gaierror as error:
            raise _no_such_address(address) from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise _no_such_address(address) from error
            raise ConfigError(self._port_taken.format(port=port, error=error.strerror)) from error
        self._server.add_sockets(sockets)
        return int(sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Stop answering."""
        self._server.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
