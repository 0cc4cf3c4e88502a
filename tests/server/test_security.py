"""The gate: which hosts and origins are let through, and which tokens."""

import hmac
import socket

import pytest

from server.errors import ApiError
from server.security import Gate, is_loopback, split_host

TOKEN = "a-token-of-the-tests-0123456789"


def gate(bound: str = "127.0.0.1", *further: str) -> Gate:
    return Gate(bound, further, lambda: TOKEN)


def refusal(check, *arguments, **named) -> str | None:
    """The code of a refusal; None for none."""
    try:
        check(*arguments, **named)
    except ApiError as error:
        assert int(error.status) in (401, 403) and len(error.message) > 20
        return error.code
    return None


def host_refusal(bound: str, header: str | None, *further: str) -> str | None:
    return refusal(gate(bound, *further).check_source, {} if header is None else {"Host": header})


@pytest.mark.parametrize("bound", ["127.0.0.1", "::1", "localhost", "192.168.1.5", "0.0.0.0", "::"])
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8493", "localhost", "localhost:8493", "LocalHost:1", "[::1]", "[::1]:8493", " localhost "],
)
def test_loopback_is_always_ours(bound, host):
    assert host_refusal(bound, host) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        ":8493",
        "evil.example",
        "evil.example:8493",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io:8493",
        "evil.example:127.0.0.1",
        "evil.example#127.0.0.1",
        "127.0.0.1@evil.example",
        "localhost:8493@evil.example",
        "127.0.0.1, evil.example",
        "127.0.0.1:1, evil.example",
        "127.0.0.1:80a",
        "127.0.0.1:-1",
        "127.0.0.1:8493/",
        "[::1]evil.example",
        "[::1]:1, evil.example",
        "[::1",
        "127.0.0.1:8493:8493",
        "[evil.example]",
        "0177.0.0.1",
        "2130706433",
        "127.1",
        "localhost.",
        "xn--localhost",
        "локалхост",
        "::1]:80",
    ],
)
@pytest.mark.parametrize("bound", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_foreign_names_are_refused_on_every_address(bound, host):
    assert host_refusal(bound, host) == "host_not_allowed"


@pytest.mark.parametrize(
    "host", ["192.168.1.5", "10.0.0.1:8493", "8.8.8.8", "0.0.0.0", "[fe80::1]:8493", "[2001:db8::1]"]
)
def test_addresses_other_than_the_bound_one(host):
    assert host_refusal("127.0.0.1", host) == "host_not_allowed"
    assert host_refusal("192.168.1.6", host) == "host_not_allowed"
    assert host_refusal("0.0.0.0", host) is None, "an address cannot be rebound"
    assert host_refusal("::", host) is None


def test_the_bound_address_and_the_machine_s_own_name():
    assert host_refusal("192.168.1.5", "192.168.1.5:8493") is None
    assert host_refusal("2001:db8::1", "[2001:DB8::1]:8493") is None
    name = socket.gethostname()
    for own in (name, name.upper(), f"{name}:8493"):
        assert host_refusal("0.0.0.0", own) is None, "who listens on all addresses is called by its name"
    if name.lower() != "localhost":
        assert host_refusal("127.0.0.1", name) == "host_not_allowed"


def test_further_names_are_allowed_with_any_port_and_case():
    for given in ("Mesh.Example", "mesh.example:443", "mesh.example"):
        for host in ("mesh.example", "MESH.example:8080"):
            assert host_refusal("127.0.0.1", host, given) is None
        for host in ("a.mesh.example", "mesh.example.evil", "mesh"):
            assert host_refusal("127.0.0.1", host, given) == "host_not_allowed"


@pytest.mark.parametrize(("bound", "further"), [("", ()), ("127.0.0.1", ("",)), ("127.0.0.1", ("my mesh, yours",))])
def test_a_name_that_is_none_lets_nothing_in(bound, further):
    for header in (None, "", "127.0.0.1:1, evil.example", "evil example"):
        assert host_refusal(bound, header, *further) == "host_not_allowed"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("a", "a"),
        ("a:1", "a"),
        ("A.B:1", "a.b"),
        ("[::1]:1", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("", ""),
        (" a ", "a"),
    ],
)
def test_names_of_host_headers(header, name):
    assert split_host(header) == name


# --- origins ---


def source_refusal(host: str = "127.0.0.1:8493", *, navigation: bool = False, **headers: str) -> str | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refusal(gate().check_source, {"Host": host, **named}, navigation=navigation)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8493", "http://127.0.0.1:8493"),
        ("LOCALHOST:8493", "http://localhost:8493"),
        ("localhost:8493", "HTTP://LOCALHOST:8493"),
        ("[::1]:8493", "http://[::1]:8493"),
        ("localhost", "http://localhost"),
        ("localhost", "https://localhost"),
    ],
)
def test_the_own_origin_is_let_through(host, origin):
    assert source_refusal(host, Origin=origin) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "https://evil.example:8493",
        "http://127.0.0.1",
        "http://127.0.0.1:8494",
        "http://localhost:8493",
        "http://127.0.0.1:8493.evil.example",
        "http://127.0.0.1:8493@evil.example",
        "http://evil.example/127.0.0.1:8493",
        "127.0.0.1:8493",
        "file://",
        "chrome-extension://abcdef",
        "http://[::1",
        "http://[evil]:8493",
        "//",
        "\x00",
        "http://127.0.0.1:8493, http://evil.example",
    ],
)
@pytest.mark.parametrize("navigation", [False, True])
def test_other_origins_are_refused(origin, navigation):
    assert source_refusal(Origin=origin, navigation=navigation) == "origin_not_allowed"


@pytest.mark.parametrize(
    ("site", "code"),
    [
        ("none", None),
        ("same-origin", None),
        ("same-site", "origin_not_allowed"),
        ("cross-site", "origin_not_allowed"),
        ("", "origin_not_allowed"),
        ("something-new", "origin_not_allowed"),
    ],
)
def test_what_the_browser_says_of_the_site(site, code):
    assert source_refusal(Sec_Fetch_Site=site) == code
    assert source_refusal(Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate") == code, "only the page may be linked to"
    assert source_refusal(Sec_Fetch_Site=site, navigation=True) == code
    assert source_refusal(Sec_Fetch_Site=site, Sec_Fetch_Mode="cors", navigation=True) == code
    assert source_refusal(Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", navigation=True) is None


def test_a_link_to_the_page_does_not_open_it_to_foreign_hosts():
    assert source_refusal("evil.example", Sec_Fetch_Mode="navigate", navigation=True) == "host_not_allowed"


def test_clients_that_are_no_browsers_send_neither():
    assert source_refusal() is None


# --- token ---


def token_refusal(header: str | None, token: str = TOKEN) -> str | None:
    headers = {} if header is None else {"Authorization": header}
    return refusal(Gate("127.0.0.1", (), lambda: token).check_token, headers)


def test_the_token_is_let_through():
    assert token_refusal(f"Bearer {TOKEN}") is None
    assert token_refusal(f"Bearer  {TOKEN} ") is None
    assert token_refusal(f"bearer {TOKEN}") is None and token_refusal(f"BEARER {TOKEN}") is None


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer   ", TOKEN, f"Basic {TOKEN}", f"Token {TOKEN}", f"Bearer{TOKEN}"]
)
def test_no_token(header):
    assert token_refusal(header) == "token_missing"


@pytest.mark.parametrize(
    "sent",
    [
        "x",
        TOKEN[:-1],
        TOKEN + "x",
        TOKEN.upper(),
        TOKEN[::-1],
        f"{TOKEN} {TOKEN}",
        "größe" * 10,
        "\xff" * 40,
        "\0",
    ],
)
def test_another_token(sent):
    assert token_refusal(f"Bearer {sent}") == "token_wrong"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer  ", f"Bearer {TOKEN}"])
def test_without_a_token_of_our_own_nobody_is_let_in(header):
    assert token_refusal(header, token="") is not None


def test_the_present_token_counts():
    present = {"token": "first-token-0123456789"}
    own = Gate("127.0.0.1", (), lambda: present["token"])
    assert refusal(own.check_token, {"Authorization": "Bearer first-token-0123456789"}) is None
    present["token"] = "second-token-0123456789"
    assert refusal(own.check_token, {"Authorization": "Bearer first-token-0123456789"}) == "token_wrong"
    assert refusal(own.check_token, {"Authorization": "Bearer second-token-0123456789"}) is None


def test_tokens_are_compared_in_constant_time_and_never_told(monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    with pytest.raises(ApiError) as caught:
        gate().check_token({"Authorization": "Bearer guess"})
    assert compared == [(b"guess", TOKEN.encode())]
    assert caught.value.headers == {"WWW-Authenticate": 'Bearer realm="s2mesh"'}
    assert TOKEN not in str(caught.value.body()) and "guess" not in str(caught.value.body())


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("mesh.example", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches(host, loopback):
    assert is_loopback(host) is loopback
