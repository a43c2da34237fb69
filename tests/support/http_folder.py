"""A folder behind a real HTTP server on loopback that fails as it is told."""

from __future__ import annotations

import base64
import socket
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import urlsplit


class HttpFolder:
    """Serves `root`. `faults[name]` lists what happens to the next requests for a file, one each; `always`
    what happens to those after.

    A number is an HTTP status. "drop": half of the bytes, then the end of the connection. "short": half of
    the bytes as if it were all. "stall": half, then nothing. "late": whole, after half a second. "wrong": one
    byte differs. "page": another document. "whole": the range asked for is not heeded.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str | None]] = []  # (file, range asked for)
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.always: dict[str, Any] = {}
        self.password: str | None = None  # "user:password" that requests must give
        self.late_s = 0.5
        self._end = Event()
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/"

    def count(self, name: str) -> int:
        return sum(file == name for file, _ in self.requests)

    def close(self) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        folder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # noqa: N802
                name = urlsplit(self.path).path.lstrip("/")
                asked = self.headers.get("Range")
                with folder._lock:
                    folder.requests.append((name, asked))
                    waiting = folder.faults[name]
                    fault = waiting.pop(0) if waiting else folder.always.get(name)
                self._answer(name, asked, fault)

            def _answer(self, name: str, asked: str | None, fault: Any) -> None:
                given = self.headers.get("Authorization", "")
                if (
                    folder.password
                    and given != "Basic " + base64.b64encode(folder.password.encode()).decode()
                ):
                    fault = 401
                path = folder.root / name
                if isinstance(fault, int) or not path.is_file():
                    status = fault if isinstance(fault, int) else 404
                    return self._send(status, b"no")
                data = path.read_bytes()
                status = 200
                if fault == "page":
                    return self._send(200, b"<html>Please sign in</html>")
                if asked is not None and fault != "whole":
                    start, last = (int(end) for end in asked.removeprefix("bytes=").split("-"))
                    data, status = data[start : last + 1], 206
                if fault == "wrong":
                    data = data[:-1] + bytes([data[-1] ^ 1])
                if fault == "late":
                    time.sleep(folder.late_s)
                half = data[: len(data) // 2]
                if fault == "short":
                    self._send(status, half)
                elif fault in ("drop", "stall"):
                    self._send(status, half, len(data))
                    if fault == "stall":
                        folder._end.wait(30)
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                else:
                    self._send(status, data)

            def _send(self, status: int, data: bytes, told: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data) if told is None else told))
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
