# SPDX-License-Identifier: GPL-3.0-or-later
"""Speaks HTTP with one server. Raises the errors of `client_errors`, and no others.

`ClientSettings` says which server; where it names none, the one that runs on this machine is found. Another machine is
spoken to only with Online Access.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import discovery
from .client_connection import Connection, no_token
from .client_errors import Damaged, Offline, Refused, S2MeshError, Stopped, WireError, write_error
from .disk import require_room
from .wire import Artifact, Capabilities, Job, JobRequest, Ready

MAX_PICTURE_BYTES = 32 * 2**20 - 2**16  # the server's limit of a request, less room for the options
_PIECE = 2**18
_UPLOAD_S = 120.0  # for a picture


def never() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """Which server, and what this Blender allows: a snapshot, made on the main thread.

    Where ``url`` is None the running server of this machine is found; where ``token`` is None it is read from the data
    folder, for addresses of this machine only.
    """

    cache_dir: Path  # for downloaded files
    url: str | None = None
    token: str | None = field(default=None, repr=False)
    data_dir: Path | None = None  # of the local server; None is this user's own
    online_access: bool = False  # Blender's bpy.app.online_access
    cache_bytes: int = 4 * 2**30
    default_port: int = discovery.DEFAULT_PORT  # where to look where no server has told its address


class Client:
    """One server. For one thread.

    Args:
        url: its address.
        token: empty where there is none, which is enough for ``health``.
        timeout_s: to connect, and between two pieces of an answer.
        online_access: whether other machines may be spoken to.

    Raises:
        NoRequests, OnlineAccessNeeded. S2MeshError: for an address that is none.
    """

    def __init__(
        self, url: str, token: str, *, timeout_s: tuple[float, float] = (2.0, 60.0), online_access: bool = False
    ) -> None:
        self._connection = Connection(url, token, timeout_s, online_access)

    @property
    def url(self) -> str:
        return self._connection.url

    @property
    def token(self) -> str:
        return self._connection.token

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return self._connection.is_local

    @property
    def server_version(self) -> str:
        """As `health` told it."""
        return self._connection.server_version

    @classmethod
    def from_settings(cls, settings: ClientSettings, *, timeout_s: tuple[float, float] = (2.0, 60.0)) -> Client:
        """Finds address and token where the settings have none, and asks who is there.

        Raises:
            Offline, WrongService, WrongVersion, WrongToken, and as the constructor.
        """
        local = discovery.find_local(settings.data_dir) if settings.url is None else None
        url = settings.url or (local.url if local else f"http://127.0.0.1:{settings.default_port}")
        token = settings.token or (local.token if local else None)
        if token is None and discovery.is_loopback(discovery.clean_url(url)):
            token = discovery.read_token(settings.data_dir)
        client = cls(url, token or "", timeout_s=timeout_s, online_access=settings.online_access)
        try:
            client.health()
            if not token:
                raise no_token(client.url, client.is_local)
        except S2MeshError:
            client.close()
            raise
        return client

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()

    # --- the server ---

    def health(self) -> dict[str, Any]:
        """Asks without the token who is there; every other method does so at first.

        Raises:
            Offline, WrongService, WrongVersion.
        """
        return self._connection.health()

    def ready(self) -> Ready:
        """Worker, queue, device and memory; also where the server takes no jobs."""
        try:
            return Ready.from_json(self._connection.json("GET", "/v1/ready"))
        except Refused as error:
            if "ready" in error.details:
                return Ready.from_json(error.details, problem=str(error))
            raise

    def capabilities(self) -> Capabilities:
        """Presets, options with their limits, formats and limits."""
        return Capabilities.from_json(self._connection.json("GET", "/v1/capabilities"))

    def unload(self, wait: bool = False) -> bool:
        """Frees the device; with ``wait`` after the running job. False: that is still to come."""
        return bool(self._connection.json("POST", "/v1/unload", json={"wait": wait}).get("unloaded"))

    # --- jobs ---

    def submit(self, request: JobRequest) -> Job:
        """Sends a picture; the job that it became. The same key gives the same job, however often it is sent."""
        if len(request.picture) > MAX_PICTURE_BYTES:
            raise Refused(
                "body_too_large",
                f"The picture is {len(request.picture) / 2**20:.0f} MB large; the server takes 32 MB.",
                status=413,
            )
        answer = self._connection.json(
            "POST",
            "/v1/jobs",
            headers={"Idempotency-Key": request.idempotency_key},
            files={"image": (request.title or "picture", request.picture, "application/octet-stream")},
            data={"options": json.dumps(request.options)},
            timeout_s=(_UPLOAD_S, _UPLOAD_S),  # the time to connect is that to send as well
        )
        return Job.from_json(answer)

    def job(self, job_id: str, after: int | None = None) -> tuple[Job, list[dict[str, Any]]]:
        """The job, and with ``after`` its events after that number."""
        answer = self._connection.json("GET", f"/v1/jobs/{job_id}", params={} if after is None else {"after": after})
        events = answer.get("events")
        return Job.from_json(answer), [event for event in events if isinstance(event, dict)] if events else []

    def jobs(self, limit: int = 20, before: int | None = None) -> tuple[list[Job], int | None]:
        """A page of jobs, newest first, and what the next page's ``before`` is; None after the last."""
        asked = {"limit": limit, **({} if before is None else {"before": before})}
        answer = self._connection.json("GET", "/v1/jobs", params=asked)
        if not isinstance(answer.get("jobs"), list):
            raise WireError("The server's list of jobs is none", "Update the extension and the server.")
        following = answer.get("next")
        return [Job.from_json(job) for job in answer["jobs"]], following if isinstance(following, int) else None

    def cancel(self, job_id: str) -> Job:
        """Asks the job to stop; it may still run for a step. A finished job stays as it is."""
        return Job.from_json(self._connection.json("POST", f"/v1/jobs/{job_id}/cancel"))

    def delete(self, job_id: str) -> None:
        """Removes a finished job and its files from the server."""
        self._connection.send("DELETE", f"/v1/jobs/{job_id}").close()

    # --- files ---

    def download(self, job_id: str, artifact: Artifact, path: Path, should_stop: Callable[[], bool] = never) -> Path:
        """Writes a file of a job to ``path``: whole, with its digest checked, or not at all.

        Raises:
            Damaged, DiskFull, CannotWrite, Stopped, and as for every request.
        """
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            require_room(path, artifact.bytes)
            with partial.open("wb") as file:
                self._receive(job_id, artifact, file.write, should_stop)
            os.replace(partial, path)
        except OSError as error:  # not of requests: `_receive` turns those into ours
            raise write_error(path, error) from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return path

    def _receive(
        self, job_id: str, artifact: Artifact, write: Callable[[bytes], Any], should_stop: Callable[[], bool]
    ) -> None:
        """Hands the pieces on as they come; an error where they are not what the server told."""
        where = f"/v1/jobs/{job_id}/artifacts/{artifact.name}"
        damaged = Damaged(f"{artifact.name} arrived damaged and was thrown away", "Import the job again.")
        with self._connection.send("GET", where, headers={"Accept-Encoding": "identity"}) as response:
            digest, received = hashlib.sha256(), 0
            pieces = response.iter_content(_PIECE)
            while True:
                if should_stop():
                    raise Stopped(f"The download of {artifact.name}")
                try:
                    piece = next(pieces, None)
                except self._connection.requests.RequestException:
                    raise Offline(f"The connection broke while {artifact.name} came", "Try again.") from None
                if piece is None:
                    break
                received += len(piece)
                if received > artifact.bytes:
                    raise damaged
                digest.update(piece)
                write(piece)
        if digest.hexdigest() != artifact.sha256:
            raise damaged
