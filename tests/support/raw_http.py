"""HTTP as bytes on a socket, for requests that no client library would send."""

import json
import socket
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from tests.support.live_server import PATIENCE_S, LiveServer, picture_bytes

BOUNDARY = "b0undary"
FORM = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int
    headers: Message
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The inner object of the one shape of errors, which this answer must have."""
        assert self.status >= 400, (self.status, self.body[:300])
        assert self.headers["Content-Type"] == "application/json", self.headers.items()
        assert self.headers["X-Content-Type-Options"] == "nosniff"
        content = json.loads(self.body)
        assert content.keys() == {"error"} and content["error"].keys() == {"code", "message", "details"}, content
        error = content["error"]
        assert len(error["message"]) > 10 and isinstance(error["details"], dict), content
        return error

    def refused(self, status: int, code: str) -> dict[str, Any]:
        """The inner object, which must have this code."""
        assert (self.status, self.error["code"]) == (status, code), (self.status, self.body[:500])
        return self.error


def head(server: LiveServer, method: str, path: str, *further: str, host: str | None = "", token: bool = True) -> bytes:
    """Start line and headers up to the blank line; ``host`` is the server's own unless it is given, None: no Host."""
    lines = [f"{method} {path} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host or urlsplit(server.url).netloc}")
    if token:
        lines.append(f"Authorization: Bearer {server.token}")
    return "\r\n".join([*lines, *further, "", ""]).encode("latin-1")


def ask(server: LiveServer, method: str, path: str, *further: str, body: bytes = b"", **about: Any) -> Answer:
    """One request on a connection of its own; ``about`` is for ``head``."""
    length = [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT", "PATCH") else []
    return exchange(server, head(server, method, path, *further, *length, "Connection: close", **about) + body)


def exchange(server: LiveServer, sent: bytes) -> Answer:
    """Sends bytes and reads until the server closes, or has sent one whole answer."""
    with connect(server) as connection:
        connection.sendall(sent)
        return read_answer(connection)


def connect(server: LiveServer) -> socket.socket:
    where = urlsplit(server.url)
    return socket.create_connection((where.hostname, where.port), timeout=PATIENCE_S)


def read_answer(connection: socket.socket) -> Answer:
    """The next answer; everything up to the end of the connection counts as its body where no length is told."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(1)  # no byte of the next answer is taken
        assert more, f"the connection ended in the middle of {received!r}"
        received += more
    start, _, rest = received.partition(b"\r\n")
    headers = message_from_bytes(rest)
    length = headers["Content-Length"]
    body = b""
    while length is None or len(body) < int(length):
        more = connection.recv(65536 if length is None else int(length) - len(body))
        if not more:
            break
        body += more
    return Answer(int(start.split()[1]), headers, body)


def form(*parts: tuple[str, str | None, bytes], end: bool = True) -> bytes:
    """A multipart body of (field, file name or None, content)."""
    body = b""
    for field, name, content in parts:
        file = "" if name is None else f'; filename="{name}"'
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"{file}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def picture_form(options: bytes | None = None, picture: bytes | None = None, name: str = "box.png") -> bytes:
    """The body of a job."""
    parts = [("image", name, picture_bytes() if picture is None else picture)]
    return form(*parts, *([] if options is None else [("options", None, options)]))


def send_job(server: LiveServer, body: bytes, *further: str, content_type: str = FORM) -> Answer:
    return ask(server, "POST", "/v1/jobs", content_type, *further, body=body)


def documented_routes(server: LiveServer) -> list[tuple[str, str]]:
    """(method, path) of every operation of the document, with ids and names where they belong."""
    paths = server.get("/v1/openapi.json").json()["paths"]
    return [
        (method.upper(), path.format(job_id="0" * 32, name="mesh.glb", preset="none"))
        for path, operations in paths.items()
        for method in operations
    ]
