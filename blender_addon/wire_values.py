# SPDX-License-Identifier: GPL-3.0-or-later
"""One value out of a JSON document, of the kind that it must be; WireError for any other."""

from __future__ import annotations

import math
import re
from typing import Any

from .client_errors import WireError

REMEDY = "Update the extension and the server to the same version."
_MAX_TEXT = 4000
_MISSING: Any = object()  # no default: the key must be there


def document_of(document: Any, what: str) -> dict[str, Any]:
    """The document, which must be a JSON object."""
    if not isinstance(document, dict):
        raise WireError(f"The server sent no {what}.", REMEDY)
    return document


def wrong(key: str, value: Any) -> WireError:
    return WireError(f"The server sent {str(value)[:60]!r} as {key}.", REMEDY)


def given(document: dict[str, Any], key: str, default: Any) -> Any:
    """The value; ``default`` where there is none, or null and the default is given."""
    value = document.get(key, _MISSING)
    if value is _MISSING:
        if default is _MISSING:
            raise WireError(f"The server's answer has no {key}.", REMEDY)
        return default
    return value


def text(document: dict[str, Any], key: str, default: Any = _MISSING, *, pattern: re.Pattern | None = None) -> Any:
    value = given(document, key, default)
    if value is None and default is None:
        return None
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise wrong(key, value)
    return value[:_MAX_TEXT]


def number(document: dict[str, Any], key: str, default: Any = _MISSING) -> Any:
    value = given(document, key, default)
    if value is None and default is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(key, value)
    try:
        if not math.isfinite(value):
            raise wrong(key, value)
    except OverflowError:
        raise wrong(key, "a huge number") from None
    return value


def whole(document: dict[str, Any], key: str, default: Any = _MISSING) -> Any:
    value = number(document, key, default)
    if value is not None and (not isinstance(value, int) or not 0 <= value < 2**63):
        raise wrong(key, value)
    return value


def true_or_false(document: dict[str, Any], key: str, default: Any = _MISSING) -> bool:
    value = given(document, key, default)
    if not isinstance(value, bool):
        raise wrong(key, value)
    return value


def items(document: dict[str, Any], key: str, default: Any = _MISSING) -> list[Any]:
    value = given(document, key, default)
    if value is None and default is None:
        return []
    if not isinstance(value, list):
        raise wrong(key, value)
    return value


def texts(document: dict[str, Any], key: str, default: Any = _MISSING) -> tuple[str, ...]:
    values = items(document, key, default)
    if not all(isinstance(value, str) for value in values):
        raise wrong(key, values)
    return tuple(value[:_MAX_TEXT] for value in values)


def mapping(document: dict[str, Any], key: str, default: Any = _MISSING) -> Any:
    value = given(document, key, default)
    if value is None and default is None:
        return None
    if not isinstance(value, dict):
        raise wrong(key, value)
    return value
