"""Plain backgrounds: measured against the true coverage of shapes drawn at four times the size."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from core.imaging.background import remove_background
from core.imaging.load import load_image

SIDE = 256
RED = (180, 60, 40)


def picture(
    background=(240, 240, 240), foreground=RED, *, gradient=0.0, noise=0.0, quality=None, shadow=0.0, draw=None
) -> tuple[np.ndarray, np.ndarray]:
    """A mug with a hole in its handle: rgb [256, 256, 3] uint8 and its true alpha [256, 256] in 0..1."""
    mask = Image.new("L", (4 * SIDE, 4 * SIDE))
    (draw or mug)(ImageDraw.Draw(mask))
    alpha = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float32) / 255
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    behind = np.array(background, np.float32) * (1 - gradient * (0.6 * y + 0.4 * (x - 0.5) ** 2))[..., None]
    blot = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(blot).ellipse([65, 185, 215, 215], fill=255)
    soft = np.asarray(blot.filter(ImageFilter.GaussianBlur(9))).astype(np.float32) / 255
    behind = behind * (1 - shadow * soft[..., None])
    rgb = alpha[..., None] * np.array(foreground, np.float32) + (1 - alpha[..., None]) * behind
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape) if noise else 0
    rgb = np.clip(rgb, 0, 255).round().astype(np.uint8)
    if quality is not None:
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "JPEG", quality=quality)
        rgb = np.asarray(Image.open(file).convert("RGB"))
    return rgb, alpha


def mug(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse([580, 380, 840, 680], fill=255)
    draw.ellipse([650, 444, 776, 616], fill=0)
    draw.rounded_rectangle([300, 280, 660, 800], 60, fill=255)


def wire(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle([400, 600, 640, 840], fill=255)
    draw.line([520, 600, 600, 120], fill=255, width=8)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"background": (255, 255, 255)}, 0.001),
        ({"gradient": 0.25}, 0.001),
        ({"background": (60, 90, 200), "noise": 2.0}, 0.001),
        ({"background": (20, 20, 20), "foreground": (200, 200, 220)}, 0.001),
        ({"foreground": (40, 40, 40), "draw": wire}, 0.001),
        ({"gradient": 0.1, "quality": 60}, 0.003),
        ({"background": (200, 220, 210), "quality": 75}, 0.003),
        ({"shadow": 0.3}, 0.004),
    ],
    ids=["white", "gradient", "noise", "dark", "wire", "jpeg60", "jpeg75", "shadow"],
)
def test_plain_background_is_cut_away_with_soft_edges(settings, allowed):
    rgb, truth = picture(**settings)
    result = remove_background(load_image(rgb))
    alpha = result.pixels[..., 3] / 255
    assert result.has_alpha and not result.warnings
    assert np.abs(alpha - truth).mean() < allowed
    assert not (alpha[truth == 1] < 0.5).any(), "the object has no bites"


def test_no_halo_of_the_background_is_left():
    rgb, truth = picture(background=(30, 200, 60))
    pixels = remove_background(load_image(rgb)).pixels.astype(np.float32)
    shown = pixels[..., 3:] / 255
    on_white = pixels[..., :3] * shown + 255 * (1 - shown)
    ideal = np.array(RED) * truth[..., None] + 255 * (1 - truth[..., None])
    assert np.abs(on_white - ideal).max() < 32, "largest error of any edge pixel"
    assert np.abs(on_white - ideal).mean() < 0.2


def test_hole_of_the_handle_is_open_and_a_highlight_is_not():
    rgb, truth = picture(background=(60, 90, 200))
    y, x = np.mgrid[:SIDE, :SIDE]
    glow = np.exp(-((x - 115) ** 2 + (y - 130) ** 2) / 300)[..., None] * (truth[..., None] > 0)
    rgb = (rgb + glow * (np.array([60, 90, 200]) - rgb)).astype(np.uint8)  # fades into the background's very colour
    alpha = remove_background(load_image(rgb)).pixels[..., 3]
    assert alpha[132, 178] == 0
    assert alpha[130, 115] == 255


def test_object_may_touch_the_border_and_dust_is_dropped():
    rgb = np.full((200, 200, 3), 230, np.uint8)
    rgb[80:, 60:140] = RED
    rgb[10:12, 10:12] = 0
    alpha = remove_background(load_image(rgb)).pixels[..., 3]
    assert alpha[199, 100] == 255 and alpha[150, 100] == 255
    assert not alpha[:40].any()


def test_given_alpha_is_trusted_and_keep_changes_nothing():
    rgb, truth = picture()
    alpha = (np.roll(truth, 20, axis=0) * 255).astype(np.uint8)
    given = load_image(np.dstack([rgb, alpha]))
    assert remove_background(given) is given
    opaque = load_image(rgb)
    assert remove_background(opaque, "alpha") is opaque
    assert remove_background(given, "alpha") is given
    assert remove_background(opaque, "none") is opaque


def test_without_alpha_the_whole_picture_is_the_object_in_its_own_colours():
    rgba = np.dstack([picture()[0], np.full((SIDE, SIDE), 255, np.uint8)])
    rgba[:100, ..., 3] = 0
    rgba[100:120, ..., 3] = 90
    whole = remove_background(load_image(rgba), "none")
    assert not whole.has_alpha and (whole.pixels[..., 3] == 255).all()
    np.testing.assert_array_equal(whole.pixels[..., :3], rgba[..., :3])


def test_photograph_is_kept_with_advice_or_given_to_the_matting_model():
    rough = np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    kept = remove_background(load_image(rough))
    assert not kept.has_alpha and "transparent background" in kept.warnings[-1]

    def matting(rgb):
        alpha = np.zeros(rgb.shape[:2], np.uint8)
        alpha[20:40, 20:40] = 255
        return alpha

    matted = remove_background(load_image(rough), matting=matting)
    assert matted.has_alpha and not matted.warnings and np.count_nonzero(matted.pixels[..., 3]) == 400


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 300), (5, 5), (300, 2)])
def test_tiny_and_uniform_pictures_are_kept_with_advice(shape):
    result = remove_background(load_image(np.full((*shape, 3), 128, np.uint8)))
    assert not result.has_alpha and "nothing stands out" in result.warnings[-1]
