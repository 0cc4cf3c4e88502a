"""The Flask application: routes, the checks before them, and every error in the one shape. No torch here."""

import logging
import sqlite3
import time
import uuid

import flask
from flask import Response, g, jsonify, request
from flask_openapi3 import Info, OpenAPI
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from core import __version__
from core.errors import is_disk_full
from server.api import events, files, jobs, presets, system
from server.errors import ApiError, error_body
from server.schemas import ErrorAnswer
from server.service import Service
from server.web import page

_MAX_FORM_PARTS = 20
_MAX_TEXT_BYTES = 500_000  # of the fields that are no files
_FORM_PARSERS = ("werkzeug.formparser", "werkzeug.sansio.multipart")
_BY_STATUS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}
_log = logging.getLogger("s2mesh.http")


class Request(flask.Request):
    """Flask's, but a multipart body that is cut short is an error, and JSON means an object; an empty body is {}."""

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True):
        if not self.get_data(cache=True):
            return {}
        try:
            content = super().get_json(force=True, silent=silent, cache=cache)
        except RecursionError:
            return None
        return content if isinstance(content, dict) else None


class App(OpenAPI):
    request_class = Request


def create_app(parts: Service) -> App:
    """The application of one server."""
    app = App(
        "s2mesh",
        info=Info(
            title="S2 Mesh",
            version=__version__,
            description="One picture to one mesh. Every answer that is not a success has the shape of ErrorAnswer.",
        ),
        security_schemes={"token": {"type": "http", "scheme": "bearer", "description": "What `s2mesh token` prints."}},
        validation_error_status=422,
        validation_error_model=ErrorAnswer,
        validation_error_callback=_invalid,
        doc_ui=False,
        static_folder=None,
    )
    app.extensions["s2mesh"] = parts
    app.json.sort_keys = False
    app.url_map.merge_slashes = False  # no redirects: every answer is ours
    app.config.update(
        MAX_CONTENT_LENGTH=parts.settings.limits.body_bytes,
        MAX_FORM_PARTS=_MAX_FORM_PARTS,
        MAX_FORM_MEMORY_SIZE=_MAX_TEXT_BYTES,
        PROPAGATE_EXCEPTIONS=False,
        PROVIDE_AUTOMATIC_OPTIONS=False,  # a preflight gets a refusal like any other
        TRAP_HTTP_EXCEPTIONS=False,
    )
    app.before_request(_check)
    app.after_request(_finish)
    for blueprint in (system.public, system.api, jobs.api, events.api, files.api, presets.api):
        app.register_api(blueprint)
    app.register_blueprint(page)
    app.register_error_handler(ApiError, lambda error: _answer(error))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(sqlite3.OperationalError, _database_error)
    app.register_error_handler(OSError, _system_error)
    app.register_error_handler(Exception, _unexpected)
    return app


# --- before and after every request ---


def _check() -> None:
    """Host and origin of everything; the token of everything but the page and `/v1/health`."""
    g.started = time.perf_counter()
    parts: Service = flask.current_app.extensions["s2mesh"]
    public = request.blueprint == page.name or request.blueprint == system.public.name
    parts.gate.check_source(request.headers, navigation=public and request.method == "GET")
    if not public:
        parts.gate.check_token(request.headers)


def _finish(response: Response) -> Response:
    if request.blueprint != page.name:
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
    level = logging.DEBUG if request.method in ("GET", "HEAD") and response.status_code < 400 else logging.INFO
    if _log.isEnabledFor(level):
        took_ms = round(1000 * (time.perf_counter() - g.get("started", time.perf_counter())), 1)
        _log.log(level, "%s %s %s", request.method, request.path, response.status_code, extra={"ms": took_ms})
    return response


# --- errors ---


def _answer(error: ApiError) -> Response:
    response = jsonify(error.body())
    response.status_code = error.status
    response.headers.update(error.headers)
    return response


def _invalid(error: ValidationError) -> Response:
    """Parts of the request that pydantic refused, in our words."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "body"
    name = field.partition(".")[0]
    if name == "job_id":
        return _answer(ApiError("job_not_found", "an id is 32 hexadecimal digits; there is no such job. See /v1/jobs."))
    if name == "name":
        return _answer(ApiError("artifact_not_found", "a job has no file of this name; its `artifacts` list them."))
    if name == "image":
        return _answer(ApiError("image_missing", "send the picture as the file `image` of a multipart form."))
    if field == "body":
        return _answer(ApiError("bad_request", "the body must be a JSON object."))
    return _answer(ApiError("invalid_parameter", f"{field[:60]}: {first['msg']}.", field=field[:60]))


def _http_error(error: HTTPException) -> Response:
    """What Flask and werkzeug refuse themselves."""
    if isinstance(error, RequestEntityTooLarge):
        limit = flask.current_app.config["MAX_CONTENT_LENGTH"]
        message = (
            f"the body has more than {limit / 2**20:.0f} MiB or {_MAX_FORM_PARTS} parts, or a text field of it more "
            f"than {_MAX_TEXT_BYTES // 1000} kB."
        )
        return _answer(ApiError("body_too_large", message, max_bytes=limit))
    code = _BY_STATUS.get(error.code or 500)
    if code is None:
        return _unexpected(error)
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Content-Range")}
    message = {
        "not_found": f"there is no {request.method} {request.path[:100]}. See /v1/openapi.json.",
        "method_not_allowed": f"{request.path[:100]} does not know {request.method}.",
    }.get(code, error.description or "the request cannot be understood.")
    return _answer(ApiError(code, message, headers=headers))


def _database_error(error: sqlite3.OperationalError) -> Response:
    text = str(error)
    if "locked" in text or "busy" in text:
        message = "another program holds the database of the server; try again in a moment."
        return _answer(ApiError("database_busy", message, headers={"Retry-After": "2"}))
    if "full" in text:
        return _answer(ApiError("disk_full", "the server's disk is full; free some space or delete old jobs."))
    return _unexpected(error)


def _system_error(error: OSError) -> Response:
    if is_disk_full(error):
        return _answer(ApiError("disk_full", "the server's disk is full; free some space or delete old jobs."))
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    if isinstance(error, ValueError) and request.mimetype == "multipart/form-data" and _is_form_error(error):
        return _answer(ApiError("bad_request", "the multipart body is cut short or malformed; send it again."))
    error_id = uuid.uuid4().hex[:12]
    _log.error("%s %s failed", request.method, request.path, exc_info=error, extra={"error_id": error_id})
    message = f"the server failed; its log has the cause under {error_id}. Please report it."
    response = jsonify(error_body("internal", message, {"error_id": error_id}))
    response.status_code = 500
    return response


def _is_form_error(error: ValueError) -> bool:
    """Whether werkzeug's form parser raised it, which has no class of its own for that."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") in _FORM_PARSERS:
            return True
        trace = trace.tb_next
    return False
