"""A web server on this machine that does what web servers do to files: each path in its own way."""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.serving import serving

__all__ = ["Page", "WebServer", "web_server"]

#: Seconds, said with each status that an answer begins with.
RETRY_AFTER = "0"


@dataclass
class Page:
    """A file, and how it is served."""

    data: bytes
    ranges: bool = True  # or `Range` is passed over
    head: int | None = None  # status of HEAD, where it is another one
    length: int | None = 0  # added to Content-Length; None: sent in chunks, without a length
    etag: bool = True
    modified: bool = False  # whether Last-Modified is sent
    encoding: str | None = None  # Content-Encoding, of data that are so encoded
    moved_to: str | None = None
    cuts: list[int] = field(default_factory=list)  # bytes after which an answer is cut, in turn
    statuses: list[int] = field(default_factory=list)  # of GET, before the file is served
    gone_after: int | None = None  # requests of any kind, after which it is not there
    seconds_a_block: float = 0.0
    kind: str = "application/x-tar"


class WebServer(ThreadingHTTPServer):
    """pages: by path. asked: how often each path was asked for its content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.requests: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()  # bytes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        page = self.server.pages.get(path)
        self.server.requests[path] += 1
        if self.command == "GET":
            self.server.asked[path] += 1
        late = page is not None and page.gone_after is not None
        if page is None or (late and self.server.requests[path] > (page.gone_after or 0)):
            self._short(404)
        elif page.moved_to is not None:
            self._short(302, {"Location": page.moved_to})
        elif self.command == "HEAD" and page.head is not None:
            self._short(page.head)
        elif self.command == "GET" and page.statuses:
            self._short(page.statuses.pop(0), {"Retry-After": RETRY_AFTER})
        else:
            self._file(path, page)

    def _file(self, path: str, page: Page) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, len(page.data)
        if asked is not None and page.ranges:
            start = int(asked[1])
            stop = min(stop, int(asked[2]) + 1) if asked[2] else stop
            if start >= len(page.data):
                self._short(416, {"Content-Range": f"bytes */{len(page.data)}"})
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(page.data)}")
        else:
            self.send_response(200)
        if page.length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(stop - start + page.length))
        if page.etag:
            self.send_header("ETag", f'"{hashlib.md5(page.data).hexdigest()}"')
        if page.modified:
            self.send_header("Last-Modified", "Fri, 27 Nov 2026 06:49:06 GMT")
        if page.encoding is not None:
            self.send_header("Content-Encoding", page.encoding)
        self.send_header("Content-Type", page.kind)
        self.end_headers()
        if self.command == "GET":
            self._send(path, page, page.data[start:stop])

    def _send(self, path: str, page: Page, data: bytes) -> None:
        whole = len(data)
        if page.cuts:
            data = data[: page.cuts.pop(0)]
        for at in range(0, len(data), 1 << 16):
            block = data[at : at + (1 << 16)]
            if page.length is None:
                block = b"%x\r\n%s\r\n" % (len(block), block)
            self.wfile.write(block)
            self.server.sent[path] += len(block)
            time.sleep(page.seconds_a_block)
        if len(data) < whole or (page.length or 0) > 0:
            self.close_connection = True  # in the middle of what was promised
        elif page.length is None:
            self.wfile.write(b"0\r\n\r\n")

    def _short(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def web_server() -> AbstractContextManager[WebServer]:
    """A web server on loopback, without pages."""
    return serving(WebServer())
