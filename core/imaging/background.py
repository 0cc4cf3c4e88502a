"""What is object and what is background: a given alpha, a plain background, or a matting model.

H, W: height and width of the picture.
"""

from typing import Protocol

import numpy as np

from core.config.generation import Background
from core.config.releases import MATTING
from core.imaging.edge_alpha import with_soft_alpha
from core.imaging.load import RGBAImage
from core.imaging.plain_background import find_plain_background

MIN_OBJECT = 0.001  # a smaller share of the picture is not taken for an object


class MattingModel(Protocol):
    """A network that tells object from background."""

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """rgb [H, W, 3] uint8 to alpha [H, W] uint8: 255 where the object hides all that is behind it."""
        ...


def remove_background(
    image: RGBAImage,
    mode: Background = "auto",
    matting: MattingModel | None = None,
) -> RGBAImage:
    """Give the picture an alpha that shows the object only.

    ``auto`` trusts an alpha that the picture brings; without one it cuts away a plain background (one colour, soft
    gradients and shadows), else asks ``matting``, else keeps the whole picture and says so in ``warnings``. ``alpha``
    takes the picture's own alpha and cuts nothing away. ``none`` makes every pixel opaque, with the colour it has in
    the file. The same picture always gives the same result.
    """
    if mode == "none" and image.has_alpha:
        opaque = np.full(image.pixels.shape[:2], 255, np.uint8)
        return RGBAImage(np.dstack([image.pixels[..., :3], opaque]), has_alpha=False, warnings=image.warnings)
    if mode != "auto" or image.has_alpha:
        return image
    rgb = image.pixels[..., :3]
    plain = find_plain_background(rgb)
    if plain is not None:
        pixels = with_soft_alpha(rgb, plain)
        if _shows_object(pixels[..., 3]):
            return RGBAImage(pixels, has_alpha=True, warnings=image.warnings)
    if matting is not None:
        alpha = matting(rgb)
        assert alpha.shape == rgb.shape[:2] and alpha.dtype == np.uint8
        if _shows_object(alpha):
            return RGBAImage(np.dstack([rgb, alpha]), has_alpha=True, warnings=image.warnings)
    found = "the background is not plain" if plain is None else "nothing stands out from the background"
    advice = f"{found}, so the whole picture was kept; for a better shape give a PNG with a transparent background"
    advice += "." if matting is not None else f", or run `s2mesh models download {MATTING}` once."
    return RGBAImage(image.pixels, has_alpha=False, warnings=(*image.warnings, advice))


def _shows_object(alpha: np.ndarray) -> bool:
    return np.count_nonzero(alpha > 127) >= MIN_OBJECT * alpha.size
