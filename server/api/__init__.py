"""The routes below /v1."""

from typing import Any

from flask_openapi3 import APIBlueprint, Tag

from server.schemas import ErrorAnswer

_REFUSALS: dict[Any, Any] = {status: ErrorAnswer for status in (400, 401, 403, 408, 413, 422, 431, 500, 503)}


def routes(name: str, tag: str, *, public: bool = False) -> APIBlueprint:
    """A blueprint below /v1 whose every route answers errors in the one shape; all but public ones want the token."""
    refusals = {status: answer for status, answer in _REFUSALS.items() if not (public and status == 401)}
    return APIBlueprint(
        name,
        __name__,
        url_prefix="/v1",
        abp_tags=[Tag(name=tag)],
        abp_security=None if public else [{"token": []}],
        abp_responses=refusals,
        operation_id_callback=lambda *, name, path, method: name,
    )
