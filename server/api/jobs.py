"""Jobs: sent, listed, read, cancelled, deleted."""

import hashlib
import json
import time
from contextlib import nullcontext
from typing import Any

from flask import Response, g, jsonify, request

from core.checkpoints.installed import find_preset_folder, missing_networks
from core.config.presets import PRESETS
from core.errors import InputError
from core.imaging.load import probe_image
from server.api import routes
from server.errors import ApiError
from server.jobs.model import Job, JobState, new_id
from server.jobs.retention import remove_job
from server.schemas import (
    MAX_KEY,
    AfterQuery,
    CreateForm,
    ErrorAnswer,
    JobAnswer,
    JobPath,
    JobsAnswer,
    KeyHeader,
    ListQuery,
    parse_options,
)
from server.service import service

KEY_LIFE_S = 24 * 3600.0
_TITLE_LENGTH = 100
_BUSY = {413: ErrorAnswer, 415: ErrorAnswer, 429: ErrorAnswer, 503: ErrorAnswer, 507: ErrorAnswer}

api = routes("jobs", "jobs")


@api.before_request
def _check_form() -> None:
    """Before flask-openapi3 reads the form: it would stumble over JSON too deep, and its errors name no limits."""
    if request.endpoint != "jobs.create_job":
        return
    if request.mimetype != "multipart/form-data":
        message = f"send multipart/form-data with the file `image`, not {request.mimetype[:60] or 'nothing'}."
        raise ApiError("unsupported_media_type", message)
    for name in ("image", "options"):
        if len(request.files.getlist(name)) + len(request.form.getlist(name)) > 1:
            raise ApiError("invalid_parameter", f"the form has `{name}` more than once; send one.", field=name)
    if "image" not in request.files:
        raise ApiError("image_missing", "send the picture as the file `image` of a multipart form.")
    g.given = _given_options()
    g.options = parse_options(g.given, service().settings.preset)


@api.post("/jobs", summary="Make a mesh of a picture", responses={202: JobAnswer, 409: ErrorAnswer, **_BUSY})
def create_job(header: KeyHeader, form: CreateForm) -> tuple[Response, int, dict[str, str]]:
    """Queues a job and answers at once with it; `Location` is its address."""
    parts = service()
    _check_open()
    options = g.options
    _check_installed(options["preset"])
    with parts.uploads:
        picture = form.image.read()
        try:
            probe_image(picture)
        except InputError as error:
            raise ApiError("image_unusable", str(error)) from None
        key, digest = header.idempotency_key, _digest(picture, options)
        with nullcontext() if key is None else parts.keyed:  # else two requests with one key could both find none
            job = _earlier(key, digest) or _queue(picture, form.image.filename or "", options, key, digest)
    parts.supervisor.wake()
    return jsonify(job.to_dict(parts.store.queue_position(job))), 202, {"Location": f"/v1/jobs/{job.id}"}


@api.get("/jobs", summary="List jobs, newest first", responses={200: JobsAnswer})
def list_jobs(query: ListQuery) -> Response:
    """Without events. `next` is the `before` of the page after this one."""
    store = service().store
    jobs, following = store.page(state=query.state, limit=query.limit, before=query.before)
    return jsonify({"jobs": [job.to_dict(store.queue_position(job)) for job in jobs], "next": following})


@api.get("/jobs/<job_id>", summary="Read a job", responses={200: JobAnswer, 404: ErrorAnswer})
def read_job(path: JobPath, query: AfterQuery) -> Response:
    """With `after`, also the events that came after that one: what a client that polls needs."""
    return _described(service().job(path.job_id), query.after)


@api.post("/jobs/<job_id>/cancel", summary="Cancel a job", responses={202: JobAnswer, 404: ErrorAnswer})
def cancel_job(path: JobPath) -> tuple[Response, int]:
    """A job that waits ends at once, one that runs at its next step. A finished job stays as it is."""
    parts = service()
    job = parts.job(path.job_id)
    parts.store.request_cancel(job.id)
    parts.supervisor.cancel(job.id)
    return _described(parts.job(job.id), None), 202


@api.delete(
    "/jobs/<job_id>", summary="Delete a finished job", responses={204: None, 404: ErrorAnswer, 409: ErrorAnswer}
)
def delete_job(path: JobPath) -> Response:
    """Removes the job and its files."""
    parts = service()
    job = parts.job(path.job_id)
    if not remove_job(parts.store, parts.files, job.id):
        state = parts.job(job.id).state.value
        raise ApiError("job_running", f"the job is {state}; cancel it first.", state=state)
    response = Response(status=204)
    del response.headers["Content-Type"]  # of nothing
    return response


# --- steps of creating one ---


def _check_open() -> None:
    """Whether a new job could be run at all."""
    status = service().supervisor.status
    if status.draining:
        raise ApiError("draining", "the server is about to stop; send the job to the next one.")
    if status.problem is not None:
        retry = {"Retry-After": str(max(1, round(status.retry_after_s)))}
        raise ApiError("worker_unavailable", status.problem, headers=retry)


def _given_options() -> Any:
    """The form's `options` as they were sent, for errors in our own words."""
    if "options" in request.files:
        raise ApiError("bad_request", "send options as a plain field of the form, not as a file.", field="options")
    text = request.form.get("options")
    if text is None or not text.strip():
        return None
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated)
    except (ValueError, RecursionError):
        message = 'options are no JSON, or name one twice; send an object such as {"seed": 7}.'
        raise ApiError("bad_request", message, field="options") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name twice")  # who knows which value was meant
    return dict(pairs)


def _check_installed(preset: str) -> None:
    models_dir = service().settings.worker.models_dir
    folder = find_preset_folder(PRESETS[preset], models_dir)
    if missing_networks(PRESETS[preset], folder):
        message = (
            f"the weights of preset {preset!r} are not on the server. Download them on its page, or there with "
            f"`s2mesh models download {preset}`."
        )
        raise ApiError("preset_not_installed", message, field="preset")


def _digest(picture: bytes, options: dict[str, Any]) -> str:
    """Of what makes two requests the same; a seed that the server drew does not count."""
    asked = {**options, "seed": (g.given or {}).get("seed")}
    return hashlib.sha256(hashlib.sha256(picture).digest() + json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _earlier(key: str | None, digest: str) -> Job | None:
    """The job that this very request made before."""
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise ApiError("invalid_parameter", f"an Idempotency-Key has 1 to {MAX_KEY} letters.", field="Idempotency-Key")
    found = service().store.by_idempotency_key(key, time.time() - KEY_LIFE_S)
    if found is None:
        return None
    if found[1] != digest:
        message = "this Idempotency-Key was used with another picture or other options; take a new one."
        raise ApiError("idempotency_conflict", message, job_id=found[0])
    return service().store.get(found[0])


def _queue(picture: bytes, name: str, options: dict[str, Any], key: str | None, digest: str) -> Job:
    """Files first, then the row: a row always has its picture."""
    parts = service()
    job = Job(id=new_id(), title=_title(name), state=JobState.QUEUED, options=options, created_at=time.time())
    limit = parts.settings.limits.queue
    if parts.store.count(JobState.QUEUED) >= limit:
        raise _queue_full(limit)
    parts.files.create(job.id, picture)
    try:
        added = parts.store.add(job, max_queued=limit, idempotency_key=key, request_digest=digest)
    except BaseException:
        parts.files.remove(job.id)
        raise
    if added is None:
        parts.files.remove(job.id)
        raise _queue_full(limit)
    return added


def _queue_full(limit: int) -> ApiError:
    return ApiError("queue_full", f"{limit} jobs wait already; try again later.", headers={"Retry-After": "10"})


def _title(name: str) -> str:
    """The last part of what the client calls its file, printable; it is shown and never used as a path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:_TITLE_LENGTH] or "picture"


def _described(job: Job, after: int | None) -> Response:
    store = service().store
    events = None if after is None else store.events(job.id, after)
    return jsonify(job.to_dict(store.queue_position(job), events))
