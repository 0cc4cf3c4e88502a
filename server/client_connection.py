"""The client's connection to one address: who is there is asked first, then every request carries the token.

A request whose connection breaks is sent once more; all of ours may come twice without harm, a new job because it has
an Idempotency-Key.
"""

import http.client
import json
from typing import Any

import requests

from server.client_errors import Refused, Unreachable, WrongService, WrongVersion
from server.settings import API_VERSION

_CONNECT_S = 5.0
_READ_S = 60.0
_HEALTH_BYTES = 2**16

Json = dict[str, Any]


class Connection:
    """Requests to ``url``, and to nothing else: no redirect is followed, no proxy of the environment used."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._token = token
        self._known = False  # whether it has said that it is one of ours
        self._session = requests.Session()
        self._session.trust_env = False  # neither proxies nor .netrc

    def close(self) -> None:
        self._session.close()

    def health(self) -> Json:
        """Asks without the token who is there.

        Raises:
            WrongService, WrongVersion: if it is not a server that this client can talk to.
        """
        with self._exchange("GET", "/v1/health", stream=True) as response:
            try:
                document = json.loads(response.raw.read(_HEALTH_BYTES, decode_content=True))
            except Exception:  # of json, urllib3 or http.client: whatever it is, it is no answer of ours
                document = None
        if not isinstance(document, dict) or document.get("service") != "s2mesh":
            raise self._wrong_service("answers, but is no S2 Mesh server")
        if document.get("api") != API_VERSION:
            raise WrongVersion(
                f"the server at {self.url} speaks version {document.get('api')} of the interface, this client "
                f"version {API_VERSION}. Update the older of the two."
            )
        self._known = True
        return document

    def json(self, method: str, path: str, **content: Any) -> Json:
        """What a request is answered with; errors as ``send``."""
        with self.send(method, path, **content) as response:
            try:
                return response.json()
            except ValueError:
                raise self._wrong_service("answered with what is no JSON") from None

    def send(self, method: str, path: str, *, headers: dict[str, str] | None = None, **content: Any):
        """One request with the token, to a server that has been seen to be ours; its answer, a success.

        Args:
            read_s: how long it may be silent.
            content: as ``requests.Session.request`` takes it.

        Raises:
            Unreachable, WrongService, WrongVersion, Refused.
        """
        if not self._known:
            self.health()
        headers = {**(headers or {}), "Authorization": f"Bearer {self._token}"}
        return self._exchange(method, path, headers=headers, **content)

    def _exchange(self, method: str, path: str, *, read_s: float = _READ_S, **content: Any) -> requests.Response:
        where, patience = self.url + path, (_CONNECT_S, read_s)
        for last_try in (False, True):
            try:
                response = self._session.request(method, where, timeout=patience, allow_redirects=False, **content)
            except requests.Timeout:
                raise Unreachable(
                    f"the server at {self.url} does not answer in time. Check the address and its log."
                ) from None
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                if last_try:
                    raise self._no_connection(error) from None
            except requests.RequestException as error:  # such as a host name that cannot be one
                raise self._wrong_service(f"cannot be asked ({str(error)[:200]})") from None
            else:
                return self._checked(response)
        raise AssertionError("unreachable")

    def _checked(self, response: requests.Response) -> requests.Response:
        """The answer if it is a success, else the error that it is."""
        if 200 <= response.status_code < 300:
            return response
        with response:
            if 300 <= response.status_code < 400:
                target = response.headers.get("Location", "nowhere")[:200]
                raise self._wrong_service(f"sends clients on to {target}, which is not followed")
            try:
                error = response.json()["error"]
                code, message, details = str(error["code"]), str(error["message"]), dict(error["details"])
            except (ValueError, KeyError, TypeError, requests.RequestException):
                raise self._wrong_service(f"answered {response.status_code}, not as an S2 Mesh server does") from None
            wait = response.headers.get("Retry-After", "")
        raise Refused(code, message, details, response.status_code, float(wait) if wait.isdecimal() else None)

    def _no_connection(self, error: requests.RequestException) -> Unreachable | WrongService:
        if isinstance(error, requests.exceptions.SSLError):
            return self._wrong_service(f"has no TLS that can be trusted ({str(error)[:200]})")
        causes = [cause for part in error.args for cause in (part, *getattr(part, "args", ()))]
        garbled = [cause for cause in causes if isinstance(cause, http.client.HTTPException)]
        if garbled and not isinstance(garbled[-1], http.client.RemoteDisconnected):
            return self._wrong_service("answers, but not in HTTP")
        return Unreachable(f"no server answers at {self.url}. Start one with `s2mesh serve`, or check the address.")

    def _wrong_service(self, what: str) -> WrongService:
        return WrongService(f"{self.url} {what}. Check the address and the port.")
