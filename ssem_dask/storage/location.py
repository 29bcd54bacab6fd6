"""Locations to read and write: a path, or any URL that fsspec knows (`file`, `memory`, `s3`, `gs`, `http`).

A location is a `str`. A write is atomic: a reader sees either the old bytes or the new ones, and a process that is
killed leaves at most a `*.partial` file, which no listing here shows.

If a location cannot be reached, the context `reading` raises `SourceError` and the context `writing` raises
`OutputError`, each with one sentence for the user.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import zarr.abc.store

import ssem_dask.storage.local_files as local
from ssem_dask.errors import OutputError, SourceError, SsemDaskError
from ssem_dask.storage.fence import check_fence, confirm_fence
from ssem_dask.storage.local_store import FencedLocalStore
from ssem_dask.storage.requests import known_protocol, request_to
from ssem_dask.storage.retry import RetryingStore, retry, tried_once
from ssem_dask.storage.wildcards import has_wildcards, matches
from ssem_dask.storage.zip_files import asynchronous, split_zip, zip_file_system

_NAME_BYTES = 255
"""Bytes of a file's name at most, on all usual file systems."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM}
_CREDENTIALS = " (in ~/.netrc, or user:password@ in the URL)"


def is_local(url: str) -> bool:
    """Return whether `url` is a plain path or a file:// URL, and does not lead into a zip file."""
    return ("://" not in url or url.startswith("file://")) and split_zip(url) is None


def local_path(url: str) -> Path:
    """Return the path of a local location; SourceError if a file system cannot have a name in it."""
    path = url.removeprefix("file://")
    if len(path) * 4 > _NAME_BYTES:  # a character has at most 4 bytes
        for name in path.split("/"):
            if len(name.encode(errors="surrogateescape")) > _NAME_BYTES:
                raise SourceError(
                    f"{name[:40]}…: the name has {len(name.encode(errors='surrogateescape'))} bytes, but a file system "
                    f"takes at most {_NAME_BYTES}; choose a shorter one."
                )
    return local.with_home(Path(path))


def join(url: str, *parts: str) -> str:
    """Append path components to `url`; a part may itself contain slashes."""
    cleaned = [part.strip("/") for part in parts if part.strip("/")]
    return "/".join([url.rstrip("/"), *cleaned]) if cleaned else url


def join_below(url: str, *parts: str) -> str:
    """Append parts that come from a file or a user; the result is always below `url`.

    Raises:
        SourceError: a part is an absolute path, another URL, or climbs out by `..`.
    """
    for part in parts:
        if (
            "://" in part
            or "\0" in part
            or part.startswith(("/", "\\", "~"))
            or ".." in part.replace("\\", "/").split("/")
        ):
            raise SourceError(f"{url}: {part!r} leads out of it; only names below it are accepted.")
    return join(url, *parts)


def resolve_below(root: str, url: str) -> str:
    """Return a location with its symbolic links resolved.

    Raises:
        FileNotFoundError: nothing is there, or a link leads out of `root`.
    """
    if not is_local(url):
        return url
    path = local_path(url).resolve(strict=True)
    if not path.is_relative_to(local_path(root).resolve()):
        raise FileNotFoundError(url)
    return str(path)


def parent(url: str) -> str | None:
    """Return the location one component up; None at the root of a file system or of a bucket."""
    if is_local(url):
        path = local_path(url).absolute()
        return None if path.parent == path else str(path.parent)
    protocol, separator, path_part = url.rstrip("/").rpartition("://")
    head, slash, _ = path_part.rpartition("/")
    return f"{protocol}{separator}{head}" if slash and head else None


def not_found_message(url: str) -> str:
    """Return the error message for a missing location; behind a URL the server may also be unreachable."""
    if is_local(url):
        return f"{url}: nothing is there; check the path."
    where = _CREDENTIALS if url.startswith("http") else ""
    return f"{url}: nothing is there, or the server does not answer; check the address and the credentials{where}."


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn any error of reading `url` inside the context into a `SourceError` of one sentence."""
    try:
        yield
    except SsemDaskError:
        raise
    except FileNotFoundError as error:
        raise SourceError(not_found_message(url)) from error
    except PermissionError as error:
        raise SourceError(f"{url}: no permission to read it; ask for the right to read, or copy it.") from error
    except OSError as error:
        raise SourceError(f"{url}: cannot be read ({_sentence(error)}); check that it exists and answers.") from error
    except Exception as error:
        if is_local(url):
            raise
        raise SourceError(_unreachable(url, error)) from error


@contextmanager
def writing(url: str) -> Iterator[None]:
    """Turn any error of writing `url` inside the context into an `OutputError` of one sentence."""
    try:
        yield
    except SsemDaskError:
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            message = f"{url}: no space left to write to; free some space or choose another place, then run it again."
        elif error.errno in _NO_RIGHT:
            message = f"{url}: cannot be written (read-only, or no permission); choose a place you may write to."
        elif error.errno in {errno.ENOTDIR, errno.EEXIST}:
            message = f"{url}: cannot be created, a file is in the way ({_sentence(error)}); choose another place."
        else:
            message = f"{url}: cannot be written ({_sentence(error)}); check the place and run it again."
        raise OutputError(message) from error
    except Exception as error:
        if is_local(url):
            raise
        raise OutputError(_unreachable(url, error)) from error


@contextmanager
def as_output_error() -> Iterator[None]:
    """Turn a `SourceError` of inspecting an output into an `OutputError`."""
    try:
        yield
    except SourceError as error:
        raise OutputError(str(error)) from error


def open_store(url: str, *, read_only: bool) -> zarr.abc.store.Store:
    """Open the Zarr store rooted at `url`.

    Raises:
        SourceError: the protocol is not known, or its package is not installed.
    """
    if is_local(url):
        return FencedLocalStore(local_path(url), read_only=read_only)
    zipped = split_zip(url)
    if zipped is not None:
        if not read_only:
            raise OutputError(f"{url}: zip files are only read; choose a folder ending in .zarr.")
        files = asynchronous(zip_file_system(*request_to(zipped[0])))
        return RetryingStore(files, read_only=True, path=zipped[1])
    with known_protocol(url):
        place, options = request_to(url)
        return RetryingStore.from_url(place, storage_options=options, read_only=read_only)


def exists(url: str) -> bool:
    """Return whether there is a file or a folder."""
    if is_local(url):
        return local_path(url).exists()
    files, path = _files(url)
    return bool(retry(lambda: files.exists(path)))


def read_bytes(url: str) -> bytes:
    """Return the whole content of a file; FileNotFoundError if there is none."""
    if is_local(url):
        return local.read_file(local_path(url))
    files, path = _files(url)
    return bytes(retry(lambda: files.cat_file(path)))


def file_size(url: str) -> int | None:
    """Return the bytes of a file; None if there is no file (nothing, or a folder)."""
    try:
        if is_local(url):
            status = local_path(url).stat()
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        files, path_ = _files(url)
        info = retry(lambda: files.info(path_))
    except FileNotFoundError:
        return None
    return int(info["size"]) if info["type"] == "file" else None


def read_range(url: str, *, start: int, stop: int) -> bytes:
    """Return the bytes `start <= i < stop` of a file; FileNotFoundError if there is none."""
    if is_local(url):
        return local.read_file(local_path(url), start=start, length=stop - start)
    files, path = _files(url)
    content = bytes(retry(lambda: files.cat_file(path, start=start, end=stop)))
    # A server without byte ranges sends the whole file.
    return content if len(content) <= stop - start else content[start:stop]


def open_remote(url: str) -> Any:
    """Open a file behind a URL to read it; FileNotFoundError if there is none."""
    files, path = _files(url)
    return files.open(path, "rb")


def write_bytes(url: str, content: bytes) -> None:
    """Write a file atomically, with the folders it needs; replaces an existing file. Asks the `storage.fence`."""
    check_fence()
    if is_local(url):
        local.write_file(local_path(url), content)
    else:
        files, target = _files(url)
        retry(lambda: files.pipe_file(target, content))


def write_json(url: str, value: object) -> None:
    """Write a JSON file as `write_bytes` does."""
    write_bytes(url, json.dumps(value, indent=1).encode())


def create_bytes(url: str, content: bytes) -> bool:
    """Write a file and only if there is none; return False if there is one, in a store with another content.

    Amazon's S3, Google's store and many servers refuse the second of two such requests (a conditional put). A server
    that does not know the condition replaces the file.
    """
    if not is_local(url):
        files, target = _files(url)
        try:
            retry(lambda: files.pipe_file(target, content, mode="create"))
        except OSError:
            # Servers name a broken precondition in several ways. An attempt whose answer was lost may have been ours.
            if not retry(lambda: files.exists(target)):
                raise
            return read_bytes(url) == content
        return True
    return local.create_file(local_path(url), content)


def list_names(url: str) -> list[str]:
    """Return the sorted names directly under `url`; [] if nothing is there."""
    return sorted(list_tags(url))


def list_tags(url: str) -> dict[str, str]:
    """Return the names directly under `url`, each with a tag of its content; empty tags where the store has none."""
    try:
        if is_local(url):
            tags = dict.fromkeys((entry.name for entry in os.scandir(local_path(url))), "")
        else:
            files, path = _files(url)
            listed = retry(lambda: files.ls(path, detail=True))
            tags = {info["name"].rstrip("/").rpartition("/")[2]: _tag(info) for info in listed}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: tag for name, tag in tags.items() if not name.endswith(local.PARTIAL)}


def file_fingerprints(url: str) -> dict[str, str]:
    """Return a fingerprint of each file below `url`, by relative path (empty: `url` is a file).

    It changes with the file's content. It is the store's ETag if there is one, else size and time of the last change.
    {} if listing is not possible.
    """
    if is_local(url):
        root = local_path(url)
        fingerprints = {}
        for name in [""] if root.is_file() else list_files(url):
            with contextlib.suppress(FileNotFoundError):
                status = (root / name).stat()
                fingerprints[name] = f"{status.st_size}-{status.st_mtime_ns}"
        return fingerprints
    files, path = _files(url)
    prefix = path.rstrip("/") + "/"
    try:
        listed = retry(lambda: files.find(path, detail=True))
    except (FileNotFoundError, NotImplementedError):
        return {}
    below = ((f"{name}/", info) for name, info in listed.items())
    return {name[len(prefix) : -1]: _fingerprint(info) for name, info in below if name.startswith(prefix)}


def list_files(url: str) -> list[str]:
    """Return the sorted paths, relative to `url`, of all files below it; [] if nothing is there."""
    if is_local(url):
        root = str(local_path(url))
        names = [os.path.relpath(f"{folder}/{name}", root) for folder, _, files in os.walk(root) for name in files]
    else:
        files, path = _files(url)
        prefix = path.rstrip("/") + "/"
        names = [name[len(prefix) :] for name in retry(lambda: files.find(path)) if name.startswith(prefix)]
    return sorted(name for name in names if not name.endswith(local.PARTIAL))


def is_pattern(url: str) -> bool:
    """Return whether `url` holds a wildcard that is no part of a name that exists."""
    return has_wildcards(local_path(url)) if is_local(url) else any(mark in url for mark in "*?[")


def glob_urls(pattern: str) -> list[str]:
    """Return the sorted URLs that match a glob pattern."""
    if is_local(pattern):
        return matches(local_path(pattern))
    files, path = _files(pattern)
    return sorted(str(files.unstrip_protocol(name)) for name in retry(lambda: files.glob(path)))


def delete(url: str, *, recursive: bool) -> None:
    """Delete a file, or with `recursive` a folder; does nothing if nothing is there. Asks the `storage.fence`."""
    (confirm_fence if recursive else check_fence)()
    if is_local(url):
        path = local_path(url)
        if recursive and path.is_dir() and not path.is_symlink():
            local.remove_folder(path, confirm=confirm_fence)
        else:
            path.unlink(missing_ok=True)
        return
    files, target = _files(url)
    if retry(lambda: files.exists(target)):
        with contextlib.suppress(FileNotFoundError):  # an attempt whose answer was lost may have deleted it
            retry(lambda: files.rm(target, recursive=recursive))


def delete_removed(url: str) -> None:
    """Delete what a killed process had left of the folder that it was to delete."""
    if is_local(url):
        local.delete_removed(local_path(url))


def delete_empty_folder(url: str) -> None:
    """Delete a folder if nothing is in it; stores without folders have none."""
    if is_local(url):
        with contextlib.suppress(OSError):
            local_path(url).rmdir()


def move_or_copy(url: str, *, to: str) -> None:
    """Move a local folder to a place where nothing is; elsewhere copy it, since half a move would lose files."""
    confirm_fence()
    if is_local(url):
        local_path(url).rename(local_path(to))
        return
    files, source = _files(url)
    retry(lambda: files.copy(f"{source}/", f"{_files(to)[1]}/", recursive=True))


def _fingerprint(info: dict[str, Any]) -> str:
    changed = next((info[key] for key in ("mtime", "LastModified", "updated", "created") if key in info), "")
    return _tag(info) or f"{info.get('size')}-{changed}"


def _tag(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("etag") or info.get("md5Hash") or "")


def _files(url: str) -> tuple[Any, str]:
    zipped = split_zip(url)
    if zipped is not None:
        return zip_file_system(*request_to(zipped[0])), zipped[1]
    with known_protocol(url):
        place, options = request_to(url)
        files, path = fsspec.core.url_to_fs(place, **options)
    files.invalidate_cache()
    return tried_once(files), str(path)


def _unreachable(url: str, error: Exception) -> str:
    return (
        f"{url}: cannot be reached ({type(error).__name__}: {_sentence(error)}); "
        f"check the address, the network and the credentials{_CREDENTIALS if url.startswith('http') else ''}."
    )


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text or type(error).__name__
