"""``s2mesh serve``: the generation server, until it is told to stop."""

import argparse
import errno
import ipaddress
import logging
import re
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from core.cli.errors import run_reporting
from core.config.presets import get_preset
from core.errors import ConfigError
from server.app import create_app
from server.data_dir import DataDir, TokenFile
from server.http_server import HttpServer, bind
from server.jobs.bus import Bus
from server.jobs.files import JobFiles
from server.jobs.retention import apply_retention, reconcile
from server.jobs.store import JobStore
from server.jobs.supervisor import Supervisor
from server.logs import set_up_logging
from server.security import Gate, is_loopback
from server.service import Service
from server.settings import DEFAULT_PORT, Limits, ServerSettings, WorkerSettings

_PARENT_CHECK_S = 1.0
_log = logging.getLogger("s2mesh.serve")


def build_parser() -> argparse.ArgumentParser:
    own, limits, worker = ServerSettings(data_dir=Path()), Limits(), WorkerSettings()
    parser = argparse.ArgumentParser(
        prog="s2mesh serve",
        description="Run the generation server: pictures in, meshes out, over HTTP on this machine, with a page for "
        "the browser. Ctrl+C or SIGTERM ends it once the running job is done, or after the grace time.",
        epilog="The routes are described in server/API.md and at /v1/openapi.json.",
    )
    add = parser.add_argument
    add("--host", default=own.host, help=f"address to listen on (default: {own.host}; others are reached by others!)")
    add("--port", type=int, default=own.port, metavar="N", help=f"0 takes any that is free (default: {DEFAULT_PORT})")
    add("--allow-host", action="append", default=[], metavar="NAME", help="a further name by which clients call it")
    add("--data-dir", type=Path, metavar="DIR", help="token, jobs and results (default: the user's data folder)")
    add("--models-dir", type=Path, metavar="DIR", help="presets that are not bundled (default: models in the data dir)")
    add("--preset", default=own.preset, metavar="NAME", help=f"of jobs that name none (default: {own.preset})")
    add("--device", default=worker.device, metavar="NAME", help="auto, cpu, cuda, cuda:INDEX or mps (default: auto)")
    add("--dtype", default=worker.dtype, choices=("auto", "float32", "bfloat16", "float16"), help="default: auto")
    add(
        "--idle-unload",
        type=float,
        default=worker.idle_unload_s,
        metavar="SECONDS",
        help=f"free all memory after so long without a job; 0: never (default: {worker.idle_unload_s:.0f})",
    )
    add(
        "--grace",
        type=float,
        default=own.grace_s,
        metavar="SECONDS",
        help=f"for the running job at the end; it is put off to the next start then (default: {own.grace_s:.0f})",
    )
    add(
        "--keep-jobs",
        type=int,
        default=limits.keep_jobs,
        metavar="N",
        help=f"finished jobs that are kept (default: {limits.keep_jobs})",
    )
    add(
        "--keep-gb",
        type=float,
        default=limits.keep_bytes / 2**30,
        metavar="X",
        help=f"space of their files (default: {limits.keep_bytes / 2**30:.0f})",
    )
    add("--parent-pid", type=int, metavar="PID", help="end when this process does")
    add("--log", choices=("text", "json"), default="text", help="lines for people or for collectors (default: text)")
    add("--verbose", action="store_true", help="also log every request")
    return parser  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Returns when the server has ended; 0 unless it could not start."""
    arguments = build_parser().parse_args(argv)
    set_up_logging(arguments.log, verbose=arguments.verbose)
    return serve(settings_from(arguments), show_token=arguments.log == "text")


def settings_from(arguments: argparse.Namespace) -> ServerSettings:
    """Raises ConfigError for values that cannot be meant."""
    get_preset(arguments.preset)
    for name in ("idle_unload", "grace", "keep_jobs", "keep_gb"):
        if not 0 <= getattr(arguments, name) < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}; it must be 0 or more.")
    if not 0 <= arguments.port <= 65535:
        raise ConfigError(f"--port is {arguments.port}; it must be between 0 and 65535.")
    if arguments.parent_pid is not None and not psutil.pid_exists(arguments.parent_pid):
        raise ConfigError(f"--parent-pid is {arguments.parent_pid}; there is no such process.")
    folder = DataDir(arguments.data_dir)
    return ServerSettings(
        data_dir=folder.path,
        host=_host(arguments.host),
        port=arguments.port,
        allowed_hosts=tuple(arguments.allow_host),
        preset=arguments.preset,
        grace_s=arguments.grace,
        parent_pid=arguments.parent_pid,
        limits=Limits(keep_jobs=arguments.keep_jobs, keep_bytes=int(arguments.keep_gb * 2**30)),
        worker=WorkerSettings(
            device=arguments.device,
            dtype=arguments.dtype,
            models_dir=arguments.models_dir.absolute() if arguments.models_dir else folder.models,
            idle_unload_s=arguments.idle_unload,
        ),
    )


def _host(given: str) -> str:
    """An address in its usual form, or a name. Raises ConfigError for what a system might take for "everywhere"."""
    try:
        return str(ipaddress.ip_address(given))
    except ValueError:
        pass
    if given.replace(".", "").isdecimal() or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", given):
        raise ConfigError(f"--host is {given!r}; it must be an IP address or a name, such as 127.0.0.1 or 0.0.0.0.")
    return given.lower()


def serve(settings: ServerSettings, *, show_token: bool = False) -> int:
    """Runs one server until SIGINT, SIGTERM or the end of its parent.

    Raises:
        ConfigError: for a folder or address that cannot be used.
    """
    folder = DataDir(settings.data_dir)
    folder.create()
    folder.acquire()
    try:
        token = folder.ensure_token()
        bound = _bound(settings)
        with bound:
            _run(settings, folder, bound, token if show_token else None)
    finally:
        folder.release()
    return 0


def _run(settings: ServerSettings, folder: DataDir, bound: socket.socket, token: str | None) -> None:
    store = _open_store(folder)
    files = JobFiles(folder.jobs)
    reconcile(store, files)
    apply_retention(store, files, settings.limits)
    supervisor = Supervisor(settings, store, files)
    gate = Gate(settings.host, settings.allowed_hosts, TokenFile(folder).current)
    parts = Service(settings=settings, store=store, files=files, supervisor=supervisor, gate=gate)
    http = HttpServer(create_app(parts), bound, settings.limits)
    supervisor.start()
    loop = threading.Thread(target=http.run, name="http", daemon=True)
    loop.start()
    url = _url(bound, settings.host)
    folder.write_info(url)
    _greet(url, settings.host, token)
    try:
        _wait_for_the_end(settings, supervisor)
    finally:
        parts.downloads.stop()
        supervisor.stop()
        store.bus.close()
        http.close()
        loop.join(5)
        store.close()
    _log.info("the server has ended")


def _wait_for_the_end(settings: ServerSettings, supervisor: Supervisor) -> None:
    """Until a signal or the parent's end; then until the running job is done or the grace time is over."""
    asked, hurried = threading.Event(), threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        (hurried if asked.is_set() and number == signal.SIGINT else asked).set()

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), on_signal)
    parent_lives = _parent_check(settings.parent_pid)
    while not asked.wait(_PARENT_CHECK_S):
        if not parent_lives():
            _log.info("the parent process has ended")
            break
    _log.info("ending; the running job has %.0f s (Ctrl+C again: at once)", settings.grace_s)
    supervisor.drain(settings.grace_s)
    while not supervisor.wait_drained(0.2) and not hurried.is_set():
        pass


def _parent_check(pid: int | None) -> Callable[[], bool]:
    """Tells whether the process lives; one that took over its number does not count."""
    if pid is None:
        return lambda: True
    try:
        parent = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: False

    def lives() -> bool:
        try:
            return parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    return lives


def _open_store(folder: DataDir) -> JobStore:
    try:
        return JobStore(folder.database, Bus())
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"{folder.database} cannot be used: {error}. Move it away (jobs in it are then not listed any more), "
            "or choose another folder with --data-dir."
        ) from None


def _bound(settings: ServerSettings) -> socket.socket:
    where = f"{settings.host}:{settings.port}"
    try:
        return bind(settings.host, settings.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {settings.port} is taken by another program. Stop it, or choose another with --port"
        elif error.errno in (errno.EACCES, errno.EPERM):
            reason = f"this user may not listen on {where}. Choose a --port above 1023"
        else:
            reason = f"cannot listen on {where}: {error.strerror or error}. Check --host and --port"
        raise ConfigError(f"{reason}.") from None


def _url(bound: socket.socket, host: str) -> str:
    """The address for clients on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


def _greet(url: str, host: str, token: str | None) -> None:
    if not is_loopback(host):
        _log.warning(
            "listening on %s: everybody who reaches this machine and has the token can use it, and the connection is "
            "not encrypted. Put a proxy with TLS before it, or use an SSH tunnel",
            host,
        )
    _log.info("the server is at %s", url)
    if token is not None:  # a log for collectors is no place for it
        print(f"S2 Mesh is at {url}/#token={token}", flush=True)


if __name__ == "__main__":
    sys.exit(run_reporting(main))
