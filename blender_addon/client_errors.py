# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong between Blender and the server. Each error says what is wrong and what to do, in plain sentences.

Offline             nothing answers, or no longer
BadAddress          what was entered is no address of a server
WrongService        something answers that is no S2 Mesh server
WrongVersion        a server whose routes are of another version
WrongToken          the server does not take our token
Refused             the server's own refusal, with its code and details
Damaged             a file that arrived otherwise than it was sent, or that is no mesh we can trust
WireError           an answer that is not as agreed
NoRequests          this Blender lacks the Python module `requests`
DiskFull            no room here for a result
CannotWrite         a result cannot be stored here for another reason
OnlineAccessNeeded  the server is on another machine and Blender's Online Access is off
Stopped             as asked, in the middle
StartFailed         the server cannot be started (`server_process`)
InstallFailed       the server cannot be installed (`install_server`)
"""

from __future__ import annotations

import errno
from typing import Any


class S2MeshError(Exception):
    """Base of all of them.

    Args:
        message: what is wrong.
        remedy: what to do about it.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = as_sentence(message)
        self.remedy = as_sentence(remedy)
        super().__init__(" ".join(filter(None, (self.message, self.remedy))))

    def __eq__(self, other: object) -> bool:
        """Alike where an artist would read the same: what is told once need not be told again."""
        return type(self) is type(other) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((type(self), str(self)))


class Offline(S2MeshError):
    """Nothing answers. ``timed_out``: somebody took the connection, but said nothing in time; it may be busy."""

    def __init__(self, message: str, remedy: str = "", *, timed_out: bool = False) -> None:
        super().__init__(message, remedy)
        self.timed_out = timed_out


class BadAddress(S2MeshError):
    """What was entered as address is none."""


class WrongService(S2MeshError):
    """Another program listens at the address."""


class WrongVersion(S2MeshError):
    """Server and extension are of different ages."""


class WrongToken(S2MeshError):
    """The server has another token."""


class Refused(S2MeshError):
    """An answer that is not a success.

    Args:
        code: one of the codes in server/API.md.
        details: values for programs, such as ``field``, ``min`` and ``max``.
        status: of HTTP.
        retry_after_s: what the server asks to wait before the next try, if it does.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: dict[str, Any] | None = None,
        *,
        status: int = 0,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, REMEDIES.get(code, "" if 400 <= status < 500 else _SEE_LOG))
        self.code = code
        self.details = details or {}
        self.status = status
        self.retry_after_s = retry_after_s


class Damaged(S2MeshError):
    """A file that cannot be trusted."""


class WireError(S2MeshError):
    """An answer with a value that cannot be right."""


class NoRequests(S2MeshError):
    """The module that speaks HTTP is not there."""

    def __init__(self) -> None:
        super().__init__(
            "This build of Blender lacks the Python module requests.",
            "Install it for its Python, or use the official build from blender.org.",
        )


class DiskFull(S2MeshError):
    """No room for a file."""


class CannotWrite(S2MeshError):
    """A file cannot be written."""


class OnlineAccessNeeded(S2MeshError):
    """Blender may not talk to other machines."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}, and Blender's Online Access is off.",
            "Switch it on in Preferences > System > Network > Allow Online Access. A server on this machine needs no "
            "Online Access.",
        )


class Stopped(S2MeshError):
    """It was asked to stop."""

    def __init__(self, what: str = "The transfer") -> None:
        super().__init__(f"{what} was stopped.")


class StartFailed(S2MeshError):
    """There is no server process."""


class InstallFailed(S2MeshError):
    """There is no server to start."""


_SEE_LOG = "Look into the server's log (Open Log), or try again."

REMEDIES: dict[str, str] = {  # by code of the server, where its own words do not say already what to do
    "token_missing": "Clear the token in the extension's preferences, or enter what `s2mesh token` prints.",
    "token_wrong": "Clear the token in the extension's preferences, or enter what `s2mesh token` prints.",
    "host_not_allowed": "Start the server with --allow-host and the name in the address.",
    "job_not_found": "It was deleted, or was older than the server keeps. Generate it again.",
    "artifact_not_found": "Generate the mesh again.",
    "job_running": "Cancel it first.",
    "job_not_finished": "Wait for its end.",
    "idempotency_conflict": "Click Generate again.",
    "busy": "Cancel the running job, or wait for it.",
    "body_too_large": "Make the picture smaller.",
    "image_missing": "Choose a picture.",
    "image_unusable": "Choose another picture, or save it as PNG.",
    "preset_not_installed": "Choose another preset, or install its weights as the README says.",
    "queue_full": "Wait until a job has ended, or cancel some.",
    "draining": "Wait a moment, then start the server again.",
    "worker_unavailable": "Press Doctor for the reason, or start the server again.",
    "database_busy": "Try again in a moment.",
    "disk_full": "Free some space on the server's disk.",
}


def as_sentence(text: str) -> str:
    """With a capital letter, unless it begins with the name of an option, and a full stop."""
    text = " ".join(str(text).split())[:2000]
    first = text.partition(" ")[0]
    if first.isalpha():
        text = text[:1].upper() + text[1:]
    return text + "." if text and text[-1] not in ".!?:" else text


def is_disk_full(error: OSError) -> bool:
    """Whether no space, or none of the user's quota, is left."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG) or (
        getattr(error, "winerror", None) in (39, 112)
    )


def write_error(path: object, error: OSError) -> S2MeshError:
    """What to raise where ``path`` could not be written."""
    if is_disk_full(error):
        return DiskFull(f"The disk is full: {path} cannot be written.", "Free some space, then import the job again.")
    return CannotWrite(
        f"{path} cannot be written: {error.strerror or error}.", "Choose another cache folder in the preferences."
    )
