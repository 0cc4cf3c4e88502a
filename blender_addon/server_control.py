# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting, stopping and installing this machine's server, with what the preferences say."""

import os
import threading
from pathlib import Path
from urllib.parse import urlsplit

import bpy

from .app_state import AppState, Installing, is_offline
from .client_errors import InstallFailed, S2MeshError
from .discovery import DEFAULT_PORT, clean_url, read_token
from .install_server import Installation, fetch, find_installation
from .preferences import preferences
from .server_process import ServerProcess
from .translations import t

_GRACE_S = 10  # for the running job when Blender ends; then it is put off to the server's next start


def could_start(app: AppState) -> bool:
    """Whether a start would help: nothing answers at an address of this machine, and nothing is on its way."""
    return app.is_local and is_offline(app) and not app.owns_server and not app.is_starting


def installation() -> Installation:
    """Where the server is, or is to be, installed."""
    own = preferences()
    chosen = Path(bpy.path.abspath(own.server_folder)) if own.server_folder else None
    return find_installation(chosen, Path(bpy.path.abspath(own.data_folder)) if own.data_folder else None)


def program() -> list[str]:
    """What runs `s2mesh`; a verb is to follow.

    Raises:
        InstallFailed: where it is not installed.
    """
    own = preferences()
    if own.server_python:
        return [bpy.path.abspath(own.server_python), "-m", "server.cli"]
    return installation().command()


def command() -> list[str]:
    """What starts the server.

    Raises:
        InstallFailed: where none is installed.
    """
    own = preferences()
    start = [*program(), "serve", "--grace", str(_GRACE_S), "--idle-unload", str(own.idle_unload * 60)]
    if own.address.strip():  # where it will be looked for
        start += ["--port", str(urlsplit(clean_url(own.address)).port or DEFAULT_PORT)]
    if own.data_folder:
        start += ["--data-dir", bpy.path.abspath(own.data_folder)]
    return start


def log_path() -> Path:
    """Where a server that we start writes what it does."""
    return Path(bpy.utils.extension_path_user(__package__, path="logs", create=True)) / "server.log"


def start(app: AppState) -> None:
    """Start it, or adopt one that runs already. The panel tells the rest.

    Raises:
        S2MeshError: if there is none, or it cannot be started.
    """
    if not app.is_local:
        raise S2MeshError(
            t("The address in the preferences is another machine's"), t("Start the server there, or clear the address")
        )
    if app.owns_server:
        return
    app.process_problem = None
    folder = installation().folder
    try:
        if app.process is None:
            app.process = ServerProcess(
                command(),
                log_path(),
                parent_pid=os.getpid(),
                data_dir=app.connection.data_dir,
                cwd=folder if folder.is_dir() else None,
            )
        app.process.start()
    except S2MeshError as error:
        app.process, app.process_problem = None, error
        raise
    app.poller.connect()


def stop(app: AppState) -> None:
    """Stop a server that this Blender started; a second time kills it. One of somebody else is let alone."""
    if app.owns_server:
        app.process.stop()
        app.poller.connect()


def log_end(lines: int = 400) -> str:
    """The end of the log."""
    return ServerProcess([], log_path()).log_tail(lines) + "\n"


def token(app: AppState) -> str:
    """The token that the worker uses, to hand it to this machine's browser; empty if there is none."""
    return app.connection.token or read_token(app.connection.data_dir) or ""


# --- installation ---


def install(app: AppState) -> None:
    """Begin the installation in a thread; the panel shows its lines."""
    if app.installing is not None and not app.installing.done:
        return
    app.installing = job = Installing()
    target = installation()
    own, online = preferences(), bpy.app.online_access
    python = bpy.path.abspath(own.server_python) if own.server_python else None
    archive = own.archive.strip()
    if not target.has_files and not archive:
        app.installing = None
        raise InstallFailed(
            t("{folder} has no S2 Mesh").format(folder=target.folder),
            t("Choose the folder of its repository, or a release archive, in the extension's preferences"),
        )

    def told(line: str) -> None:
        job.last_line = line

    def work() -> None:
        try:
            if not target.has_files:
                fetch(archive, target.folder, should_stop=job.stop.is_set, progress=told, online_access=online)
            target.run(python, told, job.stop.is_set)
            job.last_line = "The server is installed. Press Start."
        except S2MeshError as error:
            job.error, job.last_line = error, str(error)
        except Exception as error:  # a mistake of ours, shown where the lines are
            job.error = S2MeshError(f"{type(error).__name__}: {error}")
            job.last_line = str(job.error)
        finally:
            job.done = True

    job.thread = threading.Thread(target=work, name="s2mesh-install", daemon=True)
    job.thread.start()
