"""``s2mesh jobs``: lists, shows, cancels, fetches and deletes the jobs of a server."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.errors import run_reporting
from core.errors import ConfigError, InputError
from server.commands.connect import add_server_arguments, connect
from server.jobs.model import ARTIFACTS, JobState, is_id

if TYPE_CHECKING:  # it loads requests, which the help needs not
    from server.client import Client

Job = dict[str, Any]
_SHORT = 8  # digits of an id in a list
_LIMIT = 20


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2mesh jobs",
        description="Look after the jobs of a server. An ID may be shortened as long as it means one job.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")

    def verb(run: Callable[..., int], text: str, *, ids: str | int | None = None) -> Any:
        added = verbs.add_parser(run.__name__.strip("_"), help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.set_defaults(run=run)
        if ids is not None:
            added.add_argument("ids", nargs=ids, metavar="ID", help="of a job")
        add_server_arguments(added)
        return added.add_argument

    add = verb(_list, "list jobs, newest first")
    add("--state", choices=[state.value for state in JobState], help="only those in this state")
    add("--limit", type=int, default=_LIMIT, metavar="N", help=f"at most so many; 0: all (default: {_LIMIT})")
    add("--json", action="store_true", help="print one JSON object a job")
    add = verb(_show, "show one job: its state, options and files", ids=1)
    add("--wait", action="store_true", help="wait for its end; the status is then 1 unless it succeeded")
    add("--json", action="store_true", help="print it as JSON")
    verb(_cancel, "cancel jobs; one that runs stops at its next step", ids="+")
    add = verb(_fetch, "download files of a job", ids=1)
    add("names", nargs="*", metavar="NAME", help="such as mesh.glb (default: all that it has)")
    add("-o", "--output", type=Path, default=Path(), metavar="DIR", help="default: the current folder")
    add("--force", action="store_true", help="replace files that are there")
    verb(_delete, "delete finished jobs and their files", ids="+")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Returns 0; with ``show --wait`` 1 for a job that failed or was cancelled."""
    arguments = build_parser().parse_args(argv)
    with connect(arguments, os.environ) as client:
        return arguments.run(client, arguments)


# --- verbs ---


def _list(client: "Client", arguments: argparse.Namespace) -> int:
    if arguments.limit < 0:
        raise ConfigError(f"--limit is {arguments.limit}; it must be 0 or more.")
    found = False
    for job in client.jobs(arguments.state, arguments.limit or None):
        found = True
        if arguments.json:
            print(json.dumps(job), flush=True)
        else:
            print(f"{job['id'][:_SHORT]}  {_local(job['created_at'])}  {_progress(job):<28}  {job['title']}")
    if not found and not arguments.json:
        print("s2mesh: there are no such jobs.", file=sys.stderr)
    return 0


def _show(client: "Client", arguments: argparse.Namespace) -> int:
    from server.client_errors import JobFailed

    job_id, failed = find_job(client, arguments.ids[0]), False
    if arguments.wait:
        try:
            job = client.wait(job_id)
        except JobFailed as error:
            job, failed = error.job, True
    else:
        job = client.job(job_id)
    print(json.dumps(job, indent=2) if arguments.json else "\n".join(_described(job)), flush=True)
    return 1 if failed else 0


def _cancel(client: "Client", arguments: argparse.Namespace) -> int:
    for job_id in [find_job(client, text) for text in arguments.ids]:
        job = client.cancel(job_id)
        print(f"{job_id[:_SHORT]}: {'stops at its next step' if job['cancelling'] else job['state']}", flush=True)
    return 0


def _fetch(client: "Client", arguments: argparse.Namespace) -> int:
    job = client.job(find_job(client, arguments.ids[0]))
    if unknown := [name for name in arguments.names if name not in ARTIFACTS]:
        raise InputError(f"no job has a file {unknown[0]!r}. Known: {', '.join(ARTIFACTS)}.")
    names = arguments.names or [entry["name"] for entry in job["artifacts"] if entry["name"] in ARTIFACTS]
    if not names:
        raise InputError(f"the job is {job['state']} and has no files. See `s2mesh jobs show {job['id'][:_SHORT]}`.")
    targets = [arguments.output / name for name in names]
    if not arguments.force and (there := [path for path in targets if path.exists()]):
        raise InputError(f"{there[0]} is there already. Name another folder with -o, or replace it with --force.")
    try:
        arguments.output.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {arguments.output}: {error.strerror or error}.") from None
    for name, path in zip(names, targets, strict=True):
        print(client.download(job["id"], name, path), flush=True)
    return 0


def _delete(client: "Client", arguments: argparse.Namespace) -> int:
    for job_id in [find_job(client, text) for text in arguments.ids]:
        client.delete(job_id)
        print(f"{job_id[:_SHORT]}: deleted", flush=True)
    return 0


def find_job(client: "Client", text: str) -> str:
    """The id that ``text`` is, or begins.

    Raises:
        InputError: if it begins none, or several.
    """
    text = text.lower()
    if is_id(text):
        return text
    found = [job for job in client.jobs() if text and job["id"].startswith(text)]
    if not found:
        raise InputError(f"no job has an id that begins with {text[:40]!r}. See `s2mesh jobs list`.")
    if len(found) > 1:
        which = ", ".join(f"{job['id'][: max(_SHORT, len(text) + 4)]} ({job['title']})" for job in found[:5])
        raise InputError(f"{text!r} may mean {len(found)} jobs: {which}. Write more of the id.")
    return found[0]["id"]


# --- what is printed ---


def _described(job: Job) -> list[str]:
    """Of one job, for people."""
    rows = [("id", job["id"]), ("picture", job["title"]), ("state", _progress(job))]
    rows += [(name, _local(job[f"{name}_at"])) for name in ("created", "started", "finished") if job[f"{name}_at"]]
    if job["error"]:
        advice = job["error"]["details"].get("advice", "")
        rows.append(("error", f"{job['error']['code']}: {job['error']['message']} {advice}".rstrip()))
    if job["result"]:
        result = job["result"]
        closed = "watertight" if result["watertight"] else "not watertight"
        mesh = f"{result['vertices']} vertices, {result['faces']} faces, {closed}, {result['seconds']:.1f} s"
        rows.append(("mesh", f"{mesh} on {result['device']} in {result['dtype']}"))
    told = {name: value for name, value in job["options"].items() if value is not None}
    rows.append(("options", ", ".join(f"{name} {json.dumps(value)}" for name, value in told.items())))
    rows += [("note", note) for note in job["notes"]]
    rows += [("file", f"{entry['name']:<15} {entry['bytes'] / 1e6:8.2f} MB") for entry in job["artifacts"]]
    return [f"{name:<9} {value}" for name, value in rows]


def _progress(job: Job) -> str:
    state = "stopping" if job["cancelling"] else job["state"]
    if job["queue_position"] is not None:
        return f"{state}, number {job['queue_position']}"
    if job["state"] != JobState.RUNNING.value:
        return state
    left = "" if job["eta_s"] is None else f", {job['eta_s']:.0f} s left"
    return f"{state}, {100 * job['fraction']:.0f} %{left}"


def _local(timestamp: str) -> str:
    """In this machine's time zone, to the second."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M:%S")


if __name__ == "__main__":
    sys.exit(run_reporting(main))
