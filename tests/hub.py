"""A Hugging Face hub on this machine: a real HTTP server with the few routes by which its client fetches things."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXTRAS = {"README.md": b"# A model", "pytorch_model.bin": b"never asked for"}


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories of one commit.

    Attributes:
        asked: paths of all requests for files' contents.
        cuts: how many answers of large files will still break in the middle.
    """

    def __init__(self, repositories: Mapping[str, Path], licence: str = "apache-2.0") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {
            name: {path.name: path.read_bytes() for path in folder.iterdir()} | EXTRAS
            for name, folder in repositories.items()
        }
        self.licence = licence
        self.asked: list[str] = []
        self.cuts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, files in self.server.repositories.items():
            if path.startswith(f"/api/models/{name}/tree/"):
                self._send(json.dumps([entry(*file) for file in files.items()]).encode())
                return
            if path.rstrip("/") in (
                f"/api/models/{name}",
                *(f"/api/models/{name}/revision/{r}" for r in ("main", COMMIT)),
            ):
                self._send(json.dumps(info(name, files, self.server.licence)).encode())
                return
            prefix = f"/{name}/resolve/{COMMIT}/"
            if path.startswith(prefix) and (file := path.removeprefix(prefix)) in files:
                self._send_file(path, files[file])
                return
        self._send(b"{}", status=404, extra={"X-Error-Code": "RepoNotFound"})

    def _send_file(self, path: str, content: bytes) -> None:
        etag = hashlib.sha256(content).hexdigest()
        extra = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if first:
            extra["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            self.server.asked.append(path)
        self._send(content[first:], status=206 if first else 200, extra=extra)

    def _send(self, body: bytes, status: int = 200, extra: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cuts and len(body) > 100_000:
            self.server.cuts -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)


def info(name: str, files: Mapping[str, bytes], licence: str) -> dict[str, Any]:
    siblings = [{"rfilename": file, "size": len(content), "blobId": "0" * 40} for file, content in files.items()]
    return {
        "_id": "0" * 24,
        "id": name,
        "modelId": name,
        "sha": COMMIT,
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
        "cardData": {"license": licence},
    }


def entry(file: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324


@contextmanager
def running_hub(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    """The hub, while the block lasts."""
    with Hub(repositories) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
