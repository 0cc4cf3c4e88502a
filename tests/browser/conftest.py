"""A real server with a real worker and the starter preset, and a real Chromium in front of it."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("waitress", reason="the extra `server` is not installed")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_MS = 120_000  # for what must happen; nothing is timed
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",  # tests may run as root, and the only page is our own
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",  # 3D without a graphics card
    "--enable-unsafe-swiftshader",
]
# Notes each value of the bar and each thing that the view shows, however short it lasts.
RECORDER = """
window.seen = { bar: [], shows: [], said: [] };
addEventListener("DOMContentLoaded", () => {
  const note = (list, value) => list.at(-1) !== value && list.push(value);
  new MutationObserver(() => {
    note(seen.bar, document.getElementById("progress-bar").value);
    note(seen.shows, document.getElementById("viewer").dataset.shows);
    note(seen.said, document.getElementById("live").textContent);
  }).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
});
"""


class Server:
    """Address and token of a running server, and requests beside the page."""

    def __init__(self, data_dir: Path) -> None:
        self.url = json.loads((data_dir / "server.json").read_text(encoding="utf-8"))["url"]
        self.token = (data_dir / "token").read_text(encoding="utf-8").strip()

    def get(self, path: str) -> bytes:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            return response.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("server") / "data"
    log = (data_dir.parent / "log").open("wb")
    command = [
        sys.executable,
        "-m",
        "server.cli",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(data_dir),
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "2"})
    try:
        deadline = time.monotonic() + 120
        while not (data_dir / "server.json").exists():
            text = (data_dir.parent / "log").read_text(errors="replace")
            assert process.poll() is None and time.monotonic() < deadline, f"the server did not start: {text}"
            time.sleep(0.1)
        yield Server(data_dir)
    finally:
        process.terminate()
        process.wait(60)
        log.close()


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(BROWSERS)} is on the path")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(server, browser):
    """Opens the page with the token. At the end nothing may have gone to another host, nor into the console."""
    contexts, complaints, foreign = [], [], []

    def opened(fragment: str | None = None, expected: str | None = None, **settings):
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **settings})
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(RECORDER)
        context.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
        page = context.new_page()
        page.on("console", lambda message: complain(message.type, message.text, expected))
        page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
        page.goto(server.url + "/" + (f"#token={server.token}" if fragment is None else fragment))
        if fragment is None:
            page.wait_for_selector("#workplace:visible")
        return page

    def is_foreign(url: str) -> bool:
        return not url.startswith((server.url + "/", f"blob:{server.url}/"))

    def complain(kind: str, text: str, expected: str | None) -> None:
        if kind in ("error", "warning") and not (expected and expected in text):
            complaints.append(f"{kind}: {text}")

    yield opened
    for context in contexts:
        context.close()
    assert not foreign, "requests to other hosts"
    assert not complaints, "complaints in the console"
