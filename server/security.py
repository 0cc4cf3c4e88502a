"""Who may speak to the server: the Host and Origin headers first, then the token.

A page in a browser can reach any port of this machine. DNS rebinding makes it look like the same origin, but then
the Host header carries the attacker's name; a plain cross-site request carries an Origin or Sec-Fetch-Site header.
Both are refused before anything else. No answer ever carries a CORS header.
"""

import hmac
import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from server.errors import ApiError

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::"})
_HOST = re.compile(
    r"(?:\[(?P<bracketed>[0-9a-f:.]+)\]|(?P<name>[^\s\[\]:,/@?#]+))(?::[0-9]{1,5})?|(?P<bare>[0-9a-f:.]+)"
)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_host(header: str) -> str:
    """The name of a Host header in lower case, without port and brackets; empty if it is no Host header.

    Nothing may follow: two Host headers reach us as one, with a comma between.
    """
    found = _HOST.fullmatch(header.strip().lower())
    return (found["name"] or found["bracketed"] or found["bare"]) if found else ""


def _netloc(origin: str) -> str:
    """Host and port of an Origin header; empty for `null` and for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # such as http://[::1
        return ""


class Gate:
    """Checks one request's headers.

    Args:
        bound: the address that the server listens on. A wildcard admits every IP address as Host: rebinding needs a
            name, an address cannot be rebound.
        further: names that are allowed besides, such as those a proxy passes on.
        token: gives the present token.
    """

    def __init__(self, bound: str, further: tuple[str, ...], token: Callable[[], str]) -> None:
        self._any_address = bound in _WILDCARDS
        own = {socket.gethostname().lower()} if self._any_address else set()
        # Empty is what split_host makes of every header that is none: it must never become a name of ours.
        self._names = (_LOOPBACK | own | {bound.lower(), *(split_host(name) for name in further)}) - {""}
        self._token = token

    def check_source(self, headers: Mapping[str, str], *, navigation: bool = False) -> None:
        """Refuses foreign hosts and origins; ``navigation`` admits a link from elsewhere to the page itself.

        Raises:
            ApiError: host_not_allowed, origin_not_allowed.
        """
        host = headers.get("Host", "")
        if not self._is_ours(split_host(host)):
            raise ApiError(
                "host_not_allowed",
                f"the Host {host[:100]!r} is not this server's. Use its address, or start it with --allow-host NAME.",
            )
        origin = headers.get("Origin")
        if origin is not None and _netloc(origin) != host.strip().lower():
            raise ApiError("origin_not_allowed", f"pages of {origin[:100]!r} may not use this server.")
        site = headers.get("Sec-Fetch-Site", "none")
        linked = navigation and headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("none", "same-origin") and not linked:
            raise ApiError("origin_not_allowed", "pages of other origins may not use this server.")

    def check_token(self, headers: Mapping[str, str]) -> None:
        """Wants the token.

        Raises:
            ApiError: token_missing, token_wrong.
        """
        sent = headers.get("Authorization", "")
        challenge = {"WWW-Authenticate": 'Bearer realm="s2mesh"'}
        scheme, _, token = sent.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ApiError(
                "token_missing",
                "send the header `Authorization: Bearer TOKEN`; `s2mesh token` prints the token.",
                headers=challenge,
            )
        own = self._token()
        if not own or not hmac.compare_digest(token.strip().encode(), own.encode()):
            raise ApiError(
                "token_wrong", "the token is not this server's; `s2mesh token` prints it.", headers=challenge
            )

    def _is_ours(self, name: str) -> bool:
        if name in self._names:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
