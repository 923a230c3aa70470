"""A backend that is none: answers Label Studio as the protocol asks and keeps what it was asked."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request that Label Studio made."""

    path: str
    authorization: str | None
    body: Any


@dataclass
class RecordingBackend:
    """Where the backend listens, what it was asked, and the secret without which it refuses."""

    url: str = ""
    secret: str = ""
    model_version: str = "v1"
    requests: list[Request] = field(default_factory=list)

    def asked(self, path: str) -> list[Request]:
        """Return the requests of one path."""
        return [request for request in self.requests if request.path == path]

    def heard(self) -> list[str]:
        """Return the actions of the webhooks, in order."""
        return [request.body["action"] for request in self.asked("/webhook")]

    def refuses(self, authorization: str | None) -> bool:
        """Whether a request with this header lacks the secret."""
        basic = base64.b64encode(f"label-studio:{self.secret}".encode()).decode()
        return bool(self.secret) and authorization not in {f"Basic {basic}", f"Bearer {self.secret}"}


@contextmanager
def recording_backend(secret: str = "", port: int = 0) -> Iterator[RecordingBackend]:
    """Serve on a free port of this machine."""
    backend = RecordingBackend(secret=secret)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer({"status": "UP", "model_class": "Recording"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            backend.requests.append(Request(self.path, self.headers.get("Authorization"), body))
            if backend.refuses(self.headers.get("Authorization")):
                self.answer({"detail": "no"}, 401)
            elif self.path == "/predict":
                self.answer({"results": [{"result": [], "score": 0.5} for _ in body["tasks"]]})
            elif self.path == "/setup":
                self.answer({"model_version": backend.model_version})
            else:
                self.answer({})

        def answer(self, told: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        backend.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield backend
        finally:
            server.shutdown()
            thread.join()
