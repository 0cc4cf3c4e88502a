"""The files of a job: whole or in a range, with the digest as their tag."""

import re

from flask import Response, request, send_file

from server.api import routes
from server.errors import ApiError
from server.jobs.model import ARTIFACTS, JobState
from server.schemas import ArtifactPath, ErrorAnswer
from server.service import service

_ONE_RANGE = re.compile(r"bytes=(?:\d{1,18}-\d{0,18}|-(?P<last>\d{1,18}))", re.ASCII)

api = routes("files", "jobs")


@api.get(
    "/jobs/<job_id>/artifacts/<name>",
    summary="Download a file of a job",
    responses={
        200: {"description": "The file", "content": {kind: {} for kind in sorted(set(ARTIFACTS.values()))}},
        206: {"description": "The part that was asked for"},
        304: {"description": "The client has it already"},
        404: ErrorAnswer,
        409: ErrorAnswer,
        416: ErrorAnswer,
    },
)
def read_artifact(path: ArtifactPath) -> Response:
    """`ETag` is the SHA-256 of the file; one `Range` and `If-None-Match` are understood."""
    parts = service()
    job = parts.job(path.job_id)
    found = {artifact.name: artifact for artifact in job.artifacts}.get(path.name)
    if found is None:
        if job.state in (JobState.QUEUED, JobState.RUNNING, JobState.INTERRUPTED):
            message = f"the job is {job.state.value}; {path.name} is not there yet."
            raise ApiError("job_not_finished", message, state=job.state.value)
        has = ", ".join(artifact.name for artifact in job.artifacts) or "none"
        raise ApiError("artifact_not_found", f"the job has no file {path.name}. It has: {has}.")
    part = _ONE_RANGE.fullmatch(request.headers.get("Range", "").strip())
    if part is None or int(part["last"] or 0) > found.bytes:
        request.environ.pop("HTTP_RANGE", None)  # several, another unit, more than there is: the whole file is right
    try:
        response = send_file(
            parts.files.artifact(job.id, found.name),
            mimetype=ARTIFACTS[found.name],
            as_attachment=True,
            download_name=found.name,
            etag=found.sha256,
            conditional=True,
            max_age=None,
        )
    except FileNotFoundError:
        raise ApiError("artifact_not_found", "the file was removed from the server's disk.") from None
    response.headers["Cache-Control"] = "private, no-cache"
    return response
