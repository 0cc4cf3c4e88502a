"""``s2mesh generate``: one or more pictures, each to a mesh or, with ``--seeds``, to several."""

import argparse
import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.checkpoints.installed import installed_matting
from core.cli.errors import DEBUG_VARIABLE, describe, run_reporting
from core.cli.generate_files import Job, plan_jobs, writable_folders
from core.cli.generate_report import described, peak_memory, result_line, shown_together
from core.config.generation import MAX_SEED, MESH_FORMATS, GenerationOptions, OptionInfo, option_table
from core.config.stages import stage_names
from core.errors import CheckpointError, ConfigError, DiskFullError

if TYPE_CHECKING:
    from core.checkpoints.load import NetworkStore
    from core.imaging.background import MattingModel
    from core.pipeline.image_to_shape import GenerationResult

Facts = dict[str, Any]  # of one mesh, as ``described`` tells them

# Flags that are not the option's name with dashes, and what the command line has to add to a help.
_FLAGS = {"dense_steps": "--steps", "dense_guidance": "--guidance", "iso_level": "--iso"}
_REMARKS = {"dense_guidance": "Holds for the details too, unless --sparse-guidance is given."}
_VALUES: dict[str, tuple[type, str]] = {"integer": (int, "N"), "number": (float, "X"), "string": (str, "NAME")}


def build_parser() -> argparse.ArgumentParser:
    """The arguments of the command; ``options_from`` makes options of what they hold."""
    parser = argparse.ArgumentParser(
        prog="s2mesh generate",
        description="Make a mesh of the object in each picture. A plain background is removed; a picture with "
        "a transparent background gives the best shape. Y is up, the front is towards +Z.",
    )
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="PNG, JPEG, WebP, BMP, TIFF or GIF")
    add("-o", "--output", metavar="OUT", help="mesh file; with several pictures a folder (default: IMAGE's "
        "name in the current folder)")  # fmt: skip
    add("--format", choices=MESH_FORMATS, help="of the mesh (default: OUT's ending, else glb)")
    add("--preview", type=Path, metavar="PNG", help="also draw the mesh; with several pictures a folder")
    add("--seeds", type=int, default=1, metavar="N", help="so many meshes of each picture, with --seed and the numbers "
        "that follow it; with more than one, OUT is a folder")  # fmt: skip
    add("--models-dir", type=Path, metavar="DIR", help="where presets that are not bundled are kept")
    add("--no-cuda-graphs", dest="cuda_graphs", action="store_false",
        help="launch every kernel of every step by itself; for finding faults, slower on NVIDIA GPUs")  # fmt: skip
    add("--quiet", action="store_true", help="print nothing but errors")
    add("--json", action="store_true", help="print one JSON object a picture instead of a line")
    group = parser.add_argument_group("options of the generation")
    for option in option_table(GenerationOptions):
        _add_option(group, option)
    return parser


def _add_option(group: Any, option: OptionInfo) -> None:
    dashed = option.name.replace("_", "-")
    texts = [option.help, _REMARKS.get(option.name, "")]
    if option.type == "boolean":
        assert option.default is True, "an option that is off needs another flag"
        group.add_argument(f"--no-{dashed}", dest=option.name, action="store_false", help=f"Turn off: {option.help}")
        return
    texts.append("" if option.default is None else f"Default: {option.default}.")
    kind, metavar = _VALUES[option.type]
    group.add_argument(
        _FLAGS.get(option.name, f"--{dashed}"), dest=option.name, type=kind, default=option.default,
        choices=option.choices, metavar=None if option.choices else metavar,
        help=" ".join(filter(None, texts)).replace("%", "%%"),
    )  # fmt: skip


def options_from(arguments: argparse.Namespace) -> GenerationOptions:
    """The options among the arguments that ``build_parser`` has read; ``--guidance`` alone is that of all stages.

    Raises:
        ConfigError: for a value beyond its limits.
    """
    values = {option.name: getattr(arguments, option.name) for option in option_table(GenerationOptions)}
    if values["sparse_guidance"] is None:
        values["sparse_guidance"] = values["dense_guidance"]
    return GenerationOptions(**values)


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or if any picture failed 2 for the user's mistake, 1 for ours."""
    arguments = build_parser().parse_args(argv)
    options = options_from(arguments)
    seeds = seeds_from(arguments)
    jobs = plan_jobs(arguments.images, arguments.output, arguments.format, arguments.preview, seeds)
    with writable_folders(jobs):
        networks = _networks(options, arguments.models_dir, arguments.cuda_graphs)  # torch is loaded from here on
        matting = installed_matting(arguments.models_dir)
        outcomes = _made(jobs, options, networks, matting, quiet=arguments.quiet)
        return _tell_each(len(jobs), outcomes, as_json=arguments.json, quiet=arguments.quiet)


def seeds_from(arguments: argparse.Namespace) -> list[int]:
    """The seeds of ``--seeds``, from that of the options on; none where one mesh of each picture is wanted.

    Raises:
        ConfigError: for a number that is too small, or seeds beyond the largest.
    """
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds is {arguments.seeds}; it must be 1 or more.")
    last = arguments.seed + arguments.seeds - 1
    if last > MAX_SEED:
        raise ConfigError(f"--seeds {arguments.seeds} from --seed {arguments.seed} on passes the largest, {MAX_SEED}.")
    return list(range(arguments.seed, last + 1)) if arguments.seeds > 1 else []


def run_each(jobs: list[Job], make: Callable[[Job], Facts], *, as_json: bool, quiet: bool) -> int:
    """Make each picture's files and tell the facts that ``make`` returns; a failure stops no other picture.

    Returns:
        0, or the status of what failed: 2 if any was the user's mistake, else 1.
    """
    return _tell_each(len(jobs), ((job, _outcome(make, job)) for job in jobs), as_json=as_json, quiet=quiet)


def _tell_each(count: int, outcomes: Iterable[tuple[Job, Facts | Exception]], *, as_json: bool, quiet: bool) -> int:
    """Tell the facts or the failure of each of ``count`` jobs as they come; returns as ``run_each``."""
    statuses = []
    for job, outcome in outcomes:
        if isinstance(outcome, CheckpointError | DiskFullError):
            raise outcome  # the next picture would meet it too
        if isinstance(outcome, Exception):
            if count == 1 and not as_json:
                raise outcome
            statuses.append(_tell_failure(job, outcome, as_json=as_json))
            continue
        statuses.append(0)
        _tell(outcome, as_json=as_json, quiet=quiet)
    return 2 if 2 in statuses else max(statuses)


def _outcome(make: Callable[[Job], Facts], job: Job) -> Facts | Exception:
    try:
        return make(job)
    except Exception as error:
        return error


# --- the work ---


def _networks(options: GenerationOptions, models_dir: Path | None, cuda_graphs: bool) -> "NetworkStore":
    from core.checkpoints.load import NetworkStore, find_preset_folder
    from core.config.presets import get_preset
    from core.pipeline.devices import resolve_device, resolve_dtype

    preset = get_preset(options.preset).up_to(options.resolution)
    device = resolve_device(options.device)
    dtype = resolve_dtype(device, options.dtype)
    return NetworkStore(preset, find_preset_folder(preset, models_dir), device, dtype, cuda_graphs=cuda_graphs)


def _made(
    jobs: list[Job],
    options: GenerationOptions,
    networks: "NetworkStore",
    matting: "MattingModel | None",
    *,
    quiet: bool,
) -> Iterator[tuple[Job, Facts | Exception]]:
    """Each job and the facts of its mesh, which is then written, or what went wrong."""
    from core.pipeline.image_to_shape import Picture, generate_many

    titles = [job.image.name if job.seed is None else f"{job.image.name}, seed {job.seed}" for job in jobs]
    with shown_together(titles, stage_names(networks.preset), quiet=quiet) as show:
        pictures = [Picture(job.image, job.seed) for job in jobs]
        for index, result in generate_many(pictures, networks, options, on_progress=show, matting=matting):
            if isinstance(result, Exception):
                yield jobs[index], result
            else:
                yield jobs[index], _outcome(lambda job, result=result: _write(job, result, networks), jobs[index])


def _write(job: Job, result: "GenerationResult", networks: "NetworkStore") -> Facts:
    """The files of a result, and what came out. They appear by rename, after everything else is done."""
    from core.files import write_atomically
    from core.geometry.export import write_mesh
    from core.geometry.preview import mesh_png

    started = time.perf_counter()
    preview = None if job.preview is None else mesh_png(result.mesh)
    extras = {
        "seed": result.seed,
        "settings": result.settings,
        "image": job.image.name,
        "image_sha256": hashlib.sha256(job.image.read_bytes()).hexdigest(),
    }
    write_mesh(result.mesh, job.output, file_format=job.file_format, extras=extras)
    if preview is not None:
        write_atomically(job.preview, preview)
    seconds = sum(result.timings.values()) + time.perf_counter() - started
    return described(result, str(job.image), str(job.output), seconds, peak_memory(networks.device))


# --- what is printed ---


def _tell(facts: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps(facts), flush=True)
    elif not quiet:
        for note in facts["notes"]:
            print(f"s2mesh: note: {note}", file=sys.stderr)
        print(result_line(facts), flush=True)


def _tell_failure(job: Job, error: Exception, *, as_json: bool) -> int:
    """One line for a picture that failed; returns its exit status."""
    if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        traceback.print_exception(error)
    message, status = describe(error)
    message = " ".join(message.split())
    named = message if str(job.image) in message else f"{job.image}: {message}"
    print(f"s2mesh: error: {named}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"image": str(job.image), "error": message, "status": status}), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(run_reporting(main))
