"""The page's files as a browser gets them: headers, the policy that holds them, and what they refer to."""

import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path

import pytest

flask = pytest.importorskip("flask", reason="the extra `server` is not installed")

from server.web import FOLDER, page  # noqa: E402 - needs Flask

ROOT = Path(__file__).resolve().parents[2]
STATIC = FOLDER / "static"
INDEX = FOLDER / "templates" / "index.html"
VENDORED = sorted(path for path in (STATIC / "vendor").rglob("*") if path.is_file())
OWN = [INDEX, *sorted(path for path in STATIC.rglob("*") if path.is_file() and path not in VENDORED)]
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, never fetched


@pytest.fixture(scope="module")
def get():
    """Asks a bare application that has the page; the answer is read to its end, which closes the file."""
    app = flask.Flask("bare", static_folder=None)
    app.register_blueprint(page)
    client = app.test_client()
    return lambda path, **headers: client.get(path, headers=headers, buffered=True)


def policy(response) -> dict[str, list[str]]:
    directives = (part.split() for part in response.headers["Content-Security-Policy"].split(";"))
    return {name: values for name, *values in directives}


class Elements(html.parser.HTMLParser):
    """Start tags with their attributes, and the text of every script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def elements() -> Elements:
    parser = Elements()
    parser.feed(INDEX.read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/static/vendor/three/three.module.min.js", "/static/missing.js"]
)
def test_every_answer_carries_the_security_headers(get, path):
    response = get(path)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert policy(response)["default-src"] == ["'none'"]


def test_the_policy_allows_only_this_server(get):
    directives = policy(get("/"))
    values = {value for values in directives.values() for value in values}
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "data:", "http:", "https:"} & values
    hashes = [value for value in directives["script-src"] if value.startswith("'sha256-")]
    assert directives["script-src"] == ["'self'", *hashes] and len(hashes) == 1
    assert directives["style-src"] == ["'self'"]
    assert directives["connect-src"] == ["'self'"]
    assert directives["img-src"] == ["'self'", "blob:"]
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert directives[name] == ["'none'"]


def test_the_digest_in_the_policy_is_that_of_the_one_inline_script(get):
    (script,) = elements().scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy(get("/"))["script-src"]
    assert json.loads(script)["imports"].keys() == {"three"}


def test_nothing_else_is_inline():
    for tag, attributes in elements().tags:
        assert tag != "style" and "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "script" or "src" in attributes or attributes["type"] == "importmap"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_own_files_name_no_other_host_and_run_no_text(path):
    text = path.read_text(encoding="utf-8").replace(NAMESPACE, "")
    assert not re.search(r"https?://|[\"'(]//", text)
    assert not re.search(r"\beval\(|new Function\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text)


def imports(script: Path) -> list[str]:
    """What a module imports, at its head or later, comments left out."""
    text = re.sub(r"^\s*(//|\*|/\*).*$", "", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.findall(r"""(?:(?:\}|\* as \w+)\s*from|\bimport\()\s*["']([^"'\n]+)["']""", text)


def test_every_file_that_is_referred_to_is_there(get):
    known = json.loads(elements().scripts[0])["imports"]
    wanted = {value for _, attributes in elements().tags for key, value in attributes.items() if key in ("src", "href")}
    wanted |= set(known.values())
    for script in STATIC.rglob("*.js"):
        for name in set(imports(script)) - set(known):
            assert name.startswith("."), f"{script.name} imports {name}, which the import map does not know"
            wanted.add("/static/" + (script.parent / name).resolve().relative_to(STATIC.resolve()).as_posix())
    for address in sorted(wanted):
        assert address.startswith("/static/")
        assert get(address).status_code == 200, address
    scripts = {"/static/" + path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.js")}
    assert scripts == {address for address in wanted if address.endswith(".js")}, "a script that nothing imports"


def test_every_id_that_a_script_asks_for_is_on_the_page():
    ids = {attributes["id"] for _, attributes in elements().tags if "id" in attributes}
    for script in STATIC.glob("*.js"):
        for name in re.findall(r'byId\("([^"]+)"\)', script.read_text(encoding="utf-8")):
            assert name in ids or name.startswith("option-"), f"{script.name} asks for #{name}"


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html"),
        ("/static/app.js", "text/javascript"),
        ("/static/style.css", "text/css"),
        ("/static/icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_has_its_type_and_is_asked_for_again_only_if_it_changed(get, path, media_type):
    first = get(path)
    assert first.status_code == 200 and first.mimetype == media_type
    assert first.headers["Cache-Control"] == "no-cache"
    again = get(path, **{"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304 and again.data == b""
    assert "Content-Security-Policy" in again.headers


@pytest.mark.parametrize(
    "path",
    ["/static/../__init__.py", "/static/%2e%2e/__init__.py", "/static/..%5c__init__.py", "/static/", "/static/vendor"],
)
def test_nothing_outside_the_folder_is_handed_out(get, path):
    assert get(path).status_code == 404


def test_an_application_with_static_files_of_its_own_is_refused():
    with pytest.raises(AssertionError, match="static_folder"):
        flask.Flask("other").register_blueprint(page)


def test_vendored_files_are_those_that_third_party_names():
    text = (ROOT / "packaging" / "THIRD_PARTY.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", text, re.MULTILINE))
    found = {
        path.relative_to(STATIC / "vendor").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDORED
    }
    assert found == named
    assert "three/LICENSE" in found


def test_an_installed_package_brings_every_file_along():
    setuptools = pytest.importorskip("setuptools.config.pyprojecttoml", reason="setuptools is not installed")
    patterns = setuptools.load_file(ROOT / "pyproject.toml")["tool"]["setuptools"]["package-data"]["server.web"]
    packed = {path for pattern in patterns for path in FOLDER.glob(pattern) if path.is_file()}
    assert packed == {*OWN, *VENDORED}
