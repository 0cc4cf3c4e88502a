"""waitress, with three things added: errors in our one shape, a deadline for a whole request, and a soft close.

The soft close lets a client that still sends a body which was refused read the refusal: the rest of the body is
thrown away for a moment, where a plain close would reset the connection under the answer.
"""

import json
import logging
import socket
import time

from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask
from waitress.utilities import Error

from core.errors import is_disk_full
from server.errors import CODES, error_body
from server.settings import Limits

_LINGER_S = 3.0
_LINGER_BYTES = 256 * 2**20
_CODES = {400: "bad_request", 408: "request_timeout", 413: "body_too_large", 431: "headers_too_large"}
_CODES |= {500: "internal", 501: "not_implemented", 507: "disk_full"}
_log = logging.getLogger("s2mesh.http")


class RequestTimeout(Error):
    """The request took too long to arrive."""

    code = 408
    reason = "Request Timeout"


class NoRoom(Error):
    """The disk that holds large bodies while they arrive is full."""

    code = 507
    reason = "Insufficient Storage"


class JsonErrorTask(ErrorTask):
    """What waitress refuses before the application sees it."""

    def execute(self) -> None:
        error = self.request.error
        code = _CODES.get(error.code, "bad_request")
        message = f"{CODES[code][1]} ({error.body})" if code != "internal" else CODES[code][1]
        body = json.dumps(error_body(code, message)).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [
            ("Cache-Control", "no-store"),
            ("Content-Type", "application/json"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.close_softly = True
        self.write(body)


class Channel(HTTPChannel):
    """One connection."""

    error_task_class = JsonErrorTask
    close_softly = False
    discarding_until: float | None = None
    discarded = 0
    refused = False  # nothing more is taken from this client
    begun_at: float | None = None  # when the first byte of an unfinished request came

    def received(self, data: bytes) -> bool:
        if self.refused:  # the rest of what was refused
            return False
        if self.begun_at is None:
            self.begun_at = time.time()
        try:
            taken = super().received(data)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self.refuse(NoRoom("free some space"))
            return False
        if self.request is None:
            self.begun_at = None
        self.refused = any(request.error for request in self.requests)
        return taken

    def send_continue(self) -> None:
        """Not for a request that is refused by its headers alone: its body need not be sent."""
        if self.request.error is None:
            super().send_continue()

    def refuse(self, error: Error) -> None:
        """Answers the request that is still arriving with an error, and closes."""
        with self.requests_lock:
            request, self.request, self.begun_at = self.request, None, None
            if request is None:
                return
            if not request.headers_finished:
                request.parse_header(b"GET / HTTP/1.0\r\n")
            request.error, request.completed, self.refused = error, True, True
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)

    # --- soft close ---

    def readable(self) -> bool:
        return self.discarding_until is not None or super().readable()

    def writable(self) -> bool:
        if self.discarding_until is not None:
            return self.will_close
        return super().writable()

    def handle_read(self) -> None:
        if self.discarding_until is None:
            super().handle_read()
            return
        try:
            data = self.recv(self.adj.recv_bytes)
        except OSError:
            data = b""
        self.discarded += len(data)
        if not data or self.discarded > _LINGER_BYTES:
            self.handle_close()

    def handle_write(self) -> None:
        if self.close_softly and self.close_when_flushed and not self.will_close:
            self._flush_exception(self._flush_some)
            if self.total_outbufs_len or self.will_close:
                return
            self.close_when_flushed = False
            self.discarding_until = time.time() + _LINGER_S
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.will_close = True
            return
        super().handle_write()


class HttpServer(TcpWSGIServer):
    """Serves a WSGI application on a bound socket; ``run`` in one thread, ``close`` from another."""

    channel_class = Channel

    def __init__(self, application, bound: socket.socket, limits: Limits) -> None:
        self._request_s = limits.request_s
        self._closing = False
        where = (bound.family, bound.type, bound.proto, bound.getsockname())
        super().__init__(
            application,
            map={},
            _sock=bound,
            bind_socket=False,
            sockinfo=where,
            threads=limits.event_streams + 8,
            connection_limit=limits.connections,
            channel_timeout=int(limits.idle_connection_s),
            cleanup_interval=1,
            asyncore_use_poll=True,
            max_request_body_size=limits.body_bytes,
            max_request_header_size=64 * 1024,
            channel_request_lookahead=1,  # a client that leaves an event stream is noticed
            expose_tracebacks=False,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )

    def maintenance(self, now: float) -> None:
        """Every second: what takes too long is ended."""
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.discarding_until is not None and now > channel.discarding_until:
                channel.will_close = True
            elif channel.begun_at is not None and now - channel.begun_at > self._request_s and not channel.requests:
                channel.refuse(RequestTimeout("send it again, faster"))

    def run(self) -> None:
        """Serves until ``close``."""
        while not self._closing:
            self.asyncore.loop(
                timeout=self.adj.asyncore_loop_timeout, use_poll=self.adj.asyncore_use_poll, map=self._map, count=1
            )
        for channel in list(self.active_channels.values()):
            channel.handle_close()
        super().close()

    def close(self) -> None:
        """Ends ``run``; answers that are under way get a moment."""
        self.task_dispatcher.shutdown(timeout=5)
        self._closing = True
        self.pull_trigger()


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, which nobody else has.

    Raises:
        OSError: as the system says it: in use, not permitted, no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where reuse would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
