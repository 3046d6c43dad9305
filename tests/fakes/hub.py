"""A Hugging Face Hub on this machine: folders as public models, one gated, all others missing."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40
PART = 2**16  # bytes sent at once


class Hub:
    """models: id -> folder; gated: ids whose files are refused. `url` is for HF_ENDPOINT; as a context it serves."""

    def __init__(self, models: Mapping[str, Path], gated: tuple[str, ...] = (), pause: float = 0.0):
        hub, self.asked = self, []
        self.models, self.gated, self.pause = models, gated, pause

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self, body=True)

            def do_HEAD(self):
                hub.answer(self, body=False)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.partition("?")[0].strip("/")
        self.asked.append(path)
        api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if name not in self.models:
            return self._send(request, 401, b"{}", body, {"X-Error-Code": "RepoNotFound"})
        folder = self.models[name]
        files = sorted(file for file in folder.iterdir() if file.is_file())
        if api and rest[:1] == ["tree"]:
            table = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _digest(f)[:40]} for f in files]
            return self._send(request, 200, json.dumps(table).encode(), body)
        if api:
            told = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f.name} for f in files]}
            return self._send(request, 200, json.dumps(told).encode(), body)
        if name in self.gated:
            return self._send(request, 403, b"{}", body, {"X-Error-Code": "GatedRepo"})
        found = folder / rest[-1]
        if not found.is_file():
            return self._send(request, 404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        headers = {"ETag": f'"{_digest(found)[:40]}"', "X-Repo-Commit": COMMIT}
        return self._send(request, 200, found.read_bytes(), body, headers)

    def _send(self, request, status: int, content: bytes, body: bool, headers: Mapping[str, str] | None = None) -> None:
        request.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        try:
            for start in range(0, len(content) if body else 0, PART):
                request.wfile.write(content[start : start + PART])
                time.sleep(self.pause if len(content) > PART else 0)
        except OSError:  # a download that was given up
            pass


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
