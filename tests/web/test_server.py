"""The loopback server: who is answered, with what, and what is refused."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.errors import AltogetherError
from altogether_rt.web.images import ImageFile, ImageTable
from altogether_rt.web.server import LoopbackServer
from altogether_rt.web.site import Site, WebError

pytestmark = pytest.mark.lean

JSON = {"Content-Type": "application/json"}


def echo(body: Mapping[str, Any]) -> Any:
    if body.get("refuse"):
        raise AltogetherError("not this one.")
    if body.get("forbid"):
        raise WebError(403, "not for you")
    if body.get("break"):
        raise ZeroDivisionError
    return {"got": dict(body)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
    Image.new("RGB", (3, 2), "red").save(tmp_path / "b.tiff")
    images = {
        "0": ImageFile("a.png", tmp_path / "a.png", sha256_of(tmp_path / "a.png")),
        "1": ImageFile("b.tiff", tmp_path / "b.tiff"),
        "2": ImageFile("gone.png", tmp_path / "gone.png"),
    }
    site = Site(max_body_bytes=1000)
    site.file("client.js", "altogether_rt.web.assets")
    site.get("state", lambda: {"open": 3})
    site.get_item("image", ImageTable(images).response)
    site.post("echo", echo)
    with LoopbackServer(site) as running:
        running.start()
        yield running
        running.shutdown()


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ask(
    server: LoopbackServer,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of `path`, which is below the token unless it begins with "/"."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    whole = path if path.startswith("/") else f"/{server.site.token}/{path}"
    method = "GET" if body is None else "POST"
    connection.request(method, whole, body, dict(headers or (JSON if body is not None else {})))
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, dict(response.getheaders()), data


def test_files_values_items_and_posts_are_answered(server: LoopbackServer) -> None:
    status, headers, body = ask(server, "client.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert b"window.client" in body
    assert json.loads(ask(server, "state")[2]) == {"open": 3}
    assert json.loads(ask(server, "echo", b'{"a": "\xc3\xa9"}')[2]) == {"got": {"a": "é"}}


def test_every_response_forbids_what_is_not_its_own(server: LoopbackServer) -> None:
    for path in ("client.js", "state", "nothing", "/"):
        headers = ask(server, path)[1]
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "http" not in policy and "*" not in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"].strip() == "altogether-rt"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST:9", 200),  # a tunnel's port
        ("[::1]:{port}", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:{port}", 403),
        ("localhost@evil.example", 403),
        ("localhost/", 403),
        ("localhost:x", 403),
        ("", 403),
    ],
)
def test_foreign_hosts_are_refused(server: LoopbackServer, host: str, status: int) -> None:
    assert ask(server, "state", headers={"Host": host.format(port=server.port)})[0] == status
    sent = {"Host": host.format(port=server.port), **JSON}
    assert ask(server, "echo", b"{}", sent)[0] == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("http://localhost:{port}", 403),  # not the name that was asked for
        ("http://127.0.0.1:1", 403),  # another server of this machine
        ("https://127.0.0.1:{port}", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ],
)
def test_foreign_origins_are_refused(server: LoopbackServer, origin: str, status: int) -> None:
    sent = {"Origin": origin.format(port=server.port), **JSON}
    assert ask(server, "state", headers=sent)[0] == status
    assert ask(server, "echo", b"{}", sent)[0] == status


def test_two_hosts_are_refused(server: LoopbackServer) -> None:
    request = f"GET /{server.site.token}/state HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(request.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 403 ")


def test_nothing_is_reached_without_the_token(server: LoopbackServer) -> None:
    for path in (
        "/",
        "/state",
        f"/{server.site.token}",
        "/x/state",
        f"/{server.site.token}x/state",
    ):
        assert ask(server, path)[0] == 404
    assert ask(server, "/echo", b"{}")[0] == 404
    assert Site().token != Site().token
    assert len(Site().token) >= 24


@pytest.mark.parametrize(
    "path", ["image/../../a.png", "image/a.png", "image/3", "image/", "image/%30", "../x"]
)
def test_what_is_not_in_the_table_is_not_served(server: LoopbackServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"[1]", JSON, 400),
        (b'{"a": NaN}', JSON, 400),
        (b'{"a": "\xff"}', JSON, 400),
        (b"[" * 900, JSON, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),  # what a form of another site can send
        (b'{"a": "' + b"x" * 1000 + b'"}', JSON, 413),
        (b"{}", {**JSON, "Content-Length": "-1"}, 411),
        (b"{}", {**JSON, "Content-Length": "9" * 30}, 413),
        (b'{"refuse": 1}', JSON, 409),
        (b'{"forbid": 1}', JSON, 403),
    ],
)
def test_bad_bodies_are_refused(
    server: LoopbackServer, body: bytes, headers: Mapping[str, str], status: int
) -> None:
    found, _, answer = ask(server, "echo", body, headers)
    assert found == status
    assert json.loads(answer)["error"].endswith((".", "you"))


def test_a_bug_is_answered_and_printed(
    server: LoopbackServer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(server, "echo", b'{"break": 1}')[0] == 500
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert ask(server, "state")[0] == 200


def test_wrong_methods_and_requests_are_refused(server: LoopbackServer) -> None:
    assert ask(server, "echo")[0] == 405
    assert ask(server, "state", b"{}")[0] == 405
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 501 ")
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert b"400" in connection.recv(4096)


def test_a_body_of_a_get_is_not_the_next_request(server: LoopbackServer) -> None:
    inner = f"GET /{server.site.token}/state HTTP/1.1\r\nHost: localhost\r\n\r\n"
    outer = f"GET /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(inner)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall((outer + inner).encode())
        with connection.makefile("rb") as answers:
            assert answers.read().count(b"HTTP/1.1 ") == 1


def test_images_are_served_as_browsers_can_show_them(
    server: LoopbackServer, tmp_path: Path
) -> None:
    status, headers, body = ask(server, "image/0")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert body == (tmp_path / "a.png").read_bytes()
    assert ask(server, "image/1")[1]["Content-Type"] == "image/png"
    assert ask(server, "image/1")[2].startswith(b"\x89PNG")


def test_a_changed_image_is_refused_by_name(server: LoopbackServer, tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "blue").save(tmp_path / "a.png")
    status, _, body = ask(server, "image/0")
    assert status == 409
    assert "a.png has changed" in json.loads(body)["error"]
    status, _, body = ask(server, "image/2")
    assert status == 409
    assert "gone.png" in json.loads(body)["error"]


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(AltogetherError, match=r"a\.png cannot be read"):
        ImageTable({"0": ImageFile("a.png", tmp_path / "a.png")}).response("0")


def test_a_taken_port_is_explained(server: LoopbackServer) -> None:
    for port in (server.port, 70000):
        with pytest.raises(AltogetherError, match="choose another with --port"):
            LoopbackServer(Site(), port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly(number: int) -> None:
    code = """
from altogether_rt.web.server import LoopbackServer, serve_until_stopped
from altogether_rt.web.site import Site
class Server(LoopbackServer):
    def serve_forever(self, *arguments):
        print(self.url, flush=True)  # from here on, it hears signals
        super().serve_forever(*arguments)
serve_until_stopped(Server(Site()))
print("stopped")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline()
    port = int(url.split(":")[2].split("/")[0])
    idle = socket.create_connection(("127.0.0.1", port), 10)  # keeps a thread waiting
    with socket.create_connection(("127.0.0.1", port), 10) as other:  # accepted after that one
        other.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert other.recv(5) == b"HTTP/"
    process.send_signal(number)
    out, error = process.communicate(timeout=20)
    idle.close()
    assert (process.returncode, out, error) == (0, "stopped\n", "")
