"""A hub on this machine: what a download asks of one, over real HTTP, with faults on demand.

It answers as the public hub does (its answers were looked at through huggingface_hub 2.4).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "LocalHub", "Repository"]

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repository:
    """A model on the hub, and what goes wrong with it."""

    files: dict[str, bytes]
    commit: str = COMMIT
    licence: str = "apache-2.0"
    gated: int | None = None  # the status that is answered instead
    ill: int | None = None  # the status of a server that is broken
    revisions: tuple[str, ...] = ("main",)
    listed_as: dict[str, dict[str, Any]] = field(default_factory=dict)  # other facts of a file
    served_as: dict[str, bytes] = field(default_factory=dict)  # another content of a file
    cut_after: dict[str, list[int]] = field(default_factory=dict)  # bytes, an attempt each
    stalls: dict[str, int] = field(default_factory=dict)  # bytes, after which nothing comes
    ranges: bool = True
    token: str | None = None  # without which nobody sees it
    elsewhere: bool = False  # files are served by another address

    @classmethod
    def of(cls, folder: Path, **values: Any) -> Self:
        """The files of a folder."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        return cls(files, **values)

    def listing(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        blob, sha256 = _hashes(data)
        facts: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
        if name.endswith((".safetensors", ".bin", ".onnx")) or len(data) > 1 << 20:
            facts["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 134}
        return facts | self.listed_as.get(name, {})


@lru_cache(maxsize=32)
def _hashes(data: bytes) -> tuple[str, str]:
    """git's and SHA-256: of a gigabyte too slow to be computed for each answer."""
    digest = hashlib.sha1(b"blob %d\0" % len(data))
    digest.update(data)
    return digest.hexdigest(), hashlib.sha256(data).hexdigest()


class LocalHub:
    """A server in a thread; a context manager. requests: method and path of all that came."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.stalled = threading.Event()
        self.token: str | None = None  # that publishing needs
        self.uploads: dict[str, bytes] = {}
        self.visibility: dict[str, str] = {}
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def downloads(self, name: str) -> int:
        """How many times a file was asked for."""
        return sum(method == "GET" and path.endswith(f"/{name}") for method, path in self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        if found is not None:
            self._answer(found[1], found[2] or "main", None)
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/(resolve|elsewhere)/([^/]+)/(.+)", path)
        if found is not None:
            repository = self.hub.repositories.get(found[1])
            if found[2] == "resolve" and repository is not None and repository.elsewhere:
                self.send_response(302)
                self.send_header("Location", path.replace("/resolve/", "/elsewhere/"))
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._answer(found[1], found[3], found[4])
            return
        self._fail(404, "EntryNotFound")

    def _take(self) -> None:
        """What publishing asks for: a repository, where files go, the files, a commit of them."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.command == "POST" and self.hub.token and not self._knows(self.hub.token):
            self._fail(401, "")
        elif self.command == "PUT":
            self.hub.uploads[path.rpartition("/")[2]] = body
            self._json({})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            hub_id = f"{asked['organization']}/{asked['name']}"
            former = "private" if asked.get("private") else "public"  # clients before 2.0
            self.hub.visibility[hub_id] = asked.get("visibility", former)
            self.hub.repositories.setdefault(hub_id, Repository({}))
            self._json({"url": f"{self.hub.url}/{hub_id}"})
        elif path == "/api/validate-yaml":
            self._json({"warnings": [], "errors": []})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "shouldIgnore": False, "uploadMode": self._mode(file)}
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **file,
                    "actions": {"upload": {"href": f"{self.hub.url}/upload/{file['oid']}"}},
                }
                for file in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            self._commit(path.split("/")[3:5], body)
        else:
            self._fail(404, "")

    @staticmethod
    def _mode(file: dict[str, Any]) -> str:
        large = file["size"] > 10_000 or not file["path"].endswith((".json", ".md"))
        return "lfs" if large else "regular"

    def _commit(self, parts: list[str], body: bytes) -> None:
        repository = self.hub.repositories["/".join(parts)]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.uploads[value["oid"]]
        self._json(
            {
                "success": True,
                "commitOid": repository.commit,
                "commitUrl": f"{self.hub.url}/{'/'.join(parts)}/commit/{repository.commit}",
            }
        )

    def _knows(self, token: str) -> bool:
        return self.headers.get("Authorization") == f"Bearer {token}"

    def _answer(self, hub_id: str, revision: str, file: str | None) -> None:
        repository = self.hub.repositories.get(hub_id)
        if repository is None or (
            repository.token is not None and not self._knows(repository.token)
        ):
            self._fail(401, "RepoNotFound")
        elif repository.ill is not None:
            self._fail(repository.ill, "")
        elif repository.gated is not None:
            self._fail(repository.gated, "GatedRepo")
        elif revision not in (*repository.revisions, repository.commit):
            self._fail(404, "RevisionNotFound")
        elif file is None:
            self._info(hub_id, repository)
        elif file not in repository.files:
            self._fail(404, "EntryNotFound")
        else:
            self._file(repository, file)

    def _info(self, hub_id: str, repository: Repository) -> None:
        names = {*repository.files, *repository.listed_as}
        siblings = [
            repository.listing(name) if name in repository.files else repository.listed_as[name]
            for name in sorted(names)
        ]
        self._json(
            {
                "id": hub_id,
                "sha": repository.commit,
                "tags": [f"license:{repository.licence}"],
                "siblings": siblings,
            }
        )

    def _file(self, repository: Repository, name: str) -> None:
        data = repository.served_as.get(name, repository.files[name])
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked is not None:
            self.hub.ranges.append(f"{name} {asked[1]}")
            start = int(asked[1]) if repository.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = repository.cut_after.get(name)
        if cuts:
            self.wfile.write(data[start : start + cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True  # in the middle of the promised length
            return
        stalls = repository.stalls.get(name)
        if stalls is not None:
            self.wfile.write(data[start : start + stalls])
            self.wfile.flush()
            self.hub.stalled.set()
            self.rfile.read(1)  # returns when the other side has gone
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def _json(self, data: Any, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
