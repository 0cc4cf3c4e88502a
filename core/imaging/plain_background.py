"""Find a plain background without a network: colour model of the border, flood fill, holes, soft shadows.

H, W: height and width of the picture; h, w: of its reduced copy; P pixels; K = 6 terms of a quadratic in x and y.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

WORKING_SIDE = 1024  # the model and the shadow are found on a copy at most about this large
BORDER_SHARE = 0.02  # width of the border that is taken for background, of the shorter side
BORDER_SAMPLES = 8000  # pixels that the model is fitted to
MIN_PLAIN_BORDER = 0.7  # share of the border that must follow the model
MAX_BORDER_NOISE = 6.0  # levels (of 255); a border rougher than this is not plain
MIN_TOLERANCE, MAX_TOLERANCE = 9.0, 30.0  # levels between background and what is surely not
RINGING_SHARE, RINGING_REACH = 0.16, 5  # lossy compression spills this share of a contrast this many pixels far
SPECK_SHARE = 0.003  # a separate piece smaller than this share of the object is dust
HOLE_SHARE = 0.0004  # a smaller enclosed patch of background colour stays part of the object
MIN_SHARP_RIM = 0.9  # share of a hole's rim that must be clearly object
SHADOW_DARKEST = 0.6  # a soft shadow keeps at least this share of the background's brightness
SHADOW_TINT = 0.045  # and its colour ratios differ at most by this
SHADOW_STEP = 6.0  # and its brightness would need at least 1 / 6 of the picture's longer side to fade to nothing
SHADOW_GAP = 0.015  # of the longer side; a faint stretch of the object's edge up to twice as long is no way in
MAX_SHADOW_OF_OBJECT = 0.6  # a larger "shadow" is a part of the object whose edge is too soft


@dataclass(frozen=True)
class PlainBackground:
    """A background that was found.

    ``background`` [H, W] bool: surely not the object; ``distance`` [H, W] uint8: difference of each pixel from the
    background's colour, in levels; ``shadow`` [H, W] bool: background that is shaded; ``noise`` and ``tolerance``, in
    levels: spread of the background, and the distance up to which a pixel belongs to it; ``coefficients`` [K, 3]: the
    colour model, for ``colour_at``.
    """

    background: np.ndarray
    distance: np.ndarray
    shadow: np.ndarray
    noise: float
    coefficients: np.ndarray
    tolerance: float


def find_plain_background(
    rgb: np.ndarray,  # [H, W, 3] uint8
) -> PlainBackground | None:
    """The plain background of a picture, or None where the border is not plain."""
    height, width = rgb.shape[:2]
    step = max(1, max(height, width) // WORKING_SIDE)
    small = _reduced(rgb, step)
    model = _border_model(small)
    if model is None:
        return None
    coefficients, noise = model
    tolerance = float(np.clip(5 * noise, MIN_TOLERANCE, MAX_TOLERANCE))
    distance = _distance(rgb, coefficients)
    nearby = ndimage.maximum_filter(distance, size=2 * RINGING_REACH + 1)
    close = distance <= np.maximum(tolerance, RINGING_SHARE * nearby)
    pieces, count = ndimage.label(close)
    outside = np.zeros(count + 1, bool)
    outside[_border_values(pieces)] = True
    outside[0] = False
    background = outside[pieces]
    if not background.any():
        return None
    background |= _holes(pieces, outside, distance, tolerance, noise)
    shadow = _shadow(small, coefficients, _reduced(background[..., None] * np.uint8(255), step)[..., 0])
    shadow = _enlarged(shadow, step, (height, width)) & ~background
    background |= shadow
    background |= _specks(~background)
    return PlainBackground(background, distance, shadow, noise, coefficients, tolerance)


def colour_at(
    coefficients: np.ndarray,  # [K, 3]
    y: np.ndarray,  # [P] in -1..1 from top to bottom
    x: np.ndarray,  # [P] in -1..1 from left to right
) -> np.ndarray:
    """The background's colour [P, 3] float32, in levels, inside 0..255."""
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)
    return np.clip(terms @ coefficients.astype(np.float32), 0, 255)


def unit_positions(length: int) -> np.ndarray:
    """Pixel centres along a side, in -1..1: [length] float32."""
    return ((np.arange(length, dtype=np.float32) + 0.5) / length) * 2 - 1


def _border_model(small: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Quadratic colour model [K, 3] of the border of [h, w, 3] float32 and its noise, or None if it is not plain.

    Least absolute deviations (by reweighting), so that an object that touches the border does not bend the model.
    """
    height, width = small.shape[:2]
    ring = max(1, round(BORDER_SHARE * min(height, width)))
    border = np.ones((height, width), bool)
    border[ring:-ring, ring:-ring] = False
    rows, columns = np.nonzero(border)
    rows, columns = (i[:: max(1, len(i) // BORDER_SAMPLES)] for i in (rows, columns))
    y, x = unit_positions(height)[rows], unit_positions(width)[columns]
    colours = small[rows, columns].astype(np.float64)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float64)
    # A border of a few pixels does not fix every term: the small pull towards zero decides the rest.
    pull = 1e-4 * len(terms) * np.diag([0.0, 1, 1, 1, 1, 1])
    weights = (np.abs(colours - np.median(colours, axis=0)).max(axis=1) + 2.0) ** -1
    for _ in range(30):
        weighted = terms * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ terms + pull * weights.mean(), weighted.T @ colours)
        misfit = np.abs(colours - terms @ coefficients).max(axis=1)
        weights = (misfit + 1.0) ** -1
    noise = 1.4826 * float(np.median(misfit))
    plain = np.mean(misfit <= np.clip(5 * noise, MIN_TOLERANCE, MAX_TOLERANCE))
    if noise > MAX_BORDER_NOISE or plain < MIN_PLAIN_BORDER:
        return None
    return coefficients, noise


def _distance(rgb: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Largest channel difference from the model: [H, W] uint8. In strips, to need little memory."""
    height, width = rgb.shape[:2]
    y, x = unit_positions(height)[:, None], unit_positions(width)[None, :]
    out = np.zeros((height, width), np.uint8)
    rows = max(1, 1_000_000 // width)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        for channel, (c0, cx, cy, cxx, cxy, cyy) in enumerate(coefficients.T.astype(np.float32)):
            model = (cxy * y[strip] + cx) * x
            model += (cyy * y[strip] + cy) * y[strip] + (cxx * x * x + c0)
            difference = np.abs(np.clip(model, 0, 255, out=model) - rgb[strip, :, channel])
            np.maximum(out[strip], (difference + 0.5).astype(np.uint8), out=out[strip])
    return out


def _holes(
    pieces: np.ndarray,  # [H, W] int, components of background colour
    outside: np.ndarray,  # [components + 1] bool, those that touch the border
    distance: np.ndarray,  # [H, W] uint8
    tolerance: float,
    noise: float,
) -> np.ndarray:
    """Enclosed patches that show the background, as inside a mug's handle: [H, W] bool.

    A patch counts if it is large enough, has exactly the background's colour and is sharply bounded all round; a
    highlight of the object fades instead.
    """
    areas = np.bincount(pieces.ravel(), minlength=len(outside))
    found = np.zeros(pieces.shape, bool)
    margin = max(3, round(0.004 * max(pieces.shape)))
    large = np.flatnonzero(~outside & (areas >= max(16, HOLE_SHARE * pieces.size)))
    boxes = ndimage.find_objects(pieces) if len(large) else []
    for piece in large[large > 0]:
        box = tuple(slice(max(0, s.start - margin - 1), s.stop + margin + 1) for s in boxes[piece - 1])
        patch = pieces[box] == piece
        if np.percentile(distance[box][patch], 25) > max(3.0, 2 * noise):  # its middle: the rim is stained by JPEG
            continue
        grown = ndimage.binary_dilation(patch, iterations=margin)
        rim = grown & ~ndimage.binary_dilation(patch, iterations=margin - 1)
        if np.mean(distance[box][rim] > 2 * tolerance) >= MIN_SHARP_RIM:
            found[box] |= patch
    return found


def _shadow(
    small: np.ndarray,  # [h, w, 3] float32
    coefficients: np.ndarray,  # [K, 3]
    background: np.ndarray,  # [h, w] float32, 255 where it is background
) -> np.ndarray:
    """Soft shadow on the background: [h, w] bool.

    Darker than the background, of its tint, fading (no edge inside it), and connected with the background.
    """
    height, width = small.shape[:2]
    y_of, x_of = np.broadcast_arrays(unit_positions(height)[:, None], unit_positions(width)[None, :])
    model = colour_at(coefficients, y_of.ravel(), x_of.ravel()).reshape(small.shape)
    smooth = ndimage.gaussian_filter(small, (1, 1, 0))
    ratio = smooth / np.maximum(model, 8.0)
    light = ratio.mean(axis=-1)
    tint = np.ptp(ratio, axis=-1)
    slope = np.hypot(ndimage.sobel(light, 0), ndimage.sobel(light, 1)) / 8
    step = float(np.clip(SHADOW_STEP / max(height, width), 0.005, 0.03))  # per pixel of the copy
    fading = (light > SHADOW_DARKEST) & (light < 1.02) & (tint < SHADOW_TINT) & (slope < step)
    known = background > 127
    possible = fading | known
    gap = max(2, round(SHADOW_GAP * max(height, width)))
    wide = ndimage.binary_erosion(possible, iterations=gap, border_value=1)
    pieces, count = ndimage.label(wide)
    touching = np.zeros(count + 1, bool)
    touching[np.unique(pieces[known & wide])] = True
    touching[0] = False
    shadow = ndimage.binary_dilation(touching[pieces], iterations=gap, mask=possible) & ~known
    rest = np.count_nonzero(~known & ~shadow)
    if np.count_nonzero(shadow) > MAX_SHADOW_OF_OBJECT * rest:
        return np.zeros_like(shadow)
    return shadow


def _specks(foreground: np.ndarray) -> np.ndarray:
    """Pieces of ``foreground`` [H, W] that are dust next to the rest: [H, W] bool."""
    pieces, count = ndimage.label(foreground, structure=np.ones((3, 3)))
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    areas[0] = 0
    small = areas < SPECK_SHARE * areas.sum()
    small[0] = False
    return small[pieces]


def _border_values(a: np.ndarray) -> np.ndarray:
    """Distinct values along the outermost pixels of [H, W]."""
    return np.unique(np.concatenate([a[0], a[-1], a[:, 0], a[:, -1]]))


def _reduced(a: np.ndarray, step: int) -> np.ndarray:
    """Mean over ``step`` x ``step`` boxes of [H, W, C] uint8: [H // step, W // step, C] float32; a rest is cut off."""
    height, width = a.shape[0] // step, a.shape[1] // step
    total = np.zeros((height, width, a.shape[2]), np.float32)
    for row in range(step):
        for column in range(step):
            total += a[row : height * step : step, column : width * step : step]
    return total / (step * step)


def _enlarged(mask: np.ndarray, step: int, shape: tuple[int, int]) -> np.ndarray:
    """[h, w] repeated ``step`` times along both axes, its last row and column repeated up to ``shape`` [H, W]."""
    rows = np.minimum(np.arange(shape[0]) // step, mask.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) // step, mask.shape[1] - 1)
    return mask[rows[:, None], columns]
