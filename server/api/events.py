"""A job's events as they happen: server-sent events that can be taken up again where they broke off."""

import json
from collections.abc import Iterator
from typing import Any

from flask import Response, request

from server.api import routes
from server.errors import ApiError
from server.schemas import AfterQuery, ErrorAnswer, JobPath
from server.service import Service, service

_HEARTBEAT_S = 10.0  # a comment line, so that proxies and clients see that the stream lives
_LOOK_S = 1.0  # how often a client that has left is noticed
_RETRY_MS = 2000

api = routes("events", "jobs")


@api.get(
    "/jobs/<job_id>/events",
    summary="Follow a job",
    responses={
        200: {"description": "Server-sent events", "content": {"text/event-stream": {}}},
        404: ErrorAnswer,
        503: ErrorAnswer,
    },
)
def follow_job(path: JobPath, query: AfterQuery) -> Response:
    """`event` is the event's type, `id` its id, `data` the event as JSON. The stream ends with the job.

    After a break send the last id as `Last-Event-ID` (or `after`). The number of streams is limited; who gets none
    polls `/v1/jobs/{job_id}?after=N`.
    """
    parts = service()
    job = parts.job(path.job_id)
    slot = parts.stream_slot()
    slot.__enter__()
    response = Response(_stream(parts, job.id, _start(query.after), _left_check()), mimetype="text/event-stream")
    response.call_on_close(lambda: slot.__exit__(None, None, None))
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response


def _start(after: int | None) -> int:
    """The id after which to begin."""
    header = request.headers.get("Last-Event-ID")
    if header is None:
        return after or 0
    if not header.isascii() or not header.isdecimal() or len(header) > 15:
        raise ApiError("invalid_parameter", "Last-Event-ID must be the number of an event.", field="Last-Event-ID")
    return int(header)


def _left_check() -> Any:
    """waitress tells whether the client is still there."""
    return request.environ.get("waitress.client_disconnected", lambda: False)


def _stream(parts: Service, job_id: str, after: int, client_left: Any) -> Iterator[bytes]:
    yield f"retry: {_RETRY_MS}\n\n".encode()
    silent_s = 0.0
    with parts.store.bus.watch(job_id) as watch:
        while True:
            job = parts.store.get(job_id)  # first: no event of a finished job can come after it was read
            for event in parts.store.events(job_id, after):
                after, silent_s = event["id"], 0.0
                yield f"event: {event['type']}\nid: {after}\ndata: {json.dumps(event)}\n\n".encode()
            if job is None or job.state.finished or parts.store.bus.closed or client_left():
                return
            if not watch.wait(_LOOK_S):
                silent_s += _LOOK_S
                if silent_s >= _HEARTBEAT_S:
                    silent_s = 0.0
                    yield b": still here\n\n"
