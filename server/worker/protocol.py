"""What the server and its worker say to each other: one JSON object a line, each a dataclass of this file.

The worker reads commands from its standard input. It writes events to what was its standard output; that
descriptor is put aside before anything else is loaded, so that a library that prints cannot write between the lines.
"""

import json
from dataclasses import dataclass
from typing import Any

from core.config.base import from_dict, to_dict
from core.errors import ConfigError

MAX_LINE_BYTES = 4 * 2**20
HEARTBEAT_S = 2.0


class ProtocolError(Exception):
    """A line that is no message."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of the device, in bytes; of the machine where the device is the CPU."""

    used_bytes: int  # by the worker
    free_bytes: int
    total_bytes: int


# --- commands, server to worker ---


@dataclass(frozen=True, kw_only=True)
class Run:
    """Make a mesh. One job at a time; the worker answers with Done, Failed or Cancelled."""

    job_id: str
    title: str
    source: str  # file of the picture
    folder: str  # where the results go
    options: dict  # as in a job: GenerationOptions and OutputOptions
    max_bytes: int  # of all results


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """Stop the job at its next step."""

    job_id: str


@dataclass(frozen=True, kw_only=True)
class Exit:
    """End, once the running job is done."""


# --- events, worker to server ---


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The libraries are loaded and the device is there."""

    device: str  # cuda:0
    device_title: str  # NVIDIA H100
    dtype: str
    memory: Memory


@dataclass(frozen=True, kw_only=True)
class StartFailed:
    """The worker cannot work with these settings and ends; starting it again would not help."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``step`` of ``steps`` of a stage are done."""

    job_id: str
    stage: str
    step: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class ArtifactWritten:
    """A file of the job is complete."""

    job_id: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence for the user."""

    job_id: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """The job is finished; every file was told before."""

    job_id: str
    result: dict


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job failed; after a ``fatal`` failure the process is no longer to be trusted."""

    job_id: str
    kind: str  # of server.errors.FAILURES
    message: str
    advice: str = ""
    fatal: bool = False


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """The job was stopped."""

    job_id: str


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Every ``HEARTBEAT_S``, from a thread of its own, also while a long computation goes on."""

    preset: str | None  # whose networks are in memory
    memory: Memory


Command = Run | Cancel | Exit
Event = Ready | StartFailed | Progress | ArtifactWritten | Note | Done | Failed | Cancelled | Heartbeat
MESSAGES: dict[str, type] = {
    "run": Run,
    "cancel": Cancel,
    "exit": Exit,
    "ready": Ready,
    "start_failed": StartFailed,
    "progress": Progress,
    "artifact": ArtifactWritten,
    "note": Note,
    "done": Done,
    "failed": Failed,
    "cancelled": Cancelled,
    "heartbeat": Heartbeat,
}
_NAMES = {message: name for name, message in MESSAGES.items()}


def encode(message: Command | Event) -> bytes:
    """One line, its end included."""
    return json.dumps({"type": _NAMES[type(message)], **to_dict(message)}, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Any:
    """The message of one line.

    Raises:
        ProtocolError: for anything that ``encode`` does not write.
    """
    try:
        content = json.loads(line, parse_constant=_refuse_constant)
        return from_dict(MESSAGES[content.pop("type")], content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise ProtocolError(f"{line[:120]!r} is no message ({type(error).__name__})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON, and would get into the answers of the server
