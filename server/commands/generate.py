"""``s2mesh generate``: on this machine, or with ``--server`` on a server: the same arguments, files and words.

Without ``--server`` it is ``core.cli.generate``. With it the pictures go up, a few in advance so that the server has
never to wait, and the meshes come down in order. What is not finished when the command ends, by Ctrl+C or an error,
is cancelled on the server.
"""

import argparse
import contextlib
import os
import sys
import time
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from core.cli import generate as local
from core.cli.errors import run_reporting
from core.cli.generate_report import shown_progress
from core.config.generation import GenerationOptions, option_table
from core.errors import ConfigError, CoreError
from server.commands.connect import LOCAL, add_server_arguments, connect

if TYPE_CHECKING:  # it loads requests, which local work needs not
    from server.client import Client

_AHEAD = 4  # jobs that are sent before the first of them is done
_QUEUE_FULL_S = 10.0  # until the next try, where the server says nothing
_OF_THE_SERVER = {"device": "--device", "dtype": "--dtype", "models_dir": "--models-dir"}  # what `serve` decides

Json = dict[str, Any]


def build_parser() -> argparse.ArgumentParser:
    parser = local.build_parser()
    more = "; without it the work is done here. The preset is then the server's unless given"
    add_server_arguments(parser, default=None, more=more)
    parser.set_defaults(preset=None)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or if any picture failed 2 for the user's mistake, 1 for ours."""
    arguments = build_parser().parse_args(argv)
    if arguments.server is None:
        for name in ("token_file", "data_dir"):
            if getattr(arguments, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} is for a server. Add --server URL or --server {LOCAL}.")
        return local.main(argv)
    if arguments.seeds != 1:
        raise ConfigError("--seeds is for work on this machine. Leave it out, or leave --server out.")
    options = job_options(arguments)
    jobs = local.plan_jobs(arguments.images, arguments.output, arguments.format, arguments.preview)
    with (
        local.writable_folders(jobs),
        connect(arguments, os.environ) as client,
        contextlib.closing(Remote(client, jobs, options, quiet=arguments.quiet)) as remote,
    ):
        return local.run_each(jobs, remote.make, as_json=arguments.json, quiet=arguments.quiet)


def job_options(arguments: argparse.Namespace) -> Json:
    """The options of the jobs: the seed, and what differs from the default.

    Raises:
        ConfigError: for an option that is the server's own, or a value beyond its limits.
    """
    own = {"models_dir": None} | {row.name: row.default for row in option_table(GenerationOptions)}
    if not arguments.cuda_graphs:
        raise ConfigError("--no-cuda-graphs is for work on this machine. Leave it out, or leave --server out.")
    for name, flag in _OF_THE_SERVER.items():
        if getattr(arguments, name) != own[name]:
            raise ConfigError(f"{flag} is decided where the server starts: `s2mesh serve {flag} ...`. Leave it out.")
    preset = arguments.preset
    arguments.preset = GenerationOptions().preset if preset is None else preset
    chosen, default = local.options_from(arguments), GenerationOptions()
    names = [name for name in own if name not in (*_OF_THE_SERVER, "preset", "seed")]
    changed = {name: getattr(chosen, name) for name in names if getattr(chosen, name) != getattr(default, name)}
    return {"seed": chosen.seed, **({} if preset is None else {"preset": preset}), **changed}


class Remote:
    """The pictures of one command on their way through a server.

    Raises:
        CoreError: at once, if the server cannot be reached or refuses the token.
    """

    def __init__(self, client: "Client", jobs: list[local.Job], options: Json, *, quiet: bool) -> None:
        self._client = client
        self._presets = {preset["name"]: preset for preset in client.capabilities()["presets"]}
        self._options = options
        self._quiet = quiet
        self._waiting = deque(jobs)
        self._sent: deque[tuple[local.Job, Json | CoreError]] = deque()  # the server's job, or why there is none
        self._unfinished: set[str] = set()

    def make(self, job: local.Job) -> Json:
        """The files of the next job of the list, and the facts about them; ``run_each`` calls it in order."""
        self._send_ahead()
        planned, sent = self._sent.popleft()
        assert planned is job
        if isinstance(sent, CoreError):
            raise sent
        done = self._followed(job, sent)
        self._client.download(done["id"], f"mesh.{job.file_format}", job.output)
        if job.preview is not None:
            self._client.download(done["id"], "preview.png", job.preview)
        result = done["result"]
        told = {name: result[name] for name in ("vertices", "faces", "watertight", "tokens", "timings")}
        return {
            "image": str(job.image),
            "output": str(job.output),
            **told,
            "seconds": round(result["seconds"], 2),
            "peak_memory_bytes": None,  # the server's memory is not this command's
            "seed": done["options"]["seed"],
            "notes": done["notes"],
        }

    def close(self) -> None:
        """Cancels what has not ended. A Ctrl+C more, as wrappers send it, does not leave jobs behind."""
        for job_id in self._unfinished:
            for _ in range(2):
                try:
                    self._client.cancel(job_id)
                    break
                except KeyboardInterrupt:
                    continue
                except CoreError:
                    break

    def _send_ahead(self) -> None:
        """Sends pictures until enough wait on the server, or it takes no more; one at least."""
        from server.client_errors import Refused

        while self._waiting and len(self._sent) < _AHEAD:
            job = self._waiting[0]
            options = {**self._options, "formats": [job.file_format]}
            outcome: Json | CoreError
            try:
                outcome = self._client.submit(job.image, options)
                self._unfinished.add(outcome["id"])
            except Refused as error:
                if error.code == "queue_full":
                    if self._sent:
                        return  # there is room again when one of ours has ended
                    self._tell(f"{job.image.name}: the server's queue is full; waiting")
                    time.sleep(error.retry_after_s or _QUEUE_FULL_S)
                    continue
                outcome = error
            except CoreError as error:
                outcome = error
            self._waiting.popleft()
            self._sent.append((job, outcome))

    def _followed(self, job: local.Job, sent: Json) -> Json:
        """The finished job."""
        from server.client_errors import JobFailed

        before = (self._client.job(sent["id"])["queue_position"] or 1) - 1
        if before:
            self._tell(f"{job.image.name}: waits for {before} other job{'s' if before > 1 else ''}")
        stages, reached = self._stages(sent["options"]), 0.0
        with shown_progress(job.image.name, stages, quiet=self._quiet, fraction=lambda *_: reached) as show:

            def on_event(event: Json) -> None:
                nonlocal reached
                if event["type"] == "progress" and event["stage"] in stages:
                    reached = event["fraction"]
                    show(SimpleNamespace(stage=event["stage"], step=event["step"], steps=event["steps"]))

            try:
                done = self._client.wait(sent["id"], on_event)
            except JobFailed:
                self._unfinished.discard(sent["id"])
                raise
        self._unfinished.discard(sent["id"])
        return done

    def _stages(self, options: Json) -> list[str]:
        """Of a job with these options: those of its preset up to its resolution, which their names end in."""
        stages, last = self._presets[options["preset"]]["stages"], options["resolution"]
        ends = [name.rpartition(" ")[2] for name in stages]
        return [
            name
            for name, end in zip(stages, ends, strict=True)
            if last is None or not end.isdecimal() or int(end) <= last
        ]

    def _tell(self, line: str) -> None:
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_reporting(main))
