"""A small HTTP server that says what a test tells it to, for services that are not ours or not as they should be."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HEALTH = {"status": "ok", "service": "s2mesh", "version": "0.1.0", "api": 1}


class StubServer:
    """Answers by ``answers``: path (without the query) to (status, headers, content) or a function of the handler.

    Content that is no bytes is sent as JSON. Used as a context; ``.requests`` are (method, path, headers).
    """

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {"/v1/health": (200, {}, HEALTH), **answers}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.body = self.rfile.read(length)
                stub.requests.append((self.command, self.path, dict(self.headers)))
                found = stub.answers.get(self.path.partition("?")[0], (404, {}, b"no such page"))
                if isinstance(found, Callable):
                    found(self)
                else:
                    self.give(*found)

            def give(self, status: int, headers: dict[str, str], content: Any) -> None:
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_DELETE = do_HEAD = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that hang up are what is tested
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "StubServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
