"""Soft alpha along the edge of an object on a known background, and its colours freed of that background.

H, W: height and width of the picture; E pixels in the band along the edge.
"""

import numpy as np
from scipy import ndimage

from core.imaging.plain_background import PlainBackground, colour_at, unit_positions

MIXED_SHARE = 250  # the band along the edge is one pixel wide for so many of the picture's longer side; 2 to 6
MIN_CONTRAST = 24.0  # levels; below it an edge pixel is object or background, nothing between
FAINT_RESIDUE = 2.5  # tolerances; a detail thinner than the band and fainter than this is compression noise
FAINTEST = 0.06  # alpha below this (compression noise) is 0, and above 1 minus this is 1


def with_soft_alpha(
    rgb: np.ndarray,  # [H, W, 3] uint8
    plain: PlainBackground,
) -> np.ndarray:
    """Cut the object out: [H, W, 4] uint8.

    Pixels of the edge mix object and background, I = a F + (1 - a) B. B is the background model, F the nearest colour
    inside the object; a is their least-squares mix, and F replaces the mixed colour, so no halo is left.
    """
    height, width = rgb.shape[:2]
    reach = int(np.clip(round(max(height, width) / MIXED_SHARE), 2, 6))
    inside = ~plain.background
    core = inside & ~_grown(plain.background, reach)
    band = _grown(inside, reach) & ~core & ~plain.shadow
    rows, columns = np.nonzero(band)
    out = np.concatenate([rgb, inside[..., None] * np.uint8(255)], axis=-1)
    if not len(rows):
        return out
    colour, thin = _nearest_colour(rgb, core, plain.distance, inside, rows, columns, 2 * reach + 1)  # [E, 3], [E]
    mixed = rgb[rows, columns].astype(np.float32)  # [E, 3]
    behind = colour_at(plain.coefficients, unit_positions(height)[rows], unit_positions(width)[columns])
    span = colour - behind
    contrast = np.linalg.norm(span, axis=1)
    alpha = ((mixed - behind) * span).sum(axis=1) / np.maximum(contrast, 1e-3) ** 2
    faint = np.maximum(FAINTEST, np.minimum(0.3, 3 * plain.noise / np.maximum(contrast, 1e-3)))
    alpha = np.clip((alpha - faint) / (1 - 2 * faint), 0, 1)
    hard = contrast < MIN_CONTRAST
    alpha = np.where(hard, inside[rows, columns], alpha)
    alpha[thin & (contrast < FAINT_RESIDUE * plain.tolerance)] = 0
    out[rows, columns, 3] = np.round(alpha * 255).astype(np.uint8)
    soft = ~hard & (alpha > 0) & (alpha < 1)
    out[rows[soft], columns[soft], :3] = np.round(colour[soft]).astype(np.uint8)
    return out


def _nearest_colour(
    rgb: np.ndarray,  # [H, W, 3]
    core: np.ndarray,  # [H, W] bool: surely unmixed
    distance: np.ndarray,  # [H, W] uint8: from the background's colour
    inside: np.ndarray,  # [H, W] bool
    rows: np.ndarray,  # [E]
    columns: np.ndarray,  # [E]
    reach: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour [E, 3] float32 of the nearest ``core`` pixel, and where there was none [E].

    Where the object is too thin to have a core, the pixel nearby that differs most from the background stands in.
    """
    height, width = core.shape
    source = np.full(len(rows), -1)
    furthest = np.zeros(len(rows), np.int16)
    strongest = rows * width + columns
    for dy, dx in _offsets(reach):
        y, x = np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)
        index = y * width + x
        source = np.where((source < 0) & core[y, x], index, source)
        if dy * dy + dx * dx <= 8:
            further = inside[y, x] & (distance[y, x] > furthest)
            furthest = np.where(further, distance[y, x], furthest)
            strongest = np.where(further, index, strongest)
    thin = source < 0
    return rgb.reshape(-1, 3)[np.where(thin, strongest, source)].astype(np.float32), thin


def _offsets(reach: int) -> list[tuple[int, int]]:
    """Offsets (dy, dx) within ``reach``, nearest first."""
    span = range(-reach, reach + 1)
    near = [(dy, dx) for dy in span for dx in span if dy * dy + dx * dx <= reach * reach]
    return sorted(near, key=lambda o: (o[0] * o[0] + o[1] * o[1], o))


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """``mask`` [H, W] grown by ``reach`` pixels along both axes (a square: separable, so fast on large pictures)."""
    return ndimage.maximum_filter(mask.view(np.uint8), size=2 * reach + 1).view(bool)
