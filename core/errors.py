"""Errors that reach a user. Each message says what is wrong and what to do about it.

Our own mistakes are ``assert`` or ordinary exceptions; these classes are for what a user can mend.
"""


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


class GenerationCancelled(CoreError):
    """The caller cancelled the generation; nothing was written."""
