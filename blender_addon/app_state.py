# SPDX-License-Identifier: GPL-3.0-or-later
"""The one holder of what lives as long as the extension is on: jobs, the worker thread, a server that we started.

It holds ids and names, never Blender's data. Made in ``register``, ended in ``unregister``. Main thread only; the
worker thread is given a snapshot of the preferences (``connection``), which is replaced as a whole.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy

from .client_errors import Offline, S2MeshError
from .discovery import is_loopback
from .pictures import Picture
from .poller import COARSE, INPUT, MESH, PREVIEW, ClientSettings, Poller, ResultReady, ServerSeen
from .preferences import preferences
from .server_process import ServerProcess
from .session import JobRecord, Session
from .wire import Capabilities, Ready

FOLLOWED_FILES = (COARSE, MESH, PREVIEW, INPUT)
_KEPT_BYTES = 200_000_000  # of pictures of finished jobs, in memory, to make them again
_LIST_S = 15.0  # between two looks at the server's list
_PANEL_SHOWN_S = 5.0  # a panel that was drawn within this time is taken to be on show
_current: "AppState | None" = None


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a job was made from, to make it again and to write it as Python."""

    picture: Picture
    options: dict[str, Any]
    source: str  # a Python expression for the picture, as scripts give it
    smooth: bool = True
    clay: bool = False


@dataclass(kw_only=True)
class Installing:
    """An installation of the server, which runs in a thread of its own; each field is written in one piece."""

    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    last_line: str = ""
    error: S2MeshError | None = None
    done: bool = False


class AppState:
    """See the head of the file."""

    def __init__(self) -> None:
        self.session = Session()
        self.sent: dict[int, Sent] = {}  # by the record's ticket
        self.waiting_imports: dict[int, str] = {}  # ticket of a fetch to the key of its record
        self.pictures_to_come: dict[int, tuple[str, Sent]] = {}  # ticket of a fetch to a record's key and its job
        self.seen: ServerSeen | None = None
        self.process: ServerProcess | None = None  # of a server that we started
        self.process_problem: S2MeshError | None = None  # why it could not be
        self.installing: Installing | None = None
        self.arrived: dict[str, ResultReady] = {}  # results that wait for their moment, by the record's key
        self.notice = ""  # the last thing worth saying that belongs to no job
        self.closing = threading.Event()  # asks threads beside the worker to end
        self.asides: list[threading.Thread] = []
        self.aside_results: queue.Queue[Callable[[], None]] = queue.Queue()
        self.list_came = False  # whether the server's jobs are in the list
        self._asked = 0  # ticket of the question in `look_again`
        self.listed = False  # whether they were asked for since the server was last there
        self._given: tuple[str, str] = ("", "")  # address and token of this session, before the preferences'
        self._drawn_at = self._list_read_at = float("-inf")
        self.connection = self._read_connection()
        self.poller = Poller(lambda: self.connection)
        self.poller.start()

    # --- the server ---

    @property
    def ready(self) -> Ready | None:
        return self.seen.ready if self.seen else None

    @property
    def error(self) -> S2MeshError | None:
        return self.seen.error if self.seen else None

    @property
    def capabilities(self) -> Capabilities | None:
        return self.seen.capabilities if self.seen else None

    @property
    def url(self) -> str:
        return self.seen.url if self.seen and self.seen.url else (self.connection.url or "")

    @property
    def was_seen(self) -> bool:
        """Whether it has been asked since the last change of address, with whatever answer."""
        return self.seen is not None and not self._asked

    @property
    def is_online(self) -> bool:
        """Whether it answers as it should."""
        return self.was_seen and self.seen.error is None and self.seen.ready is not None

    @property
    def is_starting(self) -> bool:
        """Whether a server of ours is on its way and does not answer yet."""
        if self.process is None or self.is_online:
            return False
        return self.process.poll().state in ("starting", "running", "ended")  # one that ended is started again

    @property
    def owns_server(self) -> bool:
        """Whether a server runs that this Blender started."""
        return self.process is not None and self.process.running

    @property
    def is_stopping(self) -> bool:
        return self.owns_server and self.process.poll().state == "stopping"

    @property
    def is_local(self) -> bool:
        """Whether the server is, or would be, one of this machine."""
        return not self.connection.url or is_loopback(self.connection.url)

    def use_server(self, url: str, token: str) -> None:
        """Another address and token for this session; empty is what the preferences say."""
        self._given = (url.strip(), token.strip())
        self.connect_anew()

    def connect_anew(self) -> None:
        """Read the preferences again and connect; jobs of another server go out of the list."""
        old, self.connection = self.connection, self._read_connection()
        if (old.url, old.data_dir) != (self.connection.url, self.connection.data_dir):
            self.session = Session()
            self.sent.clear()
        self.look_again()

    def look_again(self) -> None:
        """Forget what is known of the server and ask it."""
        self.connection = self._read_connection()
        self.seen, self.listed, self.list_came, self.process_problem = None, False, False, None
        self.poller.connect()
        self._asked = self.poller.refresh()  # what was seen before its answer may be of the old address

    def answered(self, ticket: int) -> bool:
        """Whether this is the answer that ``look_again`` waits for; from now on what is seen is of the new address."""
        if not self._asked or ticket != self._asked:
            return False
        self._asked = 0
        return True

    def take_seen(self, seen: ServerSeen) -> None:
        """What the worker saw of the server."""
        if self.answered(seen.ticket):
            self.listed = True  # the list comes behind
        came_back = seen.error is None and not self.listed and not self._asked
        self.seen = seen
        if seen.error is not None:
            self.listed = False
        elif came_back:
            self.listed, self.process_problem = True, None
            self._list_read_at = time.monotonic()
            self.poller.refresh()

    def _read_connection(self) -> ClientSettings:
        """The preferences as the worker needs them."""
        own = preferences()
        url, token = self._given
        folder = Path(bpy.path.abspath(own.data_folder)) if own.data_folder else None
        return ClientSettings(
            url=url or own.address.strip() or None,
            token=token or ("" if url else own.token.strip()) or None,
            data_dir=folder,
            online_access=bpy.app.online_access,
            cache_dir=cache_folder(),
            cache_bytes=own.cache_size * 10**6,
        )

    def run_aside(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run ``work``, which touches no Blender data, in a thread; ``then`` gets its result on the main thread."""

        def both() -> None:
            result = work()
            self.aside_results.put(lambda: then(result))

        thread = threading.Thread(target=both, name="s2mesh-aside", daemon=True)
        self.asides = [other for other in self.asides if other.is_alive()] + [thread]
        thread.start()

    # --- the panel ---

    def panel_was_drawn(self) -> None:
        """Somebody looks: the server's line is kept fresh for some seconds."""
        self._drawn_at = time.monotonic()
        self.poller.look()

    def look_at_list(self) -> None:
        """Read the server's list again now and then while somebody looks: another Blender may have sent jobs."""
        now = time.monotonic()
        if self.is_online and self.panel_is_shown and now - self._list_read_at > _LIST_S:
            self._list_read_at = now
            self.poller.refresh()

    @property
    def panel_is_shown(self) -> bool:
        return time.monotonic() - self._drawn_at < _PANEL_SHOWN_S

    def newest_first(self) -> list[JobRecord]:
        return list(self.session)

    @property
    def is_busy(self) -> bool:
        """Whether something moves that the panel shows."""
        coming = self.session.active or self.arrived or self.waiting_imports or self.pictures_to_come
        aside = any(thread.is_alive() for thread in self.asides) or not self.aside_results.empty()
        return bool(coming or aside or self.is_starting or self.is_stopping or self._installs)

    @property
    def _installs(self) -> bool:
        return self.installing is not None and not self.installing.done

    def forget_old_pictures(self) -> None:
        """Pictures of the oldest jobs make room for newer ones; those of active jobs are kept."""
        active = {record.ticket for record in self.session.active}
        room = _KEPT_BYTES
        for ticket in sorted(self.sent, reverse=True):
            room -= len(self.sent[ticket].picture.png)
            if room < 0 and ticket not in active:
                del self.sent[ticket]

    # --- the end ---

    def close(self) -> None:
        """Ends threads and a server that we started. Jobs stay on the server, which takes them up at its next start."""
        self.closing.set()
        if self.installing is not None:
            self.installing.stop.set()
        self.poller.stop()
        if self.process is not None:
            self.process.stop()
        beside = [*self.asides, *([self.installing.thread] if self.installing and self.installing.thread else [])]
        deadline = time.monotonic() + 1.5
        for thread in beside:
            thread.join(max(deadline - time.monotonic(), 0.0))


def current() -> AppState | None:
    """The state; None while the extension is off."""
    return _current


def connection_changed() -> None:
    """A preference that the connection depends on was changed."""
    if _current is not None:
        _current.connect_anew()


def is_offline(app: AppState) -> bool:
    """Whether nothing answers at the address."""
    return isinstance(app.error, Offline)


def cache_folder() -> Path:
    """Where results and thumbnails are kept."""
    own = preferences()
    if own.cache_folder:
        return Path(bpy.path.abspath(own.cache_folder))
    return Path(bpy.utils.extension_path_user(__package__, path="cache", create=True))


def register() -> None:
    global _current
    _current = AppState()


def unregister() -> None:
    global _current
    app, _current = _current, None
    if app is not None:
        app.close()
