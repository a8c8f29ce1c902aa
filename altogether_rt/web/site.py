"""A site: files, JSON endpoints and items such as images, each registered under a fixed name.

It is independent of sockets; `LoopbackServer` serves it. Names in requests are never used as paths.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import resources
from typing import Any, Final

from altogether_rt.errors import AltogetherError

__all__ = ["Json", "Response", "Site", "WebError"]

#: Anything that `json.dumps` takes.
Json = Any

#: Default limit of a request body in bytes.
MAX_BODY_BYTES: Final = 64 * 1024

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

_CONTENT_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class WebError(Exception):
    """Refuses a request with an HTTP status and a sentence that the page can show."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    body: bytes
    content_type: str
    status: int = HTTPStatus.OK

    @classmethod
    def json(cls, value: Json, status: int = HTTPStatus.OK) -> Response:
        body = json.dumps(value, allow_nan=False).encode("ascii")
        return cls(body, "application/json", status)


@dataclass
class Site:
    """The routes of one session, all below `/<token>/`, which is secret.

    Handlers are called from several threads. A handler refuses a request by raising WebError; an
    AltogetherError is sent as 409 with its sentence.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    max_body_bytes: int = MAX_BODY_BYTES
    _files: dict[str, Response] = field(default_factory=dict)
    _gets: dict[str, Callable[[], Json]] = field(default_factory=dict)
    _items: dict[str, Callable[[str], Json | Response]] = field(default_factory=dict)
    _posts: dict[str, Callable[[Mapping[str, Any]], Json]] = field(default_factory=dict)

    def file(self, name: str, package: str, resource: str | None = None) -> None:
        """`GET name` sends a file of package data; the name "" is the page itself."""
        resource = resource or name
        data = resources.files(package).joinpath(resource).read_bytes()
        self._files[name] = Response(data, _CONTENT_TYPES[resource.rpartition(".")[2]])

    def get(self, name: str, handler: Callable[[], Json]) -> None:
        """`GET name` sends the handler's value as JSON."""
        self._gets[name] = handler

    def get_item(self, name: str, handler: Callable[[str], Json | Response]) -> None:
        """`GET name/KEY` calls the handler with KEY: letters, digits, "_" and "-", 64 at most."""
        self._items[name] = handler

    def post(self, name: str, handler: Callable[[Mapping[str, Any]], Json]) -> None:
        """`POST name` calls the handler with the body, a JSON object."""
        self._posts[name] = handler

    def answer_get(self, name: str) -> Response:
        """The response to `GET name`. Raises WebError."""
        if name in self._files:
            return self._files[name]
        if name in self._gets:
            return _respond(self._gets[name])
        folder, _, key = name.rpartition("/")
        if folder in self._items and _KEY.fullmatch(key):
            handler = self._items[folder]
            return _respond(lambda: handler(key))
        raise WebError(405 if name in self._posts else 404, "Not found.")

    def answer_post(self, name: str, body: bytes) -> Response:
        """The response to `POST name` with a body that must be a JSON object. Raises WebError."""
        handler = self._posts.get(name)
        if handler is None:
            raise WebError(405 if name in self._files or name in self._gets else 404, "Not found.")
        try:
            value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise WebError(400, "The body must be a JSON object in UTF-8.")
        return _respond(lambda: handler(value))


def _respond(handler: Callable[[], Json | Response]) -> Response:
    try:
        value = handler()
    except AltogetherError as error:
        raise WebError(409, str(error)) from error
    return value if isinstance(value, Response) else Response.json(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
