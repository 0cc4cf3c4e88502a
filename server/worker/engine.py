"""Runs one job after the other with the models of ``core``: the only file of the server that loads them.

Results are files in the job's folder, each written beside its name and renamed, so that a name is always a whole
file. What goes wrong becomes one ``Failed`` with a code, a sentence and advice.
"""

import hashlib
import importlib
import io
import json
import logging
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from core import __version__
from core.checkpoints.installed import find_preset_folder, installed_matting
from core.checkpoints.load import NetworkStore
from core.cli.errors import describe
from core.config.generation import GenerationOptions, OutputOptions
from core.config.presets import get_preset
from core.config.stages import EXPORT, LOAD
from core.errors import (
    CheckpointError,
    ConfigError,
    DeviceMemoryError,
    GenerationCancelled,
    InputError,
    NoSurfaceError,
    is_disk_full,
    is_memory_error,
)
from core.files import write_atomically
from core.geometry.export import mesh_bytes
from core.geometry.mesh import Mesh
from core.geometry.preview import TURN_FRAMES, mesh_png, turntable_webp
from core.imaging.background import MattingModel
from core.imaging.load import RGBAImage
from core.pipeline.devices import device_title, resolve_device, resolve_dtype
from core.pipeline.hand_over import Structure
from core.pipeline.image_to_shape import GenerationResult, generate
from core.pipeline.progress import CancelToken, Progress, StageReporter, Step
from core.pipeline.residency import Resident, plan_run
from server.worker import protocol

_log = logging.getLogger("s2mesh.worker")

_ADVICE = {
    "out_of_memory": "Choose a smaller resolution, unload other programs from the device, or use another device.",
    "device_failed": "Update the device's driver; if it comes again, start the server with --device cpu.",
    "image_unusable": "Use an undamaged PNG, JPEG or WebP that shows one whole object.",
    "options_unusable": "Change the options that the message names.",
    "no_surface": "Try another seed, or a picture that shows one whole object on a plain background.",
    "weights_unusable": "Look at `s2mesh doctor`; install the preset's weights again.",
    "disk_full": "Free some space, or delete old jobs.",
    "job_too_large": "Ask for fewer formats or fewer faces.",
    "internal": "Look into the server's log and report it with the traceback.",
}
_KINDS = (
    (InputError, "image_unusable"),
    (ConfigError, "options_unusable"),
    (NoSurfaceError, "no_surface"),
    (CheckpointError, "weights_unusable"),
)


_LATE_LIBRARIES = (
    "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers",
    "trimesh.visual.material",
)


class JobTooLarge(Exception):
    """The job's files are more than they may be."""


class Engine:
    """The networks of one preset on one device, and the job that runs.

    Raises:
        ConfigError: for a device or dtype that this machine does not have.
    """

    def __init__(
        self, device: str, dtype: str, models_dir: Path | None, send: Callable[[protocol.Event], None]
    ) -> None:
        self._device = resolve_device(device)
        self._dtype = resolve_dtype(self._device, dtype)
        self._models_dir = models_dir
        self._send = send
        self._networks: NetworkStore | None = None
        self._matting: MattingModel | None = None
        self._cancels: dict[str, CancelToken] = {}
        self._lock = threading.Lock()

    def ready(self) -> protocol.Ready:
        dtype = str(self._dtype).removeprefix("torch.")
        return protocol.Ready(
            device=str(self._device), device_title=device_title(self._device), dtype=dtype, memory=self.memory()
        )

    def warm_up(self) -> None:
        """Loads the libraries that the models import when first used, seconds in all: no job shall wait for them."""
        for name in _LATE_LIBRARIES:
            importlib.import_module(name)

    def heartbeat(self) -> protocol.Heartbeat:
        networks = self._networks
        return protocol.Heartbeat(preset=networks and networks.preset.name, memory=self.memory())

    def memory(self) -> protocol.Memory:
        """Of the GPU, else of the machine."""
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            used = torch.cuda.memory_reserved(self._device)
        else:
            machine = psutil.virtual_memory()
            free, total, used = machine.available, machine.total, psutil.Process().memory_info().rss
        return protocol.Memory(used_bytes=used, free_bytes=free, total_bytes=total)

    def cancel(self, job_id: str) -> None:
        """From another thread: stop the job at its next step."""
        with self._lock:
            self._cancels.setdefault(job_id, CancelToken()).cancel()

    def run(self, command: protocol.Run) -> None:
        """Runs one job to its end, whatever that is, and tells it."""
        with self._lock:
            cancel = self._cancels.setdefault(command.job_id, CancelToken())
        end: protocol.Done | protocol.Failed | protocol.Cancelled
        try:
            result = _Job(command, self._send, cancel).run(self._load, self._matting_model())
            end = protocol.Done(job_id=command.job_id, result=result)
        except GenerationCancelled:
            end = protocol.Cancelled(job_id=command.job_id)
        except Exception as error:
            end = self._failure(command.job_id, error)
        with self._lock:  # first: what comes after our answer may be a cancel of the next job
            self._cancels.clear()
        self._send(end)

    def _load(self, preset_name: str) -> NetworkStore:
        """The preset's networks; those of another preset are dropped first."""
        if self._networks is None or self._networks.preset.name != preset_name:
            self._networks = None
            preset = get_preset(preset_name)
            folder = find_preset_folder(preset, self._models_dir)
            self._networks = NetworkStore(preset, folder, self._device, self._dtype)
        return self._networks

    def _matting_model(self) -> MattingModel | None:
        """The one that is installed; looked for with every job until there is one, since it may come meanwhile."""
        self._matting = self._matting or installed_matting(self._models_dir)
        return self._matting

    def _failure(self, job_id: str, error: Exception) -> protocol.Failed:
        if not isinstance(error, InputError | ConfigError | NoSurfaceError):
            _log.exception("the job failed", extra={"job": job_id})
        message, kind = describe(error)[0], "internal"
        cause = next(iter(str(error).splitlines()), "") or type(error).__name__
        if is_memory_error(error):
            kind, message = "out_of_memory", f"the device ran out of memory: {cause}"
            message = str(error) if isinstance(error, DeviceMemoryError) else message
        elif isinstance(error, JobTooLarge):
            kind, message = "job_too_large", str(error)
        elif _is_device_error(error):
            kind, message = "device_failed", f"the device reported an error: {cause}"
        elif is_disk_full(error):
            kind = "disk_full"
        else:
            kind = next((name for family, name in _KINDS if isinstance(error, family)), kind)
            if kind == "internal":  # `describe` speaks to those who have a command line
                message = f"unexpected {type(error).__name__}: {cause}"
        fatal = kind in ("out_of_memory", "device_failed")  # only a new process has a clean device
        return protocol.Failed(job_id=job_id, kind=kind, message=message, advice=_ADVICE[kind], fatal=fatal)


class _Job:
    """One job while it runs."""

    def __init__(self, command: protocol.Run, send: Callable[[protocol.Event], None], cancel: CancelToken) -> None:
        self._command, self._send, self._cancel = command, send, cancel
        self._folder = Path(command.folder)
        self._written = 0
        options = dict(command.options)
        outputs = {field.name: options.pop(field.name) for field in fields(OutputOptions)}
        self.outputs = OutputOptions(**{**outputs, "formats": tuple(outputs["formats"])})
        self.options = GenerationOptions(**options)

    def run(self, load: Callable[[str], NetworkStore], matting: MattingModel | None) -> dict[str, Any]:
        """Returns what a job's ``result`` says."""
        started = time.perf_counter()
        ours = StageReporter(self._progress, self._cancel)
        with ours.stage(LOAD, 1) as step:
            networks = load(self.options.preset)
            run = Resident(networks, plan_run(networks, self.options))
            run.load_ahead(step)
        picture = Path(self._command.source).read_bytes()
        origin = {"seed": self.options.seed, "image_sha256": hashlib.sha256(picture).hexdigest()}
        result = generate(
            picture,
            networks,
            self.options,
            on_progress=self._progress,
            on_structure=self._write_structure,
            on_picture=self._write_picture,
            cancel=self._cancel,
            matting=matting,
            run=run,
        )
        for note in result.notes:
            self._send(protocol.Note(job_id=self._command.job_id, message=note))
        facts = {
            "vertices": result.mesh.num_vertices,
            "faces": result.mesh.num_faces,
            "watertight": result.mesh.is_watertight(),
            "tokens": result.num_tokens,
            "device": str(networks.device),
            "dtype": str(networks.dtype).removeprefix("torch."),
        }
        with ours.stage(EXPORT, len(self.outputs.formats) + 2) as step:
            self._export(result, origin, step)
        facts["seconds"] = round(time.perf_counter() - started, 3)
        facts["timings"] = {name: round(seconds, 3) for name, seconds in (ours.timings | result.timings).items()}
        description = json.dumps(self._described(result, origin, facts), indent=2).encode()
        self._write("job.json", description)
        return facts

    def _export(self, result: GenerationResult, origin: dict[str, Any], step: Step) -> None:
        """The mesh in every format asked for, and pictures of it."""
        steps = len(self.outputs.formats) + 2 + (TURN_FRAMES if self.outputs.turntable else 0)
        extras = {**origin, "settings": result.settings, "image": self._command.title, "job_id": self._command.job_id}
        for number, file_format in enumerate(self.outputs.formats):
            self._write(f"mesh.{file_format}", mesh_bytes(result.mesh, file_format, extras=extras))
            step(number + 1, steps)
        self._write("preview.png", mesh_png(result.mesh))
        drawn = len(self.outputs.formats) + 1
        step(drawn, steps)
        if self.outputs.turntable:
            turning = turntable_webp(result.mesh, on_frame=lambda number: step(drawn + number, steps))
            self._write("turntable.webp", turning)

    def _described(self, result: GenerationResult, origin: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """The content of job.json: all that is needed to make the same mesh again."""
        return {
            "job_id": self._command.job_id,
            "title": self._command.title,
            **origin,
            "options": self._command.options,
            "settings": result.settings,
            "result": facts,
            "notes": list(result.notes),
            "s2mesh": __version__,
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        }

    def _write_picture(self, picture: RGBAImage) -> None:
        content = io.BytesIO()
        Image.fromarray(picture.pixels).save(content, format="PNG", compress_level=3)
        self._write("input.png", content.getvalue())

    def _write_structure(self, structure: Structure) -> None:
        mesh: Mesh = structure.mesh()
        self._write("coarse.glb", mesh_bytes(mesh, "glb", extras={"job_id": self._command.job_id, "coarse": True}))

    def _write(self, name: str, content: bytes) -> None:
        """Writes one file and tells it.

        Raises:
            JobTooLarge: if it is one too many. DiskFullError: from below. GenerationCancelled: between files.
        """
        self._cancel.raise_if_cancelled()
        self._written += len(content)
        if self._written > self._command.max_bytes:
            raise JobTooLarge(
                f"the job's files would take more than the {self._command.max_bytes / 2**20:.0f} MiB that a job may."
            )
        try:
            write_atomically(self._folder / name, content)
        except InputError as error:  # the folder is the server's: not the picture's fault
            raise RuntimeError(str(error)) from error
        digest = hashlib.sha256(content).hexdigest()
        self._send(protocol.ArtifactWritten(job_id=self._command.job_id, name=name, bytes=len(content), sha256=digest))

    def _progress(self, progress: Progress) -> None:
        self._cancel.raise_if_cancelled()
        self._send(
            protocol.Progress(
                job_id=self._command.job_id, stage=progress.stage, step=progress.step, steps=progress.steps
            )
        )


def _is_device_error(error: Exception) -> bool:
    """True for what a GPU or its driver reports; torch has a class for it since 2.8."""
    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith(("CUDA error", "HIP error", "MPS backend"))
