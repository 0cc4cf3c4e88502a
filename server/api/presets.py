"""The weights of presets: what would come, downloaded in the background, followed, cancelled."""

from flask import Response, jsonify

from server.api import routes
from server.errors import ApiError
from server.schemas import DownloadAnswer, DownloadBody, ErrorAnswer, PresetPath
from server.service import service

api = routes("presets", "presets")
_ANSWERS = {404: ErrorAnswer}


@api.get(
    "/presets/<preset>/download", summary="What a download would bring, and how far it is",
    responses={200: DownloadAnswer, **_ANSWERS},
)  # fmt: skip
def read_download(path: PresetPath) -> Response:
    """For those who follow a download: ask every second or two. `offer` has licences and sizes."""
    return jsonify(service().downloads.describe(path.preset))


@api.post(
    "/presets/<preset>/download", summary="Download a preset's weights",
    responses={200: DownloadAnswer, 202: DownloadAnswer, 409: ErrorAnswer, 507: ErrorAnswer, **_ANSWERS},
)  # fmt: skip
def start_download(path: PresetPath, body: DownloadBody) -> tuple[Response, int]:
    """Begins, or goes on where the last try stopped; 200 where there is nothing to begin. One at a time."""
    parts = service()
    offer = parts.downloads.describe(path.preset)["offer"]
    if parts.supervisor.status.draining:
        raise ApiError("draining", "the server is about to stop and starts no download.")
    if not body.accept_license:
        licences = ", ".join(dict.fromkeys(source["license"] for source in offer["sources"]))
        message = f'the licences ({licences}) must be accepted first: send {{"accept_license": true}}.'
        raise ApiError("license_not_accepted", message, **offer)
    started = parts.downloads.start(path.preset)
    return jsonify(parts.downloads.describe(path.preset)), 202 if started else 200


@api.post(
    "/presets/<preset>/download/cancel", summary="Cancel a download",
    responses={202: DownloadAnswer, **_ANSWERS},
)  # fmt: skip
def cancel_download(path: PresetPath) -> tuple[Response, int]:
    """What has come is kept, and the next download goes on from there. One that has ended stays as it is."""
    downloads = service().downloads
    downloads.describe(path.preset)
    downloads.cancel(path.preset)
    return jsonify(downloads.describe(path.preset)), 202
