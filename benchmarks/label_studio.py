"""A stand-in for Label Studio's import of predictions, so that its own load does not count as Tandem's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from backend.up.servers import free_port


class Sink(ThreadingHTTPServer):
    """Takes predictions and counts them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.port = free_port()
        self.taken = 0
        super().__init__(("127.0.0.1", self.port), _Handler)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    server: Sink
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # No tabs, no predictions; what is asked of the project itself goes unanswered, so nothing is compared with it.
        self._answer([] if self.path.startswith(("/api/dm/views", "/api/predictions")) else {})

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.taken += len(told)
        self._answer({"created": len(told)}, 201)

    def do_PATCH(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = int(self.path.strip("/").rsplit("/", 1)[1])
        project = {"id": number, "created_at": "2026-11-21T00:00:00Z", "title": "sink", "label_config": "<View/>"}
        self._answer(project | {"sampling": "Uncertainty sampling", "show_collab_predictions": True} | told)

    def _answer(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def sink() -> Iterator[Sink]:
    """Run the stand-in while the block lasts."""
    server = Sink()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
