"""The one shape of every answer that is not a success, and the table of its codes.

{"error": {"code": "option_out_of_range", "message": "...", "details": {"field": "dense_steps", "min": 1}}}
"""

from http import HTTPStatus
from typing import Any

# Code: (status, what it means and what to do). `server/API.md` is held against this table.
CODES: dict[str, tuple[HTTPStatus, str]] = {
    "bad_request": (HTTPStatus.BAD_REQUEST, "The request is malformed; the message says where."),
    "token_missing": (HTTPStatus.UNAUTHORIZED, "Send `Authorization: Bearer TOKEN`; `s2mesh token` prints it."),
    "token_wrong": (HTTPStatus.UNAUTHORIZED, "The token is not this server's; `s2mesh token` prints it."),
    "host_not_allowed": (HTTPStatus.FORBIDDEN, "The Host header names another machine; see `serve --allow-host`."),
    "origin_not_allowed": (HTTPStatus.FORBIDDEN, "The request comes from a web page of another origin."),
    "not_found": (HTTPStatus.NOT_FOUND, "There is no such route."),
    "job_not_found": (HTTPStatus.NOT_FOUND, "No job has this id; it may have been deleted or outlived."),
    "preset_not_found": (HTTPStatus.NOT_FOUND, "There is no preset of this name; the message lists those there are."),
    "artifact_not_found": (HTTPStatus.NOT_FOUND, "The job has no such file; the message lists those it has."),
    "method_not_allowed": (HTTPStatus.METHOD_NOT_ALLOWED, "The route knows other methods; see the Allow header."),
    "request_timeout": (HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time."),
    "job_running": (HTTPStatus.CONFLICT, "The job is not finished; cancel it first."),
    "job_not_finished": (HTTPStatus.CONFLICT, "The file does not exist yet; wait for the job's end."),
    "idempotency_conflict": (HTTPStatus.CONFLICT, "The Idempotency-Key was used with another picture or options."),
    "busy": (HTTPStatus.CONFLICT, 'A job is running; cancel it, or send {"wait": true}.'),
    "download_running": (HTTPStatus.CONFLICT, "Another preset is being downloaded; wait for its end, or cancel it."),
    "body_too_large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is larger than `limits.body_bytes`."),
    "unsupported_media_type": (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The Content-Type is not the one wanted."),
    "range_not_satisfiable": (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "The file is shorter than the range."),
    "image_missing": (HTTPStatus.UNPROCESSABLE_ENTITY, "Send the picture as the multipart file `image`."),
    "image_unusable": (HTTPStatus.UNPROCESSABLE_ENTITY, "The picture is broken, too large or of an unknown kind."),
    "unknown_option": (HTTPStatus.UNPROCESSABLE_ENTITY, "There is no such option; the message names those there are."),
    "option_out_of_range": (HTTPStatus.UNPROCESSABLE_ENTITY, "The value is outside `details.min` to `details.max`."),
    "option_wrong_type": (HTTPStatus.UNPROCESSABLE_ENTITY, "The value is of another type than `details.type`."),
    "option_not_allowed": (HTTPStatus.UNPROCESSABLE_ENTITY, "The value is none of `details.choices`."),
    "preset_not_installed": (HTTPStatus.UNPROCESSABLE_ENTITY, "The preset's weights are not on this server."),
    "preset_not_downloadable": (HTTPStatus.UNPROCESSABLE_ENTITY, "The preset's weights are part of S2 Mesh."),
    "license_not_accepted": (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        'Read the licences in `details`; send {"accept_license": true} if you accept them.',
    ),
    "invalid_parameter": (HTTPStatus.UNPROCESSABLE_ENTITY, "A part of the address or a header cannot be used."),
    "queue_full": (HTTPStatus.TOO_MANY_REQUESTS, "Too many jobs wait; try again after `Retry-After` seconds."),
    "headers_too_large": (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too long."),
    "internal": (HTTPStatus.INTERNAL_SERVER_ERROR, "Our mistake; the server's log has it under `details.error_id`."),
    "not_implemented": (HTTPStatus.NOT_IMPLEMENTED, "A transfer coding that this server does not know."),
    "draining": (HTTPStatus.SERVICE_UNAVAILABLE, "The server is about to stop and takes no new jobs."),
    "worker_unavailable": (HTTPStatus.SERVICE_UNAVAILABLE, "The worker keeps dying; the message says why."),
    "too_many_streams": (HTTPStatus.SERVICE_UNAVAILABLE, "All event streams are taken; poll with `?after=`."),
    "database_busy": (HTTPStatus.SERVICE_UNAVAILABLE, "Another program holds the database; try again."),
    "disk_full": (HTTPStatus.INSUFFICIENT_STORAGE, "The server's disk is full; free some space."),
}

# Codes of a job that failed (`error` of a job): what it means and what to do.
FAILURES: dict[str, str] = {
    "out_of_memory": "The device ran out of memory; the next job runs in a new worker.",
    "device_failed": "The GPU or its driver reported an error; the next job runs in a new worker.",
    "image_unusable": "The picture is damaged or shows nothing.",
    "options_unusable": "The options do not fit this picture or preset, such as too many tokens.",
    "no_surface": "No shape was found in the picture.",
    "weights_unusable": "Weights are missing or damaged.",
    "disk_full": "The disk was full when a result was to be written.",
    "job_too_large": "The job's files exceed `limits.job_bytes`.",
    "worker_died": "The worker process ended in the middle, for instance killed by the system for its memory.",
    "worker_hung": "The worker gave no sign of life, or no progress, for too long and was replaced.",
    "worker_garbled": "The worker wrote what is no message and was replaced.",
    "interrupted_twice": "The server ended twice while the job ran; it is not tried again.",
    "internal": "Our mistake; the server's log has the traceback.",
}

# Codes of a download that failed (`error` of a download).
DOWNLOAD_FAILURES: dict[str, str] = {
    "hub_failed": "The hub cannot be reached, refuses, or sent something damaged; the message says what to do.",
    "weights_unusable": "The files are damaged, or not what they were at the first download.",
    "disk_full": "There is too little room; what has come is kept.",
    "folder_busy": "Another process of this machine downloads, converts or removes weights; wait for its end.",
    "folder_unusable": "The server's models folder cannot be written; the message says why.",
    "download_died": "The process that downloads was killed; start it again, it goes on where it stopped.",
    "internal": "Our mistake; the server's log has the cause.",
}


class ApiError(Exception):
    """An answer that is not a success.

    Args:
        code: one of ``CODES``, which gives the status.
        message: one sentence or two for people: what is wrong and what to do.
        headers: further headers, such as Retry-After.
        details: values for programs.
    """

    def __init__(self, code: str, message: str, *, headers: dict[str, str] | None = None, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = CODES[code][0]
        self.message = message
        self.details = details
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        return error_body(self.code, self.message, self.details)


def error_body(code: str, message: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """The one shape."""
    return {"error": {"code": code, "message": message, "details": details or {}}}
