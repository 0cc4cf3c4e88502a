"""What a server is started with: where it listens, where its data lies, how patient it is. No values but defaults."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_PORT = 8493
API_VERSION = 1  # of the routes below /v1

# For OpenMP, read when torch is loaded. Threads that spin while they wait make a busy machine crawl (a picture took
# 54 s instead of 13 beside two other programs on two cores); threads that never do cost an idle one 28 %.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may take of the server."""

    body_bytes: int = 32 * 2**20  # of a request, the picture included
    request_s: float = 60.0  # in which a request must have arrived whole
    idle_connection_s: float = 120.0
    connections: int = 1000
    queue: int = 100  # jobs that wait
    event_streams: int = 16  # connections that hold a thread each; everybody else polls
    uploads: int = 4  # pictures in memory at a time
    job_bytes: int = 2 * 2**30  # files of one job
    keep_jobs: int = 200  # finished jobs; older ones are removed
    keep_bytes: int = 10 * 2**30  # their files


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How the worker process is run and watched."""

    device: str = "auto"
    dtype: str = "auto"
    models_dir: Path | None = None
    command: tuple[str, ...] = ()  # what starts it; empty: this Python with server.worker
    start_at_once: bool = True  # else with the first job
    idle_unload_s: float = 300.0  # without a job, until it ends and its memory is free; 0: never
    start_timeout_s: float = 180.0
    heartbeat_timeout_s: float = 30.0  # without a heartbeat: it is stopped or dead, and is replaced
    stall_timeout_s: float = 1800.0  # without a step of the running job
    cancel_grace_s: float = 10.0  # from a cancel to a kill
    exit_grace_s: float = 5.0
    breaker_deaths: int = 3  # deaths in a row that open the circuit breaker
    breaker_cooldown_s: float = 60.0  # until one more start is tried

    def command_line(self) -> list[str]:
        """The command and its arguments; ``server.worker`` understands them."""
        start = self.command or (sys.executable, "-m", "server.worker")
        models = ["--models-dir", str(self.models_dir)] if self.models_dir else []
        return [*start, "--device", self.device, "--dtype", self.dtype, *models]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """One server."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT  # 0: any that is free
    allowed_hosts: tuple[str, ...] = ()  # further names that a Host header may carry
    preset: str = "starter"  # of jobs that name none
    grace_s: float = 60.0  # from SIGTERM to the end of the running job, which is then run again at the next start
    parent_pid: int | None = None  # leave when this process ends
    models_command: tuple[str, ...] = ()  # what downloads presets; empty: this Python with `s2mesh models`
    limits: Limits = field(default_factory=Limits)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
