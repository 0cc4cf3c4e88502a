"""The page at ``/``: a Flask blueprint that hands out the files of this folder, and the rules a browser holds them to.

The files hold nothing secret and need no token; what they ask of ``/v1`` does. Everything that the page uses is served
from here, so the browser is told to load nothing from anywhere else. The application that registers ``page`` must have
no static folder of its own (``Flask(..., static_folder=None)``): it would answer for ``/static`` first.
"""

import base64
import hashlib
import re
from pathlib import Path

from flask import Blueprint, Response, send_from_directory

FOLDER = Path(__file__).parent
# Named here, since mimetypes asks the Windows registry, which may call a script text/plain; nosniff then refuses it.
MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

page = Blueprint("page", __name__, static_folder=None)


@page.record_once
def _refuse_second_static_folder(state) -> None:
    assert not state.app.has_static_folder, "Flask(static_folder=None), or the page's own files are never reached"


@page.get("/")
def index() -> Response:
    return _file("templates", "index.html")


@page.get("/static/<path:name>")
def static_file(name: str) -> Response:
    return _file("static", name)


@page.after_request
def add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    response.headers["Content-Security-Policy"] = content_security_policy(FOLDER / "templates" / "index.html")
    return response


def content_security_policy(html_file: Path) -> str:
    """What the page may load. The one inline script, its import map, is allowed by the digest of its text."""
    import_map = re.search(rb'<script type="importmap">(.*?)</script>', html_file.read_bytes(), re.DOTALL)
    assert import_map, "the page has no import map"
    digest = base64.b64encode(hashlib.sha256(import_map[1]).digest()).decode("ascii")
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' 'sha256-{digest}'",
            "style-src 'self'",
            "img-src 'self' blob:",  # pictures arrive with the token, so the page shows them from memory
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # no text becomes markup or code
            "trusted-types 'none'",
        ]
    )


def _file(folder: str, name: str) -> Response:
    """``no-cache`` with an ETag: the browser keeps the file and asks each time whether it is still the same."""
    media_type = MEDIA_TYPES.get(Path(name).suffix, "text/plain")
    response = send_from_directory(FOLDER / folder, name, mimetype=media_type)
    response.cache_control.no_cache = True
    return response
