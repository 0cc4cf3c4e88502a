"""``s2mesh generate``: one or more pictures, each to a mesh."""

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.checkpoints.installed import installed_matting
from core.cli.errors import DEBUG_VARIABLE, describe, run_reporting
from core.cli.generate_report import described, peak_memory, result_line, shown_progress
from core.config.generation import MESH_FORMATS, GenerationOptions, OptionInfo, option_table
from core.config.stages import stage_names
from core.errors import CheckpointError, ConfigError, DiskFullError, InputError

if TYPE_CHECKING:
    from core.checkpoints.load import NetworkStore
    from core.imaging.background import MattingModel


@dataclass(frozen=True)
class Job:
    """One picture and the files that shall come of it."""

    image: Path
    output: Path
    file_format: str
    preview: Path | None


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
    jobs = plan_jobs(arguments.images, arguments.output, arguments.format, arguments.preview)
    with writable_folders(jobs):
        networks = _networks(options, arguments.models_dir, arguments.cuda_graphs)  # torch is loaded from here on
        matting = installed_matting(arguments.models_dir)

        def make(job: Job) -> dict[str, Any]:
            return _run(job, options, networks, matting, quiet=arguments.quiet)

        return run_each(jobs, make, as_json=arguments.json, quiet=arguments.quiet)


def run_each(jobs: list[Job], make: Callable[[Job], dict[str, Any]], *, as_json: bool, quiet: bool) -> int:
    """Make each picture's files and tell the facts that ``make`` returns; a failure stops no other picture.

    Returns:
        0, or the status of what failed: 2 if any was the user's mistake, else 1.
    """
    statuses = []
    for job in jobs:
        try:
            facts = make(job)
        except (CheckpointError, DiskFullError):
            raise  # the next picture would meet it too
        except Exception as error:
            if len(jobs) == 1 and not as_json:
                raise
            statuses.append(_tell_failure(job, error, as_json=as_json))
            continue
        statuses.append(0)
        _tell(facts, as_json=as_json, quiet=quiet)
    return 2 if 2 in statuses else max(statuses)


# --- where results go ---


def plan_jobs(images: list[Path], out: str | None, file_format: str | None, preview: Path | None) -> list[Job]:
    """Which file each picture becomes. An ``out`` that ends in a slash, or is a folder, is a folder.

    Raises:
        ConfigError: for a format that contradicts the file's ending, or one file for several pictures.
    """
    many, output = len(images) > 1, None if out is None else Path(out)
    ending = output.suffix.lower().lstrip(".") if output is not None else ""
    into_folder = output is not None and (many or output.is_dir() or out.endswith(("/", os.sep)))
    if many and ending in MESH_FORMATS and not output.is_dir():
        raise ConfigError(f"{output} is one file for {len(images)} pictures. Give a folder with -o.")
    if many and preview is not None and preview.suffix.lower() == ".png" and not preview.is_dir():
        raise ConfigError(f"{preview} is one file for {len(images)} pictures. Give a folder with --preview.")
    if not many and preview is not None and not preview.is_dir() and preview.suffix.lower() != ".png":
        raise ConfigError(f"the preview {preview} must end in .png.")
    if output is None or into_folder:
        chosen = file_format or "glb"
        folder = output if output is not None else Path()
        names = _distinct([image.stem or "mesh" for image in images])
        outputs = [folder / f"{name}.{chosen}" for name in names]
    else:
        chosen = _format_of(output, ending, file_format)
        names, outputs = [images[0].stem], [output if ending else output.with_name(f"{output.name}.{chosen}")]
    for image, target in zip(images, outputs, strict=True):
        if target.exists() and image.exists() and target.samefile(image):
            raise ConfigError(f"{target} is the picture itself. Name another file with -o.")
    previews = [_preview_path(preview, name, many) for name in names]
    return [Job(i, o, chosen, p) for i, o, p in zip(images, outputs, previews, strict=True)]


def _format_of(output: Path, ending: str, file_format: str | None) -> str:
    known = ", ".join(MESH_FORMATS)
    if ending and ending not in MESH_FORMATS:
        raise ConfigError(f"{output} names no mesh format. End it in one of: {known}.")
    if ending and file_format and ending != file_format:
        raise ConfigError(f"{output} ends in .{ending}, but --format is {file_format}. Leave one of them out.")
    return file_format or ending or "glb"


def _preview_path(preview: Path | None, name: str, many: bool) -> Path | None:
    if preview is None:
        return None
    return preview / f"{name}.png" if many or preview.is_dir() else preview


def _distinct(names: list[str]) -> list[str]:
    """The names, with -2, -3 and so on where one was there before."""
    used: set[str] = set()
    for index, name in enumerate(names):
        number = 1
        while (candidate := name if number == 1 else f"{name}-{number}").lower() in used:
            number += 1
        used.add(candidate.lower())
        names[index] = candidate
    return names


@contextlib.contextmanager
def writable_folders(jobs: list[Job]) -> Iterator[None]:
    """Checks every file of ``jobs`` before any long work; folders made for it go again where nothing came into them.

    Raises:
        InputError: as ``check_writable``.
    """
    made = []
    try:
        for job in jobs:
            made += [check_writable(path) for path in (job.output, job.preview) if path is not None]
        yield
    finally:
        for folder in filter(None, made):
            with contextlib.suppress(OSError):  # it holds results
                folder.rmdir()


def check_writable(path: Path) -> Path | None:
    """Makes the folder of ``path`` if its own folder is there, and tries to write into it, before any long work.

    Returns:
        The folder if it was made.

    Raises:
        InputError: saying why it cannot be written.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder. Name a file in it.")
    folder = path.parent
    new = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileNotFoundError, NotADirectoryError, FileExistsError):
        raise InputError(f"cannot write {path}: there is no folder {folder}. Create it first.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}. Choose a folder that you may write to.") from None
    return folder if new else None


# --- one picture ---


def _networks(options: GenerationOptions, models_dir: Path | None, cuda_graphs: bool) -> "NetworkStore":
    from core.checkpoints.load import NetworkStore, find_preset_folder
    from core.config.presets import get_preset
    from core.pipeline.devices import resolve_device, resolve_dtype

    preset = get_preset(options.preset).up_to(options.resolution)
    device = resolve_device(options.device)
    dtype = resolve_dtype(device, options.dtype)
    return NetworkStore(preset, find_preset_folder(preset, models_dir), device, dtype, cuda_graphs=cuda_graphs)


def _run(
    job: Job, options: GenerationOptions, networks: "NetworkStore", matting: "MattingModel | None", *, quiet: bool
) -> dict[str, Any]:
    """Generate, write, and say what came out. Files appear by rename, after everything else is done."""
    from core.files import write_atomically
    from core.geometry.export import write_mesh
    from core.geometry.preview import mesh_png
    from core.pipeline.image_to_shape import generate

    started = time.perf_counter()
    with shown_progress(job.image.name, stage_names(networks.preset), quiet=quiet) as show:
        result = generate(job.image, networks, options, on_progress=show, matting=matting)
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
    seconds = time.perf_counter() - started
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
