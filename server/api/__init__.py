"""The routes below /v1."""

from typing import Any

from flask_openapi3 import APIBlueprint

from server.schemas import ErrorAnswer


def routes(name: str) -> APIBlueprint:
    """A blueprint below /v1 whose every route wants the token and answers errors in the one shape."""
    refusals: dict[Any, Any] = {status: ErrorAnswer for status in (400, 401, 403, 422)}
    return APIBlueprint(
        name, __name__, url_prefix="/v1", abp_security=[{"token": []}], abp_responses=refusals, abp_tags=None
    )
