"""A server between a client and an object store that fails some requests, as the web does."""

from __future__ import annotations

import http.client
import threading
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.serving import serving

__all__ = ["FlakyServer", "flaky_server"]

#: Of a connection, not of a request.
_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive", "date", "server")


class FlakyServer(ThreadingHTTPServer):
    """Passes requests on; every `one_in`-th fails, in one of three ways."""

    daemon_threads = True

    def __init__(self, target: str, one_in: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.one_in = one_in
        self.num_requests = 0
        self.num_failed = 0
        self._lock = threading.Lock()

    def next_failure(self) -> int | None:
        """How the next request fails: 0, 1, 2; None: not at all."""
        with self._lock:
            self.num_requests += 1
            if self.num_requests % self.one_in:
                return None
            self.num_failed += 1
            return self.num_failed % 3


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyServer

    def _pass_on(self) -> None:
        body = self._body()
        failure = self.server.next_failure()
        if failure == 0:  # nothing is done
            return self._answer(503, {}, b"")
        if failure == 1:  # nothing is done, and nothing said
            self.close_connection = True
            return None
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if failure == 2:  # it is done, and the answer is lost
            self.close_connection = True
            return None
        return self._answer(answer.status, dict(answer.getheaders()), content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def flaky_server(target: str, one_in: int) -> AbstractContextManager[FlakyServer]:
    """A server on loopback that passes requests on to `target`, an address with `http://`."""
    return serving(FlakyServer(target, one_in))
