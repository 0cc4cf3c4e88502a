"""What can go wrong between a client and a server; each message says what to do.

Unreachable    nothing answers, or no longer
WrongService   something answers that is no S2 Mesh server
WrongVersion   a server whose routes are of another version
Refused        the server's own refusal: code, message, details and status of its answer
JobFailed      the job ended without a mesh
DownloadFailed the preset's weights did not come
StillRunning   the time to wait is over and the job goes on
Damaged        a file arrived otherwise than the server keeps it
"""

from typing import Any

from core.errors import CoreError

_TRY_AGAIN = (408, 429)  # not the user's mistake, though of the family that is
_USERS_MISTAKES = ("image_unusable", "options_unusable", "weights_unusable", "job_too_large")  # of FAILURES


class ServerError(CoreError):
    """Base of all of them."""


class Unreachable(ServerError):
    """Nothing answers at the address, or the connection broke twice."""


class WrongService(ServerError):
    """Another program listens at the address."""

    exit_status = 2


class WrongVersion(ServerError):
    """The routes of the server are of another version than this client's."""

    exit_status = 2


class Refused(ServerError):
    """An answer that is not a success.

    Args:
        code: one of ``server.errors.CODES``.
        details: values for programs, such as ``field``, ``min`` and ``max``.
        status: of HTTP.
        retry_after_s: what the server asks to wait before the next try, if it does.
    """

    def __init__(
        self, code: str, message: str, details: dict[str, Any], status: int, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.status = status
        self.retry_after_s = retry_after_s
        self.exit_status = 2 if 400 <= status < 500 and status not in _TRY_AGAIN else 1


class JobFailed(ServerError):
    """It failed or was cancelled. ``job`` is the job, ``code`` one of ``server.errors.FAILURES`` or "cancelled"."""

    def __init__(self, job: dict[str, Any]) -> None:
        error = job["error"] or {}
        self.job = job
        self.code: str = error.get("code", job["state"])
        said = [error.get("message", "the job was cancelled on the server."), error.get("details", {}).get("advice")]
        super().__init__(" ".join(filter(None, said)))
        self.exit_status = 2 if self.code in _USERS_MISTAKES else 1


class DownloadFailed(ServerError):
    """A download of a preset failed or was cancelled; ``download`` is its last state."""

    def __init__(self, download: dict[str, Any]) -> None:
        error = download["error"] or {}
        super().__init__(error.get("message") or f"the download of {download['preset']} was cancelled; start it again.")
        self.download = download
        self.code = error.get("code") or download["state"]


class StillRunning(ServerError):
    """The wait is over, the job is not. ``job`` is how it stood."""

    def __init__(self, job: dict[str, Any], seconds: float) -> None:
        super().__init__(
            f"job {job['id']} is {job['state']} after {seconds:g} s and goes on. Wait again, or cancel it."
        )
        self.job = job


class Damaged(ServerError):
    """The digest of what arrived is not the server's."""
