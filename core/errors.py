"""Errors that reach a user. Each message says what is wrong and what to do about it.

Our own mistakes are ``assert`` or ordinary exceptions; these classes are for what a user can mend.
"""

import errno
import sys

_DISK_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
# What torch says in a plain RuntimeError where it has no class for it (host memory, Apple's GPU).
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "insufficient memory")


class CoreError(Exception):
    """Base of every error whose message is meant for the user.

    ``exit_status`` is what a command line returns for it: 2 where the input or the settings are at
    fault, 1 where we (or the machine) are.
    """

    exit_status = 1


class ConfigError(CoreError):
    """A setting, preset or configuration that cannot be used."""

    exit_status = 2


class InputError(CoreError):
    """A picture, mesh or path given by the user that cannot be used."""

    exit_status = 2


class CheckpointError(CoreError):
    """Weights that are missing, damaged, or of another model."""

    exit_status = 2


class NoSurfaceError(CoreError):
    """A stage gave no structure, or the field never crosses the iso level."""


class DeviceMemoryError(CoreError):
    """The device has too little memory for what was asked."""


class DiskFullError(CoreError):
    """No space left for a file; nothing of it was written."""


class DownloadError(CoreError):
    """A file that could not be fetched, or that came otherwise than it should."""


class GenerationCancelled(CoreError):
    """The caller cancelled the generation; nothing was written."""


def is_memory_error(error: BaseException) -> bool:
    """True for every way in which numpy, torch and its devices say that memory ran out."""
    if isinstance(error, MemoryError | DeviceMemoryError):
        return True
    torch = sys.modules.get("torch")  # absent: then torch cannot have raised it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)


def memory_cause(error: BaseException) -> str:
    """The first sentence of an error that ``is_memory_error``, without its full stop; may be empty."""
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")


def is_disk_full(error: BaseException) -> bool:
    """True where the system says that a disk, an account's share of it, or a file can hold no more."""
    return isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _DISK_FULL)


def disk_full_error(path: object, error: OSError) -> DiskFullError:
    """The user's version of an OSError that ``is_disk_full``."""
    return DiskFullError(f"no space left for {path} ({error.strerror or error}). Free some and run again.")
