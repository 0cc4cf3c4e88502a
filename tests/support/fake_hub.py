"""A server on this machine that answers as the Hugging Face hub does, and fails as it is told to.

``files`` are ``repo/path`` to content. Large files (``.ckpt``, ``.safetensors``, ``.onnx``, ``.bin``) have a SHA-256 as
in the hub's large file storage, the others git's digest.
"""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
_LARGE = (".ckpt", ".safetensors", ".onnx", ".bin")
_API = re.compile(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class FakeHub:
    """Used as a context; ``requests`` are (method, path, the Range that was asked for or None)."""

    def __init__(self, files: dict[str, bytes], commit: str = COMMIT) -> None:
        self.files, self.commit = files, commit
        self.requests: list[tuple[str, str, str | None]] = []
        self.token: str | None = None  # that is wanted
        self.status: dict[str, int] = {}  # path (or repository) to the status of every answer
        self.cuts: dict[str, list[int]] = {}  # path to: after so many bytes the connection breaks, each once
        self.corrupt: set[str] = set()  # arrive with a byte changed
        self.no_ranges = False
        self.storage: str | None = None  # the address of another server, to which files are redirected as on the hub
        self.authorized: list[str | None] = []  # the Authorization of every request
        self.gate: threading.Event | None = None  # bodies wait for it after their first piece
        self.waiting = threading.Event()  # a body waits
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that hang up are what is tested
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.gate is not None:
            self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def fetched(self) -> list[tuple[str, str | None]]:
        """Name and range of every file that was asked for."""
        return [(path.rpartition("/")[2], wanted) for _, path, wanted in self.requests if "/resolve/" in path]

    # --- answers ---

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.requests.append((handler.command, path, handler.headers.get("Range")))
        self.authorized.append(handler.headers.get("Authorization"))
        if self.token is not None and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self._refuse(handler, 401)
        if asked := _API.fullmatch(path):
            repo, revision = asked.groups()
            return self._refuse(handler, self._trouble(repo, revision)) or self._describe(handler, repo)
        if asked := _FILE.fullmatch(path):
            repo, revision, name = asked.groups()
            trouble = self.status.get(f"{repo}/{name}") or self._trouble(repo, revision)
            trouble = trouble or (None if f"{repo}/{name}" in self.files else 404)
            if self.storage is not None and trouble is None:
                return self._redirect(handler, self.storage + path)
            return self._refuse(handler, trouble) or self._send(handler, f"{repo}/{name}")
        return self._refuse(handler, 404)

    def _trouble(self, repo: str, revision: str) -> int | None:
        if repo in self.status:
            return self.status[repo]
        known = any(key.startswith(f"{repo}/") for key in self.files)
        return None if known and revision in ("main", self.commit) else 404

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int | None) -> bool:
        if status is None:
            return False
        content = json.dumps({"error": "as told"}).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return True

    def _redirect(self, handler: BaseHTTPRequestHandler, location: str) -> None:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _describe(self, handler: BaseHTTPRequestHandler, repo: str) -> None:
        siblings = []
        for key, content in self.files.items():
            if key.startswith(f"{repo}/"):
                sibling = {"rfilename": key.removeprefix(f"{repo}/"), "size": len(content), "blobId": git_sha1(content)}
                if key.endswith(_LARGE):
                    sha256 = hashlib.sha256(content).hexdigest()
                    sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
                siblings.append(sibling)
        content = json.dumps({"id": repo, "sha": self.commit, "siblings": siblings}).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _send(self, handler: BaseHTTPRequestHandler, key: str) -> None:
        whole = self.files[key]
        content = bytes([whole[0] ^ 1]) + whole[1:] if key in self.corrupt else whole
        start = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        begin = int(start[1]) if start and not self.no_ranges else 0
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - begin))
        handler.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
        handler.send_header("X-Linked-Etag", f'"{hashlib.sha256(whole).hexdigest()}"')
        handler.send_header("X-Repo-Commit", self.commit)
        handler.end_headers()
        cut = self.cuts[key].pop(0) if self.cuts.get(key) else None
        body = content[begin : None if cut is None else max(begin, cut)]
        with contextlib.suppress(OSError):
            if self.gate is not None:
                handler.wfile.write(body[: len(body) // 2])
                handler.wfile.flush()
                self.waiting.set()
                self.gate.wait(60)
                body = body[len(body) // 2 :]
            handler.wfile.write(body)
            handler.wfile.flush()
        if cut is not None:
            handler.close_connection = True
            handler.connection.close()


def git_sha1(content: bytes) -> str:
    """As git names the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
