"""Errors that reach a user. Each message says what is wrong and what to do about it.

Our own mistakes are ``assert`` or ordinary exceptions; these classes are for what a user can mend.
"""

import errno

_DISK_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


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


def is_disk_full(error: BaseException) -> bool:
    """True where the system says that a disk, an account's share of it, or a file can hold no more."""
    return isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _DISK_FULL)


def disk_full_error(path: object, error: OSError) -> DiskFullError:
    """The user's version of an OSError that ``is_disk_full``."""
    return DiskFullError(f"no space left for {path} ({error.strerror or error}). Free some and run again.")
