"""The Python client of the server: pictures up, progress, meshes down.

    with Client() as client:  # the running server of this machine
        job = client.submit(Path("mug.png"), {"seed": 7})
        client.wait(job["id"], on_event=print)
        client.download(job["id"], "mesh.glb", Path("mug.glb"))

Jobs and events are plain dicts, as ``server/API.md`` shows them. Errors are those of ``server.client_errors``.
"""

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import requests

from core.config.generation import MAX_IMAGE_BYTES
from core.errors import InputError
from core.files import replacing, telling_why
from server.client_address import find_server
from server.client_connection import Connection, Json
from server.client_errors import Damaged, DownloadFailed, JobFailed, Refused, StillRunning, Unreachable
from server.jobs.model import JobState

FINISHED = frozenset(state.value for state in JobState if state.finished)
_STREAM_S = 30.0  # without a word on an event stream, which has a heartbeat every ten seconds
_PATIENCE_S = 30.0  # for a server that is started again while a job is followed
_POLL_S = 0.5
_PIECE = 2**18
_PAGE = 100  # jobs


class Client:
    """One server. Use one client a thread.

    Args:
        url: address; None finds the running server of this machine by its data directory.
        token: None takes that of the data directory.
        data_dir: None is this user's own.

    Raises:
        Unreachable: no ``url``, and no server runs here. ConfigError: for an address or token that cannot be used.
    """

    def __init__(self, url: str | None = None, token: str | None = None, data_dir: Path | None = None) -> None:
        self._connection = Connection(*find_server(url, token, data_dir))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Of the server, without a slash at its end."""
        return self._connection.url

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()

    # --- the server ---

    def health(self) -> Json:
        """Who is there; needs no token. The first call of any other method asks it before.

        Raises:
            WrongService, WrongVersion: if it is not a server that this client can talk to.
        """
        return self._connection.health()

    def ready(self) -> Json:
        """Worker, queue, device and memory; ``ready`` is False where the server drains or its worker is broken."""
        try:
            return self._connection.json("GET", "/v1/ready")
        except Refused as error:
            if "ready" in error.details:
                return error.details
            raise

    def capabilities(self) -> Json:
        """Presets, options with their limits, formats and limits."""
        return self._connection.json("GET", "/v1/capabilities")

    def unload(self, wait: bool = False) -> bool:
        """Frees the device; with ``wait`` after the running job. False: that is still to come.

        Raises:
            Refused: busy, if a job runs and ``wait`` is False.
        """
        return self._connection.json("POST", "/v1/unload", json={"wait": wait})["unloaded"]

    # --- presets ---

    def preset_download(self, preset: str) -> Json:
        """What a download of the preset's weights would bring (``offer``), and how far it is.

        Raises:
            Refused: preset_not_found, preset_not_downloadable.
        """
        return self._connection.json("GET", _download_path(preset))

    def download_preset(
        self, preset: str, *, accept_license: bool, on_progress: Callable[[Json], object] | None = None
    ) -> Json:
        """Downloads the preset's weights to the server, or goes on with it, and waits for the end.

        Args:
            accept_license: that the licences in ``preset_download(preset)["offer"]`` are accepted.
            on_progress: is told the download every half second.

        Raises:
            Refused: license_not_accepted, download_running. DownloadFailed: it failed or was cancelled.
        """
        download = self._connection.json("POST", _download_path(preset), json={"accept_license": accept_license})
        while True:
            if on_progress is not None:
                on_progress(download)
            if download["state"] != "running":
                break
            time.sleep(_POLL_S)
            download = self.preset_download(preset)
        if download["state"] != "succeeded":
            raise DownloadFailed(download)
        return download

    def cancel_preset_download(self, preset: str) -> Json:
        """Ends a download; what has come is kept."""
        return self._connection.json("POST", f"{_download_path(preset)}/cancel")

    # --- jobs ---

    def submit(
        self,
        image: bytes | Path,
        options: Json | None = None,
        idempotency_key: str | None = None,
        title: str | None = None,
    ) -> Json:
        """Sends a picture; the job that it became. After a broken connection it is sent once more, and is one job.

        Raises:
            InputError: if the file cannot be read. Refused: as ``server/API.md`` lists them.
        """
        name, content = ("picture", image) if isinstance(image, bytes) else (Path(image).name, _read(Path(image)))
        return self._connection.json(
            "POST",
            "/v1/jobs",
            headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
            files={"image": (title or name, content, "application/octet-stream")},
            data={} if options is None else {"options": json.dumps(options)},
        )

    def job(self, job_id: str, after: int | None = None) -> Json:
        """The job; with ``after`` also its events that came after that one."""
        return self._connection.json("GET", _job_path(job_id), params={} if after is None else {"after": after})

    def jobs(self, state: str | None = None, limit: int | None = None) -> Iterator[Json]:
        """Jobs, newest first, page by page; ``limit`` None gives all."""
        before, left = None, limit
        while left is None or left > 0:
            asked = {"state": state, "before": before, "limit": _PAGE if left is None else min(left, _PAGE)}
            page = self._connection.json(
                "GET", "/v1/jobs", params={name: value for name, value in asked.items() if value}
            )
            yield from page["jobs"]
            left = None if left is None else left - len(page["jobs"])
            before = page["next"]
            if before is None:
                return

    def cancel(self, job_id: str) -> Json:
        """Asks the job to stop; it may still run for a step. A finished job stays as it is."""
        return self._connection.json("POST", f"{_job_path(job_id)}/cancel")

    def delete(self, job_id: str) -> None:
        """Removes a finished job and its files."""
        self._connection.send("DELETE", _job_path(job_id)).close()

    # --- progress ---

    def events(self, job_id: str, after: int = 0) -> Iterator[Json]:
        """The job's events as they happen, those after number ``after``, until it has ended.

        Streams that break are taken up where they broke; a server with no stream left is polled.
        """
        polls = False
        while True:
            if not polls:
                try:
                    with contextlib.closing(self._stream(job_id, after)) as stream:
                        for event in stream:
                            after = event["id"]
                            yield event
                            if event["type"] == "state" and event["state"] in FINISHED:
                                return
                except Refused as error:
                    if error.code != "too_many_streams":
                        raise
                    polls = True
                except Unreachable:
                    pass  # the next request tells
            job = self._patiently(job_id, after)
            for event in job["events"]:
                after = event["id"]
                yield event
            if job["state"] in FINISHED:
                return
            time.sleep(_POLL_S)

    def wait(
        self, job_id: str, on_event: Callable[[Json], object] | None = None, timeout_s: float | None = None
    ) -> Json:
        """The job once it has succeeded; ``on_event`` is told all its events from the first on.

        Raises:
            JobFailed: it failed or was cancelled. StillRunning: after ``timeout_s``; the job goes on.
        """
        events = self.events(job_id) if timeout_s is None else self._polled(job_id, timeout_s)
        with contextlib.closing(events):
            for event in events:
                if on_event is not None:
                    on_event(event)
        job = self.job(job_id)
        if job["state"] != JobState.SUCCEEDED.value:
            raise JobFailed(job)
        return job

    # --- files ---

    def artifact(self, job_id: str, name: str) -> bytes:
        """A file of the job, its digest checked."""
        return b"".join(self._pieces(job_id, name))

    def download(self, job_id: str, name: str, path: Path) -> Path:
        """Writes a file of the job to ``path``: whole, with its digest checked, or not at all.

        Raises:
            Refused: job_not_finished, artifact_not_found. Damaged: if it arrives otherwise than it was sent.
        """
        path = Path(path)
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder. Name a file in it.")
        with telling_why(path), replacing(path) as partial, partial.open("wb") as file:
            for piece in self._pieces(job_id, name):
                file.write(piece)
        return path

    # --- inside ---

    def _pieces(self, job_id: str, name: str) -> Iterator[bytes]:
        """Of a file; the last comes after the digest was found right."""
        path = f"{_job_path(job_id)}/artifacts/{quote(name, safe='')}"
        with self._connection.send("GET", path, headers={"Accept-Encoding": "identity"}, stream=True) as response:
            digest, last = hashlib.sha256(), b""
            try:
                for piece in response.iter_content(_PIECE):
                    yield last
                    digest.update(piece)
                    last = piece
            except requests.RequestException as error:
                raise Unreachable(f"the connection broke while {name} came. Try again.") from error
            if digest.hexdigest() != response.headers.get("ETag", "").removeprefix("W/").strip('"'):
                raise Damaged(f"{name} of job {job_id} arrived damaged and was thrown away. Download it again.")
            yield last

    def _stream(self, job_id: str, after: int) -> Iterator[Json]:
        """Events until the stream ends or breaks."""
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        path = f"{_job_path(job_id)}/events"
        with (
            self._connection.send("GET", path, headers=headers, stream=True, read_s=_STREAM_S) as response,
            contextlib.suppress(requests.RequestException),
        ):
            yield from _parsed(response.iter_lines(chunk_size=1))  # by bytes: whatever comes is told at once

    def _polled(self, job_id: str, timeout_s: float) -> Iterator[Json]:
        """As ``events``, with a limit, for which a stream is too deaf."""
        end, after = time.monotonic() + timeout_s, 0
        while True:
            job = self._patiently(job_id, after)
            for event in job["events"]:
                after = event["id"]
                yield event
            if job["state"] in FINISHED:
                return
            left = end - time.monotonic()
            if left <= 0:
                raise StillRunning(job, timeout_s)
            time.sleep(min(_POLL_S, left))

    def _patiently(self, job_id: str, after: int) -> Json:
        """The job, also where the server is away for a moment."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self.job(job_id, after=after)
            except (Unreachable, Refused) as error:
                away = isinstance(error, Unreachable) or error.code == "database_busy"
                if not away or time.monotonic() > end:
                    raise
            time.sleep(_POLL_S)


def _download_path(preset: str) -> str:
    return f"/v1/presets/{quote(preset, safe='')}/download"


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _read(path: Path) -> bytes:
    """A picture's file."""
    try:
        if not path.is_file():
            state = "is no file" if path.exists() else "does not exist"
            raise InputError(f"{path} {state}. Check the path of the picture.")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise InputError(f"{path} is larger than {MAX_IMAGE_BYTES / 1e6:.0f} MB. Resize the picture.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{str(path)[:200]!r} cannot be read. Check the path and its permissions.") from error


def _parsed(lines: Iterable[bytes]) -> Iterator[Json]:
    """Server-sent events from the lines of a stream; what an unfinished one has is dropped, it comes again."""
    data: list[bytes] = []
    for line in lines:
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
        elif not line and data:
            yield json.loads(b"\n".join(data))
            data = []
