"""A hub on this machine: what huggingface_hub asks to make a model, to send files, and to fetch them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

COMMIT = "c0ffee" + 34 * "0"


class Hub:
    """files: path -> bytes, of the models by their names. private: whether each was made so."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.endpoint = ""
        self.refuses = False


def _answers(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, body: Any, status: int = 200, **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_POST(self) -> None:  # noqa: N802
            path = urlsplit(self.path).path
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.refuses:
                return self.answer({"error": "no such owner"}, 403, X_Error_Message="no such owner")
            if path == "/api/repos/create":
                asked = json.loads(sent)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                hub.files.setdefault(name, {})
                hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
                return self.answer({"url": f"{hub.endpoint}/{name}", "name": name})
            if path == "/api/validate-yaml":  # of the card
                return self.answer({"errors": [], "warnings": []})
            name = "/".join(path.split("/")[3:5])
            if "/preupload/" in path:
                listed = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                          for one in json.loads(sent)["files"]]  # fmt: skip
                return self.answer({"files": listed})
            for line in map(json.loads, sent.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del hub.files[name][value["path"]]
            self.answer({"commitUrl": f"{hub.endpoint}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

        def do_GET(self) -> None:  # noqa: N802
            parts = urlsplit(self.path).path.strip("/").split("/")
            name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            files = hub.files.get(name)
            if files is None:
                return self.answer({"error": "none"}, 404, X_Error_Code="RepoNotFound")
            if parts[0] == "api" and "tree" in parts:
                oids = {path: hashlib.sha1(data).hexdigest() for path, data in files.items()}
                return self.answer(
                    [{"type": "file", "path": path, "size": len(data), "oid": oids[path]}
                     for path, data in files.items()]
                )  # fmt: skip
            if parts[0] == "api":
                return self.answer(
                    {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files],
                     "private": hub.private[name], "tags": [], "downloads": 0, "likes": 0}
                )  # fmt: skip
            data = files["/".join(parts[4:])]
            self.answer(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET  # noqa: N815

    return Answers


@contextmanager
def hub_here() -> Iterator[Hub]:
    """A hub that answers while the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answers(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
