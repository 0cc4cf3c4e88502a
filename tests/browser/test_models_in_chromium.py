"""Downloading a model on the page, by keyboard, against a real server and a hub on this machine."""

import threading

import pytest

from tests.support import tiny_release
from tests.support.fake_hub import FakeHub
from tests.support.live_server import LiveServer
from tests.support.using_the_page import tab_to, wait_until

pytestmark = pytest.mark.slow
NAME = tiny_release.NAME


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with FakeHub(tiny_release.write_hub(tmp_path_factory.mktemp("served"))) as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory, hub):
    """With no model but those that the hub has."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("NO_PROXY", "127.0.0.1")
        worker = {"start_at_once": False}
        with LiveServer(folder / "data", folder / "models", tiny_release=True, worker=worker) as live:
            yield live


def test_a_model_is_downloaded_by_keyboard(server, hub, open_page, tmp_path):
    page = open_page()
    option = f"document.querySelector('#option-preset option[value={NAME}]')"
    assert page.evaluate(f"{option}.disabled")
    tab_to(page, "models-summary")
    page.keyboard.press("Enter")
    card = page.locator("#models-list > li").first
    told = card.inner_text()
    assert "licence MIT" in told and "licence Apache-2.0" in told and "4.2 GB" in told
    page.screenshot(path=tmp_path / "offer.png", full_page=True)

    hub.gate = threading.Event()
    button = f"#download-{NAME}"
    tab_to(page, f"download-{NAME}")
    page.keyboard.press("Enter")
    assert "accept the licences: MIT, Apache-2.0" in page.inner_text("#confirm-text")
    page.keyboard.press("Escape")
    wait_until(page, "!document.getElementById('confirm').open")
    assert page.evaluate("document.activeElement.id") == f"download-{NAME}" and not hub.requests
    page.keyboard.press("Enter")
    wait_until(page, "document.getElementById('confirm').open")
    tab_to(page, "confirm-yes")
    page.keyboard.press("Enter")
    assert hub.waiting.wait(120)
    wait_until(page, "document.querySelector('#models-list .hint').textContent.startsWith('Downloading')")
    page.screenshot(path=tmp_path / "progress.png", full_page=True)

    page.reload()  # another window would see the same
    page.wait_for_selector("#models-list progress:visible")
    page.click("#models-list button:has-text('Cancel')")
    wait_until(page, "document.querySelector('#models-list .hint').textContent.startsWith('Cancelled')")
    hub.gate.set()
    hub.gate = None

    hub.status["somebody/eye"] = 403
    page.click(button)
    page.click("#confirm-yes")
    wait_until(page, "document.querySelector('#models-list .problem').textContent.includes('HF_TOKEN')")
    hub.status.clear()
    page.click(button)
    page.click("#confirm-yes")
    wait_until(page, "document.getElementById('models').hidden")
    assert not page.evaluate(f"{option}.disabled")
    assert f"{NAME} is installed." in page.evaluate("seen.said")
    page.select_option("#option-preset", NAME)
    assert "1024" in page.inner_text("#option-resolution")
