"""Address of a run's viewer: the same every time, so that the links of a report reach it."""

_FIRST_PORT, _PORTS = 20000, 20000


def run_token(config_digest: str) -> str:
    """Return the part of a link that identifies a run; it is no secret."""
    return config_digest[:16]


def default_port(config_digest: str) -> int:
    """Return the port of a run's viewer, 20000 … 39999."""
    return _FIRST_PORT + int(run_token(config_digest), 16) % _PORTS


def viewer_address(config_digest: str) -> str:
    """Return the address of a run's viewer on this machine."""
    return f"http://127.0.0.1:{default_port(config_digest)}"


def default_fix_port(config_digest: str) -> int:
    """Return the port of a run's page of `ssem-dask fix`, which may be open beside the viewer."""
    return _FIRST_PORT + (default_port(config_digest) - _FIRST_PORT + 1) % _PORTS
