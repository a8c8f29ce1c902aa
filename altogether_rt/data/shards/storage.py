"""Files on a disk or an object store, by path or by a URL that fsspec knows."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any, Final, TypeVar

from altogether_rt.errors import AltogetherError, MissingDependencyError

__all__ = [
    "changed",
    "etag_of",
    "etags_of",
    "file_system",
    "is_refusal",
    "is_same_file",
    "is_url",
    "local_path",
    "pause",
    "read_small",
    "retried",
    "storage_errors",
]

T = TypeVar("T")

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
#: Protocol → (package that fsspec needs for it, the extra that brings it).
_PACKAGES: Final = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "gcs": ("gcsfs", "gs"),
    "hf": ("huggingface_hub", "hf"),
    "http": ("aiohttp", "shards"),
    "https": ("aiohttp", "shards"),
}
#: Facts of a file that follow from its content. Google's etag changes with an object's labels too,
#: so its hashes come first; the Hub's blob_id is git's hash.
_IDENTITIES: Final = (
    *("md5Hash", "crc32c", "ETag", "etag", "oid", "blob_id", "Content-MD5", "Digest"),
)
_TIMES: Final = (
    *("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created"),
)
#: They write tracebacks to stderr of requests that are then tried again.
_TALKATIVE: Final = ("gcsfs", "s3fs", "fsspec", "asyncio", "aiobotocore")
#: What trying again does not change.
_FINAL: Final = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError),
    AltogetherError,
)
_NUM_TRIES: Final = 8
#: Where the store's own client tries again for long, fewer tries of ours are enough.
_MIN_TRIES: Final = 3
_PATIENCE_S: Final = 60.0
_FIRST_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 20.0
_MAX_RETRY_AFTER_S: Final = 120.0
#: Words of stores for "you may not", in errors that are no PermissionError.
_REFUSALS: Final = ("Forbidden", "Unauthorized", "Access Denied", "Invalid Credentials")


def is_url(text: str) -> bool:
    """Whether a file is named by a URL that fsspec opens; `file://` and paths are local."""
    return _URL.match(text) is not None and local_path(text) is None


def local_path(text: str) -> str | None:
    """The path that a path or a `file://` URL names; None for other URLs."""
    if not _URL.match(text):
        return text
    protocol, _, rest = text.partition("://")
    return rest if protocol.lower() in ("file", "local") else None


def is_same_file(target: str, url: str) -> bool:
    """Whether writing `target` by a rename would replace the file that `url` names.

    Links are followed to what is read, and on the way to the folder that is written to. Raises as
    `file_system` does.
    """
    written, read = local_path(target), local_path(url)
    if written is not None and read is not None:
        return _entry(written) in (_entry(read), os.path.realpath(read))
    if written is not None or read is not None:
        return False
    (there, written), (here, read) = file_system(target), file_system(url)
    return type(there) is type(here) and written == read


def _entry(path: str) -> str:
    """A path whose folder is the real one; the file itself may be a link."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises AltogetherError if there is none for it, MissingDependencyError without the package.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingDependencyError("fsspec", "shards", f"reading {url}") from error
    protocol = url.partition("://")[0].lower()
    for name in _TALKATIVE:
        _silence(logging.getLogger(name))
    try:
        found: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        package, extra = _PACKAGES.get(protocol, (str(error), "shards"))
        raise MissingDependencyError(package, extra, f"reading {url}") from error
    except ValueError as error:
        raise AltogetherError(f"{url} cannot be read: {_reason(error)}.") from error
    return found


def _silence(logger: logging.Logger) -> None:
    """Keep a logger from Python's last resort, stderr; handlers that somebody has set stay."""
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what a store or the system raises into an AltogetherError that names the URL."""
    try:
        yield
    except AltogetherError:
        raise
    except FileNotFoundError as error:
        private = ", or it is private: hf auth login" if url.startswith("hf://") else ""
        raise AltogetherError(f"there is no {url}{private}.") from error
    except Exception as error:  # each store raises classes of its own
        if is_refusal(error):
            raise AltogetherError(
                f"{url} may not be read ({_reason(error)}): check the credentials or its "
                "permissions."
            ) from error
        raise AltogetherError(f"{url} cannot be read: {_reason(error)}.") from error


def is_refusal(error: BaseException) -> bool:
    """Whether a store says that these credentials may not do this, so that trying again is vain."""
    if isinstance(error, PermissionError):
        return True
    status = getattr(error, "code", None) or getattr(
        getattr(error, "response", None), "status_code", None
    )
    if status is not None:
        return str(status) in ("401", "403")
    return isinstance(error, OSError) and str(error).startswith(_REFUSALS)


def retried(call: Callable[[], T]) -> T:
    """The result of `call`, which is tried again, after ever longer pauses, when it fails.

    A missing file or permission is final. Raises what the last try raised.
    """
    began = monotonic()
    for number in range(1, _NUM_TRIES + 1):
        try:
            return call()
        except _FINAL:
            raise
        except Exception as error:
            late = number >= _MIN_TRIES and monotonic() - began > _PATIENCE_S
            if is_refusal(error) or late or number == _NUM_TRIES:
                raise
            pause(number, error)
    raise AssertionError


def pause(num_failures: int, error: BaseException) -> None:
    """Wait after the so manieth failure in a row, at least as long as the server asked for."""
    longest = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** (num_failures - 1))
    asked = min(_MAX_RETRY_AFTER_S, getattr(error, "retry_after", 0.0))
    # At random, so that many workers do not come back all at once.
    sleep(max(asked, longest * random.uniform(0.5, 1.0)))


def changed(url: str) -> AltogetherError:
    """The error for a file that is not the one that was listed."""
    return AltogetherError(f"{url} changed after it was listed: give the same command again.")


def etag_of(info: Mapping[str, Any]) -> str | None:
    """What changes with a file's content, of fsspec's information about it, or of HTTP headers."""
    return next(etags_of(info), None)


def etags_of(info: Mapping[str, Any]) -> Iterator[str]:
    """All that `etag_of` may have chosen, its choice first: a store says less of a file in a list
    of many than of one."""
    for key in _IDENTITIES:
        if info.get(key):
            yield str(info[key]).removeprefix("W/").strip('"')
    for key in _TIMES:
        if info.get(key):
            yield f"{info.get('size')}-{_moment(info[key])}"


def _moment(value: object) -> str:
    """A time, which one answer of a store may have as an object, another as a text or in seconds
    since 1970."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    elif isinstance(value, int | float):
        value = datetime.fromtimestamp(value, UTC)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def read_small(url: str, max_bytes: int) -> bytes | None:
    """The content of a small file; None if there is none. Raises AltogetherError otherwise."""
    path = local_path(url)
    with storage_errors(url):
        try:
            if path is not None:
                if not os.path.isfile(path):
                    return None
                with open(path, "rb") as file:
                    return file.read(max_bytes)
            fs, inner = file_system(url)
            data: bytes = retried(lambda: fs.cat_file(inner, start=0, end=max_bytes))
            return data
        except FileNotFoundError:
            return None


def _reason(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())[:200].rstrip(".")
