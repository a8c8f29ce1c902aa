"""A dataset on a Hugging Face hub on this machine, as huggingface_hub's file system asks for it.

Its answers are those that huggingface_hub 2.4 parses: of a repository, of a folder's tree, of
single paths, and of files by ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.serving import serving

__all__ = ["DatasetHub", "dataset_hub"]

DATASET = "owner/scenes"
_COMMIT = {"id": "c0ffee" + "0" * 34, "title": "Add", "date": "2026-11-27T06:00:00.000Z"}


class DatasetHub(ThreadingHTTPServer):
    """files: by path in the dataset. token: without which nobody sees it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.token: str | None = None
        self.asked: Counter[str] = Counter()  # kinds of requests

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def facts(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        facts = {"type": "file", "oid": blob, "size": len(data), "path": path}
        return facts | {"lastCommit": _COMMIT}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DatasetHub

    def do_HEAD(self) -> None:
        self._serve(b"")

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers["Content-Length"] or 0)))

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _serve(self, body: bytes) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        if hub.token is not None and self.headers["Authorization"] != f"Bearer {hub.token}":
            self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
        elif re.fullmatch(rf"/api/datasets/{DATASET}(/revision/main)?", path):
            hub.asked["repository"] += 1
            self._json({"id": DATASET, "sha": _COMMIT["id"], "tags": [], "siblings": []})
        elif found := re.fullmatch(rf"/api/datasets/{DATASET}/tree/main/?(.*)", path):
            hub.asked["tree"] += 1
            self._tree(found[1])
        elif path == f"/api/datasets/{DATASET}/paths-info/main":
            hub.asked["paths"] += 1
            wanted = _paths(body, self.headers["Content-Type"])
            self._json([hub.facts(name) for name in wanted if name in hub.files])
        elif found := re.fullmatch(rf"/datasets/{DATASET}/resolve/main/(.+)", path):
            hub.asked["content"] += 1
            self._content(found[1])
        else:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})

    def _tree(self, folder: str) -> None:
        names = [n for n in self.server.files if n.startswith(f"{folder}/" if folder else "")]
        if not names:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        depth = folder.count("/") + 1 if folder else 0
        query = parse_qs(urlsplit(self.path).query)
        recursive = query.get("recursive", ["False"])[0].lower() == "true"
        direct = [n for n in names if n.count("/") == depth]
        folders = {"/".join(n.split("/")[: depth + 1]) for n in names if n.count("/") > depth}
        entries = [self.server.facts(n) for n in sorted(names if recursive else direct)]
        entries += [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": n, "lastCommit": _COMMIT}
            for n in sorted(folders)
        ]
        self._json(entries)

    def _content(self, name: str) -> None:
        data = self.server.files.get(name)
        if data is None:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        stop = min(len(data), int(found[2]) + 1) if found and found[2] else len(data)
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("X-Repo-Commit", str(_COMMIT["id"]))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[start:stop])

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _paths(body: bytes, kind: str) -> list[str]:
    if kind.startswith("application/json"):
        paths = json.loads(body)["paths"]
        return [paths] if isinstance(paths, str) else list(paths)
    return parse_qs(body.decode()).get("paths", [])


def dataset_hub() -> AbstractContextManager[DatasetHub]:
    """A hub on loopback whose dataset `DATASET` is empty."""
    return serving(DatasetHub())
