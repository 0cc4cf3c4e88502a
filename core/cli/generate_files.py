"""Where the results of ``s2mesh generate`` go: names, folders, and whether they can be written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.config.generation import MESH_FORMATS
from core.errors import ConfigError, InputError


@dataclass(frozen=True)
class Job:
    """One mesh: the picture, and the files that shall come of it."""

    image: Path
    output: Path
    file_format: str
    preview: Path | None
    seed: int | None = None  # None: that of the options


def plan_jobs(
    images: list[Path], out: str | None, file_format: str | None, preview: Path | None, seeds: Sequence[int] = ()
) -> list[Job]:
    """Which file each picture becomes. An ``out`` that ends in a slash, or is a folder, is a folder.

    Args:
        seeds: one mesh of each picture for each of them; none is one mesh with the seed of the options. Where there are
            several, names end in the seed.

    Raises:
        ConfigError: for a format that contradicts the file's ending, or one file for several meshes.
    """
    many, output = len(images) * max(len(seeds), 1) > 1, None if out is None else Path(out)
    ending = output.suffix.lower().lstrip(".") if output is not None else ""
    into_folder = output is not None and (many or output.is_dir() or out.endswith(("/", os.sep)))
    if many and ending in MESH_FORMATS and not output.is_dir():
        raise ConfigError(f"{output} is one file for {_meshes(images, seeds)}. Give a folder with -o.")
    if many and preview is not None and preview.suffix.lower() == ".png" and not preview.is_dir():
        raise ConfigError(f"{preview} is one file for {_meshes(images, seeds)}. Give a folder with --preview.")
    if not many and preview is not None and not preview.is_dir() and preview.suffix.lower() != ".png":
        raise ConfigError(f"the preview {preview} must end in .png.")
    if output is None or into_folder:
        chosen = file_format or "glb"
        folder = output if output is not None else Path()
        names = _distinct([image.stem or "mesh" for image in images])
        if len(seeds) > 1:
            names = _distinct([f"{name}-seed{seed}" for name in names for seed in seeds])
        outputs = [folder / f"{name}.{chosen}" for name in names]
    else:
        chosen = _format_of(output, ending, file_format)
        names, outputs = [images[0].stem], [output if ending else output.with_name(f"{output.name}.{chosen}")]
    made = [(image, seed) for image in images for seed in seeds or (None,)]
    for (image, _), target in zip(made, outputs, strict=True):
        if target.exists() and image.exists() and target.samefile(image):
            raise ConfigError(f"{target} is the picture itself. Name another file with -o.")
    previews = [_preview_path(preview, name, many) for name in names]
    return [Job(i, o, chosen, p, s) for (i, s), o, p in zip(made, outputs, previews, strict=True)]


def _meshes(images: list[Path], seeds: Sequence[int]) -> str:
    return f"{len(images)} pictures" if len(seeds) <= 1 else f"{len(images) * len(seeds)} meshes"


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
