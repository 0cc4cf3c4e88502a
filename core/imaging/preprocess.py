"""The authors' image preparation, to the last pixel: crop to the object, square, white, margin, resize.

H, W: height and width of the picture. S: side that the image encoder wants (518 for the release). Steps 3 to 6 of the
authors' ``preprocess_image``; their 16 pixels of margin at 518 scale with S.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.imaging.load import RGBAImage

RELEASE_SIZE = 518
RELEASE_MARGIN = 16  # pixels on every side of the object, at RELEASE_SIZE
MIN_FOREGROUND = 0.001  # a smaller share of visible pixels keeps the whole picture
MAX_SQUARE_SIDE = 8192  # a longer (so very narrow) crop is shrunk before it is padded to a square


def preprocess(image: RGBAImage, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Prepare a picture for the image encoder.

    Args:
        image: decoded picture; its alpha tells object from background.
        size: side S in pixels.

    Returns:
        rgb [S, S, 3] uint8 on white, mask [S, S] uint8 (the alpha of the object).
    """
    pixels = cropped_to_object(image.pixels)
    if (longest := max(pixels.shape[:2])) > MAX_SQUARE_SIDE:
        pixels = np.array(Image.fromarray(pixels).reduce(-(-longest // MAX_SQUARE_SIDE)))
    rgb, mask = _on_white(pixels)
    margin = round(RELEASE_MARGIN * size / RELEASE_SIZE)
    prepared = []
    for plane, fill, resample in ((rgb, 255, Image.Resampling.BILINEAR), (mask, 0, Image.Resampling.NEAREST)):
        plane = _resized(_squared(plane, fill), size, resample)
        plane = np.pad(plane, [(margin, margin)] * 2 + [(0, 0)] * (plane.ndim - 2), constant_values=fill)
        prepared.append(_resized(plane, size, resample))
    return prepared[0], prepared[1]


def to_tensor(rgb: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """rgb [S, S, 3] and mask [S, S], uint8, as float32 in 0..1: [1, 3, S, S] and [1, 1, S, S]."""
    picture = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
    return picture.contiguous(), torch.from_numpy(mask.copy())[None, None].float() / 255


def cropped_to_object(pixels: np.ndarray) -> np.ndarray:
    """The tight box of ``pixels`` [H, W, 4] around all that is not fully transparent: [h, w, 4], a view."""
    visible = pixels[..., 3] > 0
    if np.count_nonzero(visible) < MIN_FOREGROUND * visible.size:
        return pixels
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _on_white(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Composite [h, w, 4] on white, and the alpha, both truncated to uint8 as the authors do.

    Every output depends on one colour and one alpha value only, so the float64 arithmetic runs once over the 256 x 256
    pairs instead of over the picture.
    """
    level = np.arange(256) / 255.0
    composite = ((level[:, None] * level + (1 - level)) * 255).astype(np.uint8)  # [colour, alpha]
    truncated = (level * 255).astype(np.uint8)
    alpha = pixels[..., 3]
    index = pixels[..., :3].astype(np.uint16) * 256 + alpha[..., None]
    return composite.reshape(-1)[index], truncated[alpha]


def _squared(plane: np.ndarray, fill: int) -> np.ndarray:
    """[h, w, ...] centred in a square of ``fill``; an odd pixel goes to the bottom or the right."""
    height, width = plane.shape[:2]
    side = max(height, width)
    square = np.full((side, side, *plane.shape[2:]), fill, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = plane
    return square


def _resized(plane: np.ndarray, size: int, resample: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize((size, size), resample))
