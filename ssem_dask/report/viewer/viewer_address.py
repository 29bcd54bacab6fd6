"""Where the viewer of a run is found: the same address each time, so that the links of a report lead there."""

from typing import Any

_FIRST, _PORTS = 20000, 20000


def run_mark(attributes: dict[str, Any]) -> str:
    """What tells one run from another in an address; also keeps other web pages from guessing it."""
    return str(attributes["config_digest"])[:16]


def default_port(attributes: dict[str, Any]) -> int:
    """The port of a run's viewer, 20000 … 39999, by the digest of its configuration."""
    return _FIRST + int(run_mark(attributes), 16) % _PORTS


def address_of(attributes: dict[str, Any]) -> str:
    """The viewer's address on this machine."""
    return f"http://127.0.0.1:{default_port(attributes)}"
