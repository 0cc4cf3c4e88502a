# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a result is to stand, as it was chosen when its job was sent: what the artist moves later does not move it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Place and size of one result."""

    size: float = 2.0  # longest side, in scene units
    location: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the origin, in the scene
    origin: Literal["BASE", "CENTER"] = "BASE"  # of the object: middle of its lowest side, or of its box
    rotation_z: float = 0.0  # radians
