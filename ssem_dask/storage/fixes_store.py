"""The files of fixes that a run has used: `fixes/` of its group, one file per version, none ever changed.

The attributes of the run name the version that holds, and the one that its statistics were fitted with. A file is
written before it is named, so a process that is killed in between leaves at most a version that nothing names.
"""

import hashlib

from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.storage import location

FOLDER = "fixes"
_SUFFIX = ".toml"
_MAX_BYTES = 64 << 20


def read_fixes_file(url: str) -> str:
    """Return the text of a file of fixes that the user names.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        content = location.read_bytes(url)
    except FileNotFoundError as error:
        raise ConfigError(f"Fixes {url}: there is no such file; give the path of a TOML file.") from error
    except (OSError, SourceError) as error:
        raise ConfigError(f"Fixes {url}: cannot be read ({error}); give the path of a TOML file.") from error
    return decoded(content, where=url)


def decoded(content: bytes, *, where: str) -> str:
    """Return the text of a file's content; ConfigError if it is too long or no text."""
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"Fixes {where}: the file has {len(content)} bytes, but at most {_MAX_BYTES} are read.")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Fixes {where}: is no text in UTF-8 ({error}); save it as that.") from error


def keep_fixes(output: str, text: str) -> str:
    """Write a version of the fixes into a run, unless it has one with this content; return its name.

    Args:
        output: URL of the run.
        text: of the file.
    """
    names = kept_fixes(output)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    for name in reversed(names):
        if name.partition("-")[2] == f"{digest}{_SUFFIX}":
            return name
    number = int(names[-1].partition("-")[0]) + 1 if names else 1
    name = f"{number:05d}-{digest}{_SUFFIX}"
    url = location.join(output, FOLDER, name)
    with location.writing(url):
        location.write_bytes(url, text.encode())
    return name


def kept_fixes(output: str) -> list[str]:
    """Return the names of all versions that a run has used, in order."""
    names = location.list_names(location.join(output, FOLDER))
    return sorted(name for name in names if name.endswith(_SUFFIX) and name.partition("-")[0].isdigit())


def read_kept_fixes(output: str, name: str) -> str:
    """Return the text of a version.

    Raises:
        SourceError: it is missing, or its content is not the one that its name says.
    """
    url = location.join_below(output, FOLDER, name)
    try:
        content = location.read_bytes(url)
    except FileNotFoundError as error:
        raise SourceError(f"{url}: the fixes that the run has used are missing; give them with --fixes.") from error
    if hashlib.sha256(content).hexdigest()[:12] != name.partition("-")[2].removesuffix(_SUFFIX):
        raise SourceError(f"{url}: the file was changed after the run had used it; give the fixes with --fixes.")
    return content.decode()


def file_digest(url: str) -> str:
    """Return the SHA-256 of a file; SourceError if it cannot be read."""
    try:
        return hashlib.sha256(location.read_bytes(url)).hexdigest()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise SourceError(f"Fixes: mask {url}: there is no such file; check the path.") from error
