"""Files of web servers: what is known of one, and its content, whatever the server can do.

A server may know no ranges, cut connections, answer HEAD wrongly or not at all. What it says of a
file with the answer that brings the content is believed, and compared with what it said before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from altogether_rt.artifacts.files import FULL_DISK
from altogether_rt.data.shards.storage import changed, etag_of, file_system, pause, retried
from altogether_rt.errors import AltogetherError, reason

__all__ = ["download", "is_web", "web_info"]

_CHUNK_BYTES: Final = 1 << 20
#: A try that brought so much was no failure.
_PROGRESS_BYTES: Final = 1 << 20
_MAX_FAILURES: Final = 6
_CONNECT_S: Final = 30.0
#: Seconds without a byte after which a connection is given up; there is no limit for all of a file.
_SILENCE_S: Final = 60.0
#: Statuses that say: later, perhaps.
_TEMPORARY: Final = frozenset((408, 425, 429, *range(500, 600))) - {501, 505}
_HEADERS: Final = {"Accept-Encoding": "identity"}
#: What identifies a file's content, of an answer's headers; else the time of its last change does.
_IDENTIFYING: Final = ("ETag", "Content-MD5", "Digest")


class _TryLater(OSError):
    """The server did not answer, or says that it cannot now."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


@dataclass
class _Answer:
    """What the headers of an answer with content say."""

    size: int | None  # of the whole file
    start: int  # of the content in the file
    etag: str | None


def is_web(url: str) -> bool:
    """Whether a URL is read by HTTP itself."""
    return url.partition("://")[0].lower() in ("http", "https")


def web_info(url: str) -> dict[str, Any]:
    """What a server says of a file, as fsspec's file systems do: name, size, etag, type.

    The size is None if it does not say. Raises FileNotFoundError, PermissionError, OSError,
    AltogetherError for an answer that trying again does not change.
    """
    fs, _ = file_system(url)
    return retried(lambda: _run(url, fs, _probe, fs, url))


def download(url: str, file: BinaryIO, *, size: int | None, etag: str | None, room: int) -> None:
    """Write the content of a file of the web into `file`, which is empty.

    A connection that breaks is taken up where it broke, or from the start if the server has no
    ranges. size, etag: as it was listed; None: not known. room: bytes that it may have. Raises
    as `web_info` does, and AltogetherError if it is not the file that was listed, or larger.
    """
    fs, _ = file_system(url)
    reading = _Download(url, file, size, etag, room)
    failures = furthest = 0
    while True:
        try:
            _run(url, fs, reading.attempt, fs)
            return
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if error.errno in FULL_DISK:  # of this machine
                raise
            progress = file.tell() - furthest
            furthest = max(furthest, file.tell())
            failures = 0 if progress >= _PROGRESS_BYTES else failures + 1
            if failures == _MAX_FAILURES:
                raise
            pause(failures, error)


class _Download:
    """One file, over as many connections as it takes."""

    def __init__(
        self, url: str, file: BinaryIO, size: int | None, etag: str | None, room: int
    ) -> None:
        self._url = url
        self._file = file
        self._size = size
        self._etag = etag
        self._room = room

    async def attempt(self, fs: Any) -> None:
        at = self._file.tell()
        headers = {"Range": f"bytes={at}-"} if at else {}
        async with await _request(fs, "GET", self._url, headers) as response:
            if response.status == 416 and at:  # nothing is there from here on
                self._check_end(_total(response.headers), at)
                return
            _check(response, self._url)
            answer = _answer(response)
            self._compare(answer)
            if answer.start not in (0, at):
                raise _TryLater(f"byte {answer.start:,} came, {at:,} was asked for")
            self._file.seek(answer.start)
            self._file.truncate()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                self._room_for(self._file.tell() + len(chunk))
                self._file.write(chunk)
        if answer.size is not None and self._file.tell() < answer.size:
            raise _TryLater(f"{self._file.tell():,} of {answer.size:,} bytes came")

    def _compare(self, answer: _Answer) -> None:
        if self._etag and answer.etag and answer.etag != self._etag:
            raise changed(self._url)
        if None not in (self._size, answer.size) and answer.size != self._size:
            raise AltogetherError(
                f"{self._url} was listed with {self._size:,} bytes and comes with "
                f"{answer.size:,}: it changed, or its server does not say the truth; give the same "
                "command again, or download it yourself."
            )
        self._etag = self._etag or answer.etag
        if answer.size is not None:
            self._size = answer.size
            self._room_for(answer.size)

    def _room_for(self, size: int) -> None:
        if size > self._room:
            raise AltogetherError(
                f"{self._url} has more bytes than the spool has room for, {self._room:,}: allow "
                "more with --spool-bytes."
            )

    def _check_end(self, total: int | None, at: int) -> None:
        if total is not None and total < at:
            raise changed(self._url)
        if self._size is not None and at < self._size:
            raise AltogetherError(
                f"{self._url} ends after {at:,} of the {self._size:,} bytes that its server "
                "announces: download it yourself."
            )


async def _probe(fs: Any, url: str) -> dict[str, Any]:
    """HEAD; and where that fails or leaves out the size, a GET of which no content is read."""
    async with await _request(fs, "HEAD", url) as response:
        size = _answer(response).size if response.status < 400 else None
        if response.status in (404, 410) or size:  # some say 0, having no content to send
            _check(response, url)
            return _info(url, size, response)
    async with await _request(fs, "GET", url, {"Range": "bytes=0-0"}) as response:
        size = 0 if response.status == 416 else _answer(response).size
        if response.status != 416:
            _check(response, url)
        found = _info(url, size, response)
        response.close()  # the rest, of a server without ranges, is not wanted
        return found


def _info(url: str, size: int | None, response: Any) -> dict[str, Any]:
    return {"name": url, "size": size, "type": "file", "etag": _identity(response.headers)}


async def _request(fs: Any, method: str, url: str, headers: Mapping[str, str] | None = None) -> Any:
    import aiohttp

    session = await fs.set_session()
    options = dict(fs.kwargs)  # of the request, as the user has configured fsspec
    options["headers"] = {**options.get("headers", {}), **_HEADERS, **(headers or {})}
    options.setdefault("timeout", aiohttp.ClientTimeout(None, None, _SILENCE_S, _CONNECT_S))
    return await session.request(
        method, fs.encode_url(url), allow_redirects=True, auto_decompress=False, **options
    )


def _run(url: str, fs: Any, reading: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a coroutine, in fsspec's own thread. Raises as `web_info` does."""
    import aiohttp
    from fsspec.asyn import sync

    try:
        return sync(fs.loop, reading, *arguments)
    except aiohttp.TooManyRedirects as error:
        raise AltogetherError(
            f"{url} cannot be read: it leads from redirect to redirect."
        ) from error
    except (aiohttp.ClientSSLError, aiohttp.InvalidURL) as error:
        raise AltogetherError(f"{url} cannot be read: {reason(error)}.") from error
    except aiohttp.ClientPayloadError as error:
        raise _TryLater("its server cuts the connection before all of it has come") from error
    except TimeoutError as error:  # aiohttp's own are also ClientErrors
        raise _TryLater("nothing came for too long") from error
    except aiohttp.ClientError as error:
        raise _TryLater(reason(error)) from error


def _check(response: Any, url: str) -> None:
    status = response.status
    if status < 400:
        return
    said = f"{status} {response.reason or ''}".strip()
    if status in (404, 410):
        raise FileNotFoundError(url)
    if status in (401, 403, 407, 451):
        raise PermissionError(said)
    if status in _TEMPORARY:
        wait = response.headers.get("Retry-After", "")
        raise _TryLater(f"its server answers {said}", float(wait) if wait.isdecimal() else 0.0)
    raise AltogetherError(f"{url} cannot be read: its server answers {said}.")


def _answer(response: Any) -> _Answer:
    identity = _identity(response.headers)
    if response.status == 206:
        start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        number = int(start) if start.isdecimal() else -1
        return _Answer(_total(response.headers), number, identity)
    length = response.headers.get("Content-Length", "")
    return _Answer(int(length) if length.isdecimal() else None, 0, identity)


def _identity(headers: Mapping[str, str]) -> str | None:
    """It leaves the size out, which not every answer has, and which is compared by itself."""
    known = {name: headers[name] for name in _IDENTIFYING if name in headers}
    return etag_of(known) or headers.get("Last-Modified")


def _total(headers: Mapping[str, str]) -> int | None:
    """The size of the file, of `Content-Range: bytes 0-9/200` or `bytes */200`."""
    total = headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdecimal() else None
