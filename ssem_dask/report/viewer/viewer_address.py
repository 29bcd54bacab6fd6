"""Address of a run's viewer: the same every time, so that the links of a report reach it."""

import re
import zlib

_FIRST_PORT, _PORTS = 20000, 20000
_HEXADECIMAL = re.compile("[0-9a-f]+")


def run_token(config_digest: str) -> str:
    """Return the part of a link that identifies a run; it is no secret."""
    return config_digest[:16]


def default_port(config_digest: str) -> int:
    """Return the port of a run's viewer, 20000 … 39999."""
    token = run_token(config_digest)
    # A store may hold any text in place of a digest, or none.
    number = int(token, 16) if _HEXADECIMAL.fullmatch(token) else zlib.crc32(token.encode(errors="surrogatepass"))
    return _FIRST_PORT + number % _PORTS


def viewer_address(config_digest: str) -> str:
    """Return the address of a run's viewer on this machine."""
    return f"http://127.0.0.1:{default_port(config_digest)}"


def default_fix_port(config_digest: str) -> int:
    """Return the port of a run's page of `ssem-dask fix`, which may be open beside the viewer."""
    return _FIRST_PORT + (default_port(config_digest) - _FIRST_PORT + 1) % _PORTS


def default_report_port(config_digest: str) -> int:
    """Return the port of a run's report, which may be open beside the viewer and the page of `ssem-dask fix`."""
    return _FIRST_PORT + (default_port(config_digest) - _FIRST_PORT + 2) % _PORTS
