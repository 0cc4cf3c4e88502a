"""The server itself: alive, ready, able to do what; its memory; the document of its routes."""

from dataclasses import replace
from typing import Any

from flask import Response, current_app, jsonify

from core import __version__
from core.checkpoints.installed import SUFFIX, find_preset_folder, missing_networks
from core.config.base import to_dict
from core.config.generation import MAX_IMAGE_PIXELS, MESH_FORMATS, OptionInfo
from core.config.presets import PRESETS, ModelPreset
from server.api import routes
from server.errors import ApiError
from server.jobs.estimate import job_stages
from server.jobs.model import JobState
from server.schemas import ErrorAnswer, FreeAnswer, HealthAnswer, UnloadAnswer, UnloadBody, job_option_table
from server.service import service
from server.settings import API_VERSION

public = routes("public", "server", public=True)
api = routes("system", "server")


@public.get(
    "/health",
    summary="Whether the server lives",
    responses={200: HealthAnswer},
    openapi_extensions={"security": []},  # the library drops an empty `security`
)
def health() -> Response:
    """The one route without a token."""
    return jsonify({"status": "ok", "service": "s2mesh", "version": __version__, "api": API_VERSION})


@api.get("/ready", summary="Whether jobs are taken, and by what", responses={200: FreeAnswer, 503: ErrorAnswer})
def ready() -> Response:
    """Worker, queue, device and memory. 503 while the server drains or its worker cannot run; details are the same."""
    parts = service()
    status = parts.supervisor.status
    document = {
        "ready": not status.draining and status.problem is None,
        "draining": status.draining,
        "worker": {"state": status.state, "pid": status.pid, "restarts": status.restarts},
        "queue": {
            "queued": parts.store.count(JobState.QUEUED),
            "running": parts.store.count(JobState.RUNNING),
            "limit": parts.settings.limits.queue,
        },
        "device": status.device
        and {"name": status.device.device, "title": status.device.device_title, "dtype": status.device.dtype},
        "preset": status.preset,
        "memory": status.memory and to_dict(status.memory),
    }
    if status.draining:
        raise ApiError("draining", "the server is about to stop and takes no new jobs.", **document)
    if status.problem is not None:
        raise ApiError("worker_unavailable", status.problem, **document)
    return jsonify(document)


@api.get("/capabilities", summary="What can be asked for", responses={200: FreeAnswer})
def capabilities() -> Response:
    """Presets, options with their limits, formats and limits: enough to build controls from."""
    settings = service().settings
    limits = settings.limits
    return jsonify(
        {
            "version": __version__,
            "default_preset": settings.preset,
            "presets": [_preset(preset) for preset in PRESETS.values()],
            "options": [_option(row, settings.preset) for row in job_option_table()],
            "formats": list(MESH_FORMATS),
            "limits": {
                "body_bytes": limits.body_bytes,
                "image_pixels": MAX_IMAGE_PIXELS,
                "queue": limits.queue,
                "event_streams": limits.event_streams,
                "keep_jobs": limits.keep_jobs,
                "keep_bytes": limits.keep_bytes,
                "job_bytes": limits.job_bytes,
            },
        }
    )


def _option(row: OptionInfo, own_preset: str) -> dict[str, Any]:
    return to_dict(replace(row, default=own_preset) if row.name == "preset" else row)


def _preset(preset: ModelPreset) -> dict[str, Any]:
    folder = find_preset_folder(preset, service().settings.worker.models_dir)
    installed = not missing_networks(preset, folder)
    size = sum((folder / f"{name}{SUFFIX}").stat().st_size for name in preset.networks()) if installed else None
    return {
        "name": preset.name,
        "title": preset.title,
        "installed": installed,
        "bytes": size,
        "license": preset.license,
        "source": preset.source,
        "download": None if preset.bundled else service().downloads.offer(preset.name),
        "resolutions": [{"resolution": stage.resolution, "memory_gb": stage.memory_gb} for stage in preset.sparse],
        "stages": job_stages(preset),
    }


@api.post(
    "/unload",
    summary="Give the device's memory back",
    responses={200: UnloadAnswer, 202: UnloadAnswer, 409: ErrorAnswer},
)
def unload(body: UnloadBody) -> tuple[Response, int]:
    """Ends the worker process, which frees all of it; the next job starts a new one."""
    done = service().supervisor.unload(wait=body.wait)
    if done is None:
        raise ApiError("busy", 'a job is running; cancel it, or send {"wait": true}.')
    return jsonify({"unloaded": done}), 200 if done else 202


@api.get("/openapi.json", summary="This document", responses={200: FreeAnswer})
def document() -> Response:
    """OpenAPI 3.1, made from the types that check the requests."""
    return jsonify(current_app.api_doc)
