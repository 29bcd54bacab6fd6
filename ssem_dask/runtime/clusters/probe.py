"""Check of a scheduler's address before Dask connects: whether a Dask scheduler is there and accepts us.

`distributed.Client` has no time limit once it is connected: it never returns from a port that accepts a connection and
then sends nothing, such as that of a TLS scheduler addressed without TLS. A Dask listener sends a greeting first, so
receiving one byte suffices.
"""

import socket
import ssl
import time

from distributed.comm.addressing import parse_host_port
from distributed.security import Security

from ssem_dask.errors import ConfigError

_RETRY_SECONDS = 0.5
_SILENCE_SECONDS = 2.0
"""Silence after which a port that was addressed without TLS is asked whether it speaks TLS."""


def refuse_unanswered(address: str, *, security: Security | None, seconds: float) -> None:
    """Raise ConfigError unless a scheduler sends a greeting at a `tcp://` or `tls://` address; skip other addresses.

    Args:
        address: address of the scheduler.
        security: our certificates; None: according to Dask's own configuration.
        seconds: longest time to try.

    Raises:
        ConfigError: nothing answers, or our certificates are refused.
    """
    scheme, _, place = address.partition("://")
    if scheme not in ("tcp", "tls"):
        return None
    try:
        host, port = parse_host_port(place)
    except ValueError as error:
        raise ConfigError(f"--cluster {address}: not an address ({error}); write tls://host:8786.") from error
    context = None
    if scheme == "tls":
        context = (security or Security()).get_connection_args("client")["ssl_context"]
        if context is None:
            raise ConfigError(
                f"--cluster {address}: needs certificates; set [cluster] tls or $SSEM_DASK_TLS to the folder that the "
                "scheduler was started with."
            )
    deadline = time.monotonic() + seconds
    if scheme == "tcp":
        _refuse_tls(address, host, port, seconds=min(_SILENCE_SECONDS, seconds))
    while True:
        try:
            return _await_greeting(host, port, context, seconds=max(1.0, deadline - time.monotonic()))
        except (ssl.SSLError, ConnectionResetError) as error:
            raise ConfigError(
                f"--cluster {address}: it answers, but refuses our certificates or does not speak TLS ({error}); use "
                "the same certificates as the scheduler was started with."
            ) from error
        except TimeoutError as error:
            raise ConfigError(
                f"--cluster {address}: accepted the connection but sent nothing for {seconds:g} s; "
                "check what listens there: a Dask scheduler sends a greeting at once."
            ) from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"--cluster {address}: no Dask scheduler answered within {seconds:g} s ({error}); start one, or "
                    "use --cluster local."
                ) from error
            time.sleep(_RETRY_SECONDS)


def _refuse_tls(address: str, host: str, port: int, *, seconds: float) -> None:
    """Raise ConfigError if a port says nothing, but answers a greeting in TLS; it would be waited for in vain."""
    try:
        _await_greeting(host, port, None, seconds=seconds)
    except TimeoutError:
        if _speaks_tls(host, port, seconds=seconds):
            raise ConfigError(
                f"--cluster {address}: speaks TLS; write tls://{host}:{port} and give the certificates that the "
                "scheduler was started with."
            ) from None
    except OSError:
        pass  # whoever waits longer finds out


def _speaks_tls(host: str, port: int, *, seconds: float) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the question is whether, not which
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        return "CERTIFICATE" in str(error) or "HANDSHAKE" in str(error)
    except OSError:
        return False


def _await_greeting(host: str, port: int, context: ssl.SSLContext | None, *, seconds: float) -> None:
    with socket.create_connection((host, port), timeout=seconds) as connection:
        secured = connection if context is None else context.wrap_socket(connection, server_hostname=host)
        # In TLS 1.3 a refused certificate shows only at the first read.
        if not secured.recv(1):
            raise ConnectionResetError("the connection was closed at once")
