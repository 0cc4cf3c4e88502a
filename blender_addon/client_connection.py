# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection to one address: who is there is asked first, then every request carries the token.

No proxy of the environment is used, no redirect followed, and no other machine spoken to without Online Access. The
module `requests` is imported when the first connection is made, for some builds of Blender lack it.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from . import discovery
from .client_errors import (
    NoRequests,
    Offline,
    OnlineAccessNeeded,
    Refused,
    S2MeshError,
    WrongService,
    WrongToken,
    WrongVersion,
)

API_VERSION = 1  # of the routes below /v1
_MAX_ANSWER = 32 * 2**20  # bytes of JSON


class Connection:
    """Requests to one server. For one thread.

    Raises:
        NoRequests, OnlineAccessNeeded, WrongToken. S2MeshError: for an address that is none.
    """

    def __init__(self, url: str, token: str, timeout_s: tuple[float, float], online_access: bool) -> None:
        self.url = discovery.clean_url(url)
        self.is_local = discovery.is_loopback(self.url)
        if not self.is_local and not online_access:
            raise OnlineAccessNeeded(f"The server at {self.url} is another machine")
        if token and not discovery.is_token(token):
            raise WrongToken(
                "The token has letters that no token has", "Enter what `s2mesh token` prints, as one line."
            )
        self.token = token
        self.server_version = ""
        self.requests = import_requests()
        self._timeout = timeout_s
        self._known = False  # whether it has said that it is one of ours
        self._session = self.requests.Session()
        self._session.trust_env = False  # neither proxies nor .netrc

    def close(self) -> None:
        self._session.close()

    def health(self) -> dict[str, Any]:
        """Asks without the token who is there.

        Raises:
            Offline, WrongService, WrongVersion.
        """
        self._known = False
        with self._exchange("GET", "/v1/health") as response:
            try:
                document = self._document(response)
            except WrongService:
                document = None
        if not isinstance(document, dict) or document.get("service") != "s2mesh":
            raise self._foreign("answers, but is no S2 Mesh server")
        if document.get("api") != API_VERSION:
            raise WrongVersion(
                f"The server at {self.url} speaks version {str(document.get('api'))[:20]} of the interface, this "
                f"extension version {API_VERSION}.",
                "Update the older of the two.",
            )
        self.server_version = str(document.get("version", ""))[:60]
        self._known = True
        return document

    def json(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        with self.send(method, path, **content) as response:
            document = self._document(response)
        if not isinstance(document, dict):
            raise self._foreign("answered with what is no JSON object")
        return document

    def _document(self, response: Any) -> Any:
        """The JSON of an answer."""
        try:
            return json.loads(self._body(response))
        except self.requests.exceptions.ContentDecodingError:
            raise self._foreign("answered with what cannot be unpacked") from None
        except self.requests.RequestException:
            raise Offline(f"The connection to {self.url} broke in the middle of an answer", "Try again.") from None
        except (ValueError, RecursionError):
            raise self._foreign("answered with what is no JSON") from None

    def _body(self, response: Any) -> bytes:
        """All of it; a stream without an end, as a stranger may send, is given up."""
        body, end = bytearray(), time.monotonic() + self._timeout[1]
        for piece in response.iter_content(2**16):
            body += piece
            if len(body) > _MAX_ANSWER or time.monotonic() > end:
                raise self._foreign("answers without an end")
        return bytes(body)

    def send(self, method: str, path: str, *, headers: dict[str, str] | None = None, **content: Any) -> Any:
        """One request with the token, to a server that has been seen to be ours."""
        if not self._known:
            self.health()
        if not self.token:
            raise no_token(self.url, self.is_local)
        return self._exchange(
            method, path, headers={**(headers or {}), "Authorization": f"Bearer {self.token}"}, **content
        )

    def _exchange(self, method: str, path: str, *, timeout_s: tuple[float, float] | None = None, **content: Any) -> Any:
        """The answer if it is a success. A connection that an ended server left behind is tried once more."""
        faults, where = self.requests.exceptions, self.url + path
        for last_try in (False, True):
            try:
                response = self._session.request(
                    method, where, timeout=timeout_s or self._timeout, allow_redirects=False, stream=True, **content
                )
            except faults.Timeout:
                raise Offline(
                    f"The server at {self.url} does not answer in time",
                    "It may be busy: wait a moment, or look into its log.",
                    timed_out=True,
                ) from None
            except (faults.ConnectionError, faults.ChunkedEncodingError) as error:
                if last_try:
                    self._known = False  # who answers next may be somebody else
                    raise self._no_connection(error) from None
            except (self.requests.RequestException, ValueError, OSError) as error:
                raise self._foreign(f"cannot be asked ({str(error)[:200]})") from None
            else:
                return self._checked(response)
        raise AssertionError("unreachable")

    def _checked(self, response: Any) -> Any:
        if 200 <= response.status_code < 300:
            return response
        with response:
            if 300 <= response.status_code < 400:
                target = response.headers.get("Location", "nowhere")[:200]
                raise self._foreign(f"sends clients on to {target}, which is not followed")
            try:
                error = json.loads(self._body(response))["error"]
                code, message, details = str(error["code"]), str(error["message"]), dict(error["details"])
            except (ValueError, KeyError, TypeError, RecursionError, self.requests.RequestException):
                raise self._foreign(f"answered {response.status_code}, not as an S2 Mesh server does") from None
            wait = response.headers.get("Retry-After", "")
        if code in ("token_missing", "token_wrong"):
            raise _wrong_token(self.url, self.is_local)
        after = float(wait) if wait.isdecimal() and len(wait) < 6 else None
        raise Refused(code, message, details, status=response.status_code, retry_after_s=after)

    def _no_connection(self, error: Exception) -> S2MeshError:
        if isinstance(error, self.requests.exceptions.SSLError):
            return self._foreign(f"has no encryption that can be trusted ({str(error)[:200]})")
        if _is_garbled(error):
            return self._foreign("answers, but not in HTTP")
        remedy = "Press Start, or check the address in the preferences." if self.is_local else "Check its address."
        return Offline(f"No server answers at {self.url}", remedy)

    def _foreign(self, what: str) -> WrongService:
        self._known = False
        return WrongService(
            f"{self.url} {what}", "Stop the other program, or set another port or address in the preferences."
        )


def import_requests() -> Any:
    try:
        import requests
    except ImportError:
        raise NoRequests from None
    return requests


def _is_garbled(error: BaseException) -> bool:
    """Whether something answered, in another language than HTTP."""
    causes = [cause for part in error.args for cause in (part, *getattr(part, "args", ()))]
    garbled = [cause for cause in causes if isinstance(cause, http.client.HTTPException)]
    return bool(garbled) and not isinstance(garbled[-1], http.client.RemoteDisconnected)


def no_token(url: str, is_local: bool) -> WrongToken:
    if is_local:
        return WrongToken(
            f"A server answers at {url}, but its token is not in this user's data folder",
            "Enter the token that `s2mesh token` prints in the extension's preferences, or stop that server.",
        )
    return WrongToken(
        f"The server at {url} wants a token", "Enter the one that `s2mesh token` prints there in the preferences."
    )


def _wrong_token(url: str, is_local: bool) -> WrongToken:
    remedy = "Clear the token in the extension's preferences" if is_local else "Ask for the new token"
    return WrongToken(f"The server at {url} does not take the token", f"{remedy}, or enter what `s2mesh token` prints.")
