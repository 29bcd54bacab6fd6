r"""Text as people may see it.

Names, messages and attributes of a store may hold characters that command a terminal: they could set its clipboard or
title, or hide a part of a line. `visible` shows them as escapes, like \x1b.

URLs may hold a password or a signature. At the border, where a command or a function is given one, `without_secrets`
takes it out and remembers it for the requests of this process. So whatever is stored, shown or compared has none.
`redacted` takes them out of texts that others make, such as the errors of a client.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_plus

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, *, keep: str = "") -> str:
    """Return text with control characters, C0 and C1, and marks that change the direction of writing as escapes.

    Args:
        text: anything.
        keep: control characters that stay, for example a newline.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return _NAMES.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


@dataclass(frozen=True, slots=True)
class Secret:
    """Grants of access to a location."""

    user_info: str = field(default="", repr=False)
    """User and password, as in the URL; empty if there are none."""
    query: str = field(default="", repr=False)
    """Query string with a signature or a token; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets of locations, by the location without them; for workers, and never shown."""

    by_url: Mapping[str, Secret] = field(repr=False)


_SECRETS: dict[str, Secret] = {}
"""Secrets that this process was given, by location and, for user and password, by server."""
_USER_INFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^/\s?#\"'<>]*)@")
_QUERY = re.compile(r"(?P<url>https?://[^\s?\"'<>\\]*)\?(?P<query>[^\s\"'<>\\]+)")
_NO_SECRET = ("github", "git", "abfs", "abfss", "az", "adl", "wasb", "wasbs")
"""Protocols in which the part before @ names a place."""
_SHORTEST = 4
"""Characters of the shortest part that is hidden wherever it occurs; shorter ones would hide parts of words."""
_HIDDEN = "…"


def without_secrets(text: str) -> str:
    """Return a location, or a word that contains one, without user, password and query string.

    They are remembered for the requests of this process; see `secret_of`. Everything that is stored, shown or compared
    is the location that this returns.
    """
    if "://" not in text:
        return text
    query = _QUERY.search(text)
    if query is not None:
        text = text[: query.end("url")] + text[query.end("query") :]
    info = _USER_INFO.search(text)
    is_secret = info is not None and info["scheme"] not in _NO_SECRET
    if info is not None and is_secret:
        text = text[: info.start("user")] + text[info.end() :]
    if query is None and not is_secret:
        return text
    secret = Secret(info["user"] if info is not None and is_secret else "", "" if query is None else query["query"])
    url = text[info.start() if info is not None and is_secret else query.start() :]  # type: ignore[union-attr]
    _remember({url.rstrip("/"): secret})
    return text


def secret_of(url: str) -> Secret:
    """Return the secrets of the nearest location above `url`, or of its server; empty ones if there are none."""
    best = Secret()
    while "://" in url:
        found = _SECRETS.get(url)
        if found is not None:
            best = Secret(best.user_info or found.user_info, best.query or found.query)
        above = url.rstrip("/").rpartition("/")[0]
        if above.endswith(("/", ":")) or above == url:
            break
        url = above
    return best


def known_secrets() -> Secrets:
    """Return the secrets of this process, for another one that makes requests for it."""
    return Secrets(dict(_SECRETS))


def remember_secrets(secrets: Secrets) -> None:
    """Take over the secrets of another process."""
    _remember(secrets.by_url)


def redacted(text: str) -> str:
    """Return text without secrets: those of this process, and any user, password or query string of a URL."""
    if _SECRETS:
        for part in sorted({part for secret in _SECRETS.values() for part in _parts(secret)}, key=len, reverse=True):
            text = text.replace(part, _HIDDEN)
    if "://" in text:
        text = _USER_INFO.sub(
            lambda found: found[0] if found["scheme"] in _NO_SECRET else f"{found['scheme']}://", text
        )
        text = _QUERY.sub(_without_query, text)
    return text


def shown(text: str) -> str:
    """Return text as people may see it, on one line: without secrets and control characters."""
    return visible(redacted(text))


def _remember(by_url: Mapping[str, Secret]) -> None:
    for url, secret in by_url.items():
        _SECRETS[url] = secret
        scheme, _, rest = url.partition("://")
        server = f"{scheme}://{rest.partition('/')[0]}"
        if secret.user_info and server not in _SECRETS:
            _SECRETS[server] = Secret(secret.user_info)


def _without_user(found: re.Match[str]) -> str:
    return found[0] if found["scheme"] in _NO_SECRET else f"{found['scheme']}://"


def _without_query(found: re.Match[str]) -> str:
    query = found["query"]
    return found["url"] + query[len(query.rstrip(".,:;)")) :]  # the end of a sentence belongs to no query


def _parts(secret: Secret) -> Iterator[str]:
    """Yield everything that must not be shown, as it was given and decoded."""
    user, _, password = secret.user_info.partition(":")
    values = [value for _, _, value in (part.partition("=") for part in secret.query.split("&"))]
    texts = [secret.user_info, password, secret.query, *values]
    if not password:
        texts.append(user)  # a token in place of a user
    if secret.user_info:
        texts.append(base64.b64encode(unquote(secret.user_info).encode()).decode())
    for text in texts:
        for form in (text, unquote(text), unquote_plus(text)):
            if len(form) >= _SHORTEST:
                yield form
