"""What the browser tests do with the page over and over: fill the form, wait, look, press Tab."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

MUG = Path(__file__).resolve().parents[2] / "packaging" / "examples" / "mug.png"


def order(page, picture: Path = MUG, quick: bool = True, **options: object) -> None:
    """Fills the form. ``quick`` takes fewer steps than the preset would."""
    page.set_input_files("#picture-file", picture)
    if quick:
        options = {"dense_steps": 4, "sparse_steps": 1, "faces": 5000, **options}
    page.evaluate("document.getElementById('options-more').open = true")
    for name, value in options.items():
        page.fill(f"#option-{name}", str(value))
    page.evaluate("document.getElementById('options-more').open = false")


def wait_for_state(page, state: str) -> None:
    wait_until(page, f"document.getElementById('stage').dataset.state === '{state}'")


def wait_for_view(page, shows: str) -> None:
    wait_until(page, f"document.getElementById('viewer').dataset.shows === '{shows}'")


def wait_for_mesh(page) -> None:
    wait_for_view(page, "mesh")
    wait_for_state(page, "succeeded")


def wait_until(page, condition: str) -> None:
    """Until the page's expression is true. Playwright's own wait_for_function is kept out by the page's policy."""
    for _ in range(1200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {condition}; the page says {page.inner_text('body')[:2000]}")


def look(page, selector: str = "#viewer") -> np.ndarray:
    """Pixels of an element, once two looks in a row are the same."""
    before = None
    for _ in range(50):
        pixels = np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB"), np.int16)
        if before is not None and pixels.shape == before.shape and np.abs(pixels - before).max() <= 2:
            return pixels
        before = pixels
        page.wait_for_timeout(100)
    raise AssertionError("the view never came to rest")


def differing(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the pixels that differ visibly. A box that starts between two pixels may be one row taller."""
    height, width = (min(sizes) for sizes in zip(first.shape[:2], second.shape[:2], strict=True))
    first, second = first[:height, :width], second[:height, :width]
    return float((np.abs(first - second).max(axis=-1) > 12).mean())


def tab_to(page, wanted: str) -> None:
    """Presses Tab until the element has the focus, and sees that the focus is visible."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == wanted:
            shown = "#picture-label" if wanted == "picture-file" else f"#{wanted}"  # its label stands for the input
            assert page.evaluate(f"getComputedStyle(document.querySelector('{shown}')).outlineStyle") == "solid"
            return
    raise AssertionError(f"Tab never reaches #{wanted}")
