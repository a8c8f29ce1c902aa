"""Serves a site on loopback only, with the standard library's HTTP server.

Other web pages in the same browser cannot reach it: requests whose Host is not a loopback name (DNS
rebinding) or whose Origin is another site (cross-site requests) get 403. Other users of the machine
cannot either: every address begins with the session's secret token.
"""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from altogether_rt.errors import AltogetherError
from altogether_rt.monitoring.text import print_traceback
from altogether_rt.web.site import Response, Site, WebError

__all__ = ["CONTENT_SECURITY_POLICY", "LoopbackServer", "serve_until_stopped"]

#: Only resources of this server may be loaded, run or requested.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_LOOPBACK: Final = "127.0.0.1"
_LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})

#: Seconds after which an idle connection is closed.
_TIMEOUT_S: Final = 30.0


class LoopbackServer(ThreadingHTTPServer):
    """A site on 127.0.0.1. A context manager; `start` serves in a thread of its own."""

    daemon_threads = True  # idle connections do not keep the process alive

    def __init__(self, site: Site, port: int = 0) -> None:
        """Bind to a port; 0 chooses a free one. Raises AltogetherError if it is not available."""
        self.site = site
        try:
            super().__init__((_LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AltogetherError(
                f"port {port} of {_LOOPBACK} cannot be used: {reason}; "
                "choose another with --port, or let 0 find a free one."
            ) from error

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Address of the page, with the token."""
        return f"http://{_LOOPBACK}:{self.port}/{self.site.token}/"

    def start(self) -> None:
        """Serve in a background thread until `shutdown` is called."""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def server_bind(self) -> None:
        """Like the base class, but without a DNS lookup, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = _LOOPBACK, self.port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore broken connections; print the traceback of anything else, which is a bug."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            print_traceback(error)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: LoopbackServer
    protocol_version = "HTTP/1.1"
    server_version = "altogether-rt"
    sys_version = ""
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        # A body would be taken for the next request of this connection.
        self.close_connection |= not {"Content-Length", "Transfer-Encoding"}.isdisjoint(
            self.headers
        )
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        try:
            response = self._response(method)
        except WebError as error:
            # An unread body would be parsed as the next request of this connection.
            self.close_connection |= method == "POST"
            response = Response.json({"error": str(error)}, error.status)
        except OSError as error:
            message = f"{error.strerror or error}: nothing was saved."
            response = Response.json({"error": message}, HTTPStatus.INTERNAL_SERVER_ERROR)
        except Exception as error:
            print_traceback(error)
            message = "Internal error; see the terminal. Nothing was saved."
            response = Response.json({"error": message}, HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send(response)

    def _response(self, method: str) -> Response:
        self._check_sender()
        path = urlsplit(self.path).path if self.path.startswith("/") else ""
        token, _, name = path.removeprefix("/").partition("/")
        site = self.server.site
        if not secrets.compare_digest(token.encode(), site.token.encode()) or path.count("/") < 2:
            raise WebError(404, "Not found: open the whole address that was printed.")
        if method == "GET":
            return site.answer_get(name)
        return site.answer_post(name, self._body(site.max_body_bytes))

    def _check_sender(self) -> None:
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or _host_name(hosts[0]) not in _LOOPBACK_NAMES:
            raise WebError(403, "This server is available as 127.0.0.1 only.")
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            raise WebError(403, "Requests from other sites are refused.")

    def _body(self, max_bytes: int) -> bytes:
        if self.headers.get_content_type() != "application/json":
            raise WebError(415, "The body must be application/json.")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise WebError(411, "The body's length must be given.")
        if len(length) > 12 or int(length) > max_bytes:
            raise WebError(413, f"The body may have {max_bytes:,} bytes.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise WebError(400, "The body ended early.")
        return body

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send errors of the base class (malformed requests) as JSON with our headers."""
        self.close_connection = True
        self.request_version = "HTTP/1.1"  # for HTTP/0.9 the base class would send no headers
        self._send(Response.json({"error": message or "The request cannot be read."}, code))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: addresses contain the token."""


def _host_name(host: str) -> str:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError if it is not a number
    except ValueError:
        return ""
    plain = not (parts.path or parts.query or parts.fragment or parts.username is not None)
    return (parts.hostname or "") if plain else ""


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def serve_until_stopped(server: LoopbackServer) -> None:
    """Serve until Ctrl-C or SIGTERM, then close the server. Both are normal endings."""
    with server, _terminable():
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
