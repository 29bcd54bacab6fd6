"""How fsspec is asked for a location: with the secrets that belong to it, and with limits on its patience."""

import base64
import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ssem_dask.errors import MissingExtraError, SourceError
from ssem_dask.shown import secret_of, without_secrets

_S3_OPTIONS = {
    "config_kwargs": {"connect_timeout": 4, "read_timeout": 20, "retries": {"max_attempts": 2}},
    "max_concurrency": 1,
}
"""Time limits, without which giving up on a host that does not answer takes minutes; and a file is read by one request.
With a higher concurrency, s3fs asks for the size of each file first, to get files of more than 50 MB in parts."""
HTTP = ("http://", "https://")


_PROTOCOL_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Extras of this package that bring the client of a protocol."""


def request_to(url: str) -> tuple[str, dict[str, Any]]:
    """Return the URL and the options with which fsspec reaches a location.

    Over HTTP, user and password become a header and the query string parameters, so that joined paths and messages
    have neither. Other clients want user and password in the URL.
    """
    url = without_secrets(url)
    if url.startswith(("s3://", "s3a://")):
        return url, dict(_S3_OPTIONS)
    secret = secret_of(url)
    if not url.startswith(HTTP):
        if not secret.user_info:
            return url, {}
        protocol, _, rest = url.partition("://")
        return f"{protocol}://{secret.user_info}@{rest}", {}
    options: dict[str, Any] = {}
    authorization = authorization_for(url)
    if authorization:
        options["headers"] = {"Authorization": authorization}
    if secret.query:
        options["params"] = tuple(parse_qsl(secret.query, keep_blank_values=True))
    return url, options


def authorization_for(url: str) -> str | None:
    """Return the value of the header with user and password, from the URL that was given or from ~/.netrc."""
    user_info = secret_of(url).user_info
    if user_info:
        user, _, password = user_info.partition(":")
        user, password = unquote(user), unquote(password)
    else:
        host = urlsplit(url).hostname
        stored = None if host is None else _netrc().get(host)
        if stored is None:
            return None
        user, password = stored
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _netrc() -> dict[str, tuple[str, str]]:
    """Return user and password by host, from the file of which curl and others take them; {} if it cannot be read."""
    try:
        file = netrc.netrc(os.environ.get("NETRC") or None)
    except (OSError, netrc.NetrcParseError):
        return {}
    return {host: (user, password or "") for host, (user, _, password) in file.hosts.items() if host != "default"}


@contextmanager
def known_protocol(url: str) -> Iterator[None]:
    """Turn the error of a client that is missing or not known into one sentence about `url`."""
    protocol = url.partition("://")[0]
    try:
        yield
    except ImportError as error:
        extra = _PROTOCOL_EXTRAS.get(protocol)
        cure = f"install it with `pip install 'ssem_dask[{extra}]'`" if extra else str(error)
        raise MissingExtraError(f"{url}: the client of {protocol}:// is not installed; {cure}.") from error
    except ValueError as error:
        raise SourceError(
            f"{url}: the protocol '{protocol}' is not known ({error}); give a path or a URL such as s3://bucket/name."
        ) from error
