"""A forwarder between client and server that breaks connections where a test says, as a bad network does."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on to ``url``; its own address is ``.url``.

    ``cut(start, after)``: the answer to the next request that starts with these bytes breaks off after so many bytes.
    Used as a context; every connection ends with it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []  # first lines
        self._cuts: list[tuple[bytes, int]] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def cut(self, start: bytes, after: int) -> None:
        self._cuts.append((start, after))

    def count(self, start: bytes) -> int:
        return sum(line.startswith(start) for line in self.requests)

    def __enter__(self) -> "CuttingProxy":
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._listener)
        for connection in self._open:
            self._end(connection)
        for thread in self._threads:
            thread.join(10)
        for connection in (*self._open, self._listener):
            connection.close()

    # --- threads ---

    def _run(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                left: list[int | None] = [None]  # bytes of the answer until the cut
                self._run(self._upwards, client, server, left)
                self._run(self._downwards, server, client, left)

    def _upwards(self, client: socket.socket, server: socket.socket, left: list) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b" HTTP/1.1\r\n" in data:
                    self.requests.append(data.partition(b"\r\n")[0])
                    for cut in self._cuts:
                        if data.startswith(cut[0]):
                            self._cuts.remove(cut)
                            left[0] = cut[1]
                            break
                server.sendall(data)
        self._end(server)

    def _downwards(self, server: socket.socket, client: socket.socket, left: list) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if left[0] is not None:
                    data = data[: left[0]]
                    left[0] -= len(data)
                client.sendall(data)
                if left[0] == 0:
                    break
        self._end(client)
        self._end(server)

    @staticmethod
    def _end(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
