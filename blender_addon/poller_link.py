# SPDX-License-Identifier: GPL-3.0-or-later
"""The poller's connection: made when it is needed, given up when the server is away, tried again more and more rarely.

It also keeps the server's line: what was told last, and when to look again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .client import Client, ClientSettings
from .client_errors import (
    BadAddress,
    NoRequests,
    Offline,
    OnlineAccessNeeded,
    S2MeshError,
    WrongService,
    WrongToken,
    WrongVersion,
)
from .poller_events import Event, ServerSeen
from .wire import Capabilities

_TIMEOUT_S = (2.0, 15.0)
_NO_CONNECTION = (BadAddress, Offline, WrongService, WrongVersion, WrongToken, NoRequests, OnlineAccessNeeded)
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds between two looks."""

    job_s: float = 0.25  # at a job that runs
    waiting_job_s: float = 1.0  # at one that waits behind others
    line_s: float = 2.0  # at the server, while somebody looks at its line or jobs run
    idle_s: float = 15.0  # at the server, while nobody does
    looking_s: float = 5.0  # so long after the last draw somebody still looks
    first_retry_s: float = 0.5
    last_retry_s: float = 5.0


@dataclass(kw_only=True)
class Shared:
    """What both threads see; each field is written in one piece."""

    stopping: threading.Event = field(default_factory=threading.Event)
    looked_at: float = float("-inf")
    dropped: set[str] = field(default_factory=set)  # jobs whose files nobody wants any more


class Unconnected(Exception):
    """Nothing can be asked now; it was told already. ``error`` says why."""

    def __init__(self, error: S2MeshError) -> None:
        super().__init__(str(error))
        self.error = error


class Link:
    """For the worker thread alone.

    Args:
        watched: whether anybody would notice what happens at the server.
    """

    def __init__(
        self,
        settings: Callable[[], ClientSettings],
        post: Callable[[Event], None],
        pace: Pace,
        watched: Callable[[], bool],
    ) -> None:
        self._find_settings = settings
        self._post = post
        self._pace = pace
        self._watched = watched
        self._client: Client | None = None
        self._capabilities: Capabilities | None = None
        self._seen: ServerSeen | None = None
        self.settings: ClientSettings | None = None  # of the connection
        self.line_at = 0.0  # when the server is looked at next
        self.retry_at = 0.0  # before which nothing is tried
        self._retry_s = 0.0  # between tries while the server is away; 0 while it is there

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def begin_anew(self) -> None:
        """With the settings of now."""
        self.close()
        self._capabilities = self._seen = None
        self.line_at = self.retry_at = 0.0

    def ask(self, do: Callable[[Client], Result]) -> Result:
        """What the server answers. The token is looked up once more where it was the wrong one.

        Raises:
            Unconnected. S2MeshError: the server's own answer.
        """
        try:
            client = self._connected()
            try:
                result = do(client)
            except WrongToken:
                old = client.url, client.token
                self.close()
                client = self._connected()
                if (client.url, client.token) == old:
                    raise
                result = do(client)
        except _NO_CONNECTION as error:
            self.trouble(error)
            raise Unconnected(error) from None
        if self._retry_s:
            self._retry_s, self.line_at = 0.0, 0.0  # it is back
        return result

    def _connected(self) -> Client:
        if self._client is None:
            try:
                self.settings = self._find_settings()
            except S2MeshError as error:
                self.trouble(error)
                raise Unconnected(error) from None
            self._client = Client.from_settings(self.settings, timeout_s=_TIMEOUT_S)
            if self._seen is not None and self._client.server_version != self._seen.version:
                self._capabilities = None
        return self._client

    def trouble(self, error: S2MeshError) -> None:
        """Nothing can be asked now: tells it once; the next try is later than the last."""
        self.close()
        self._retry_s = min(max(2 * self._retry_s, self._pace.first_retry_s), self._pace.last_retry_s)
        wait = self._retry_s if self._watched() else self._pace.idle_s
        self.line_at = self.retry_at = time.monotonic() + wait
        self._tell(ServerSeen(error=error, capabilities=self._capabilities))

    def look(self, ticket: int = 0, anew: bool = False) -> None:
        """At the server's line; tells of it where it is news, or where a command asked.

        Args:
            anew: ask for the capabilities again.
        """
        self.line_at = time.monotonic() + (self._pace.line_s if self._watched() else self._pace.idle_s)
        ready = self.ask(lambda client: client.ready())
        if self._capabilities is None or anew:
            self._capabilities = self.ask(lambda client: client.capabilities())
        client = self._client
        assert client is not None
        seen = ServerSeen(
            ticket=ticket,
            ready=ready,
            capabilities=self._capabilities,
            url=client.url,
            version=client.server_version,
        )
        self._tell(seen, always=bool(ticket))

    def _tell(self, seen: ServerSeen, always: bool = False) -> None:
        if always or self._seen is None or replace(seen, ticket=0) != replace(self._seen, ticket=0):
            self._post(seen)
        self._seen = seen
