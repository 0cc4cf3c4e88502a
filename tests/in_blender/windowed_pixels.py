"""What must be seen in the pictures of windowed_script.py: result, stand-in, bar. And crops for the README."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NOISE = 24  # of 255: less is antialiasing
SEEN = 0.03  # of the place, a cube as wide as the result is high; a slim thing covers a twentieth of it


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture of the screen, and where things are in it."""

    pixels: np.ndarray  # [height, width, 3] uint8, the top row first
    facts: dict[str, Any]  # boxes are x, y, width, height, from the lower left as Blender counts

    def crop(self, box: list[float]) -> np.ndarray:
        x, y, width, height = box
        rows, columns = self.pixels.shape[:2]
        top, left = max(int(rows - y - height), 0), max(int(x), 0)
        return self.pixels[top : max(min(int(rows - y), rows), top), left : min(int(x + width), columns)]


def read(folder: Path, name: str) -> Shot:
    with Image.open(folder / f"{name}.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    return Shot(pixels=pixels, facts=json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


def problems(folder: Path) -> list[str]:
    """Everything that is not seen where it must be, in sentences; empty if all is well."""
    names = ("2_before", "3_progress", "4_coarse", "5_later", "6_result", "7_undone", "8_redone", "9_edit_mode")
    shots = {name: read(folder, name) for name in names}
    before, found = shots["2_before"], []
    coarse, result, undone, redone = (
        changed(before, shots[name]) for name in ("4_coarse", "6_result", "7_undone", "8_redone")
    )
    print(f"    changed where the result is: coarse {coarse:.0%}, result {result:.0%}, undone {undone:.0%}")
    if coarse < SEEN:
        found.append(f"the stand-in is not to be seen: {coarse:.0%} of its place changed")
    if result < SEEN:
        found.append(f"the result is not to be seen: {result:.0%} of its place changed")
    if undone > SEEN / 5:
        found.append(f"after undo {undone:.0%} of the place differs from what was there before")
    if abs(redone - result) > SEEN / 5:
        found.append(f"redo shows another thing: {redone:.0%} of the place changed, {result:.0%} did at first")
    if changed(shots["4_coarse"], shots["6_result"]) < SEEN / 3:
        found.append("stand-in and result look the same")
    early, late = bar_width(shots["3_progress"]), bar_width(shots["5_later"])
    told = [round(shots[name].facts["fraction"], 2) for name in ("3_progress", "5_later")]
    print(f"    bar: {early} pixels at {told[0]}, {late} pixels at {told[1]}")
    if not 0 < early < late:
        found.append(f"the bar does not grow: {early} pixels at {told[0]}, {late} at {told[1]}")
    return found


def changed(before: Shot, after: Shot) -> float:
    """The share of the result's place where the two differ."""
    box = before.facts["result"]
    one, other = before.crop(box).astype(int), after.crop(box).astype(int)
    return float((np.abs(one - other).max(axis=2) > NOISE).mean()) if one.size and one.shape == other.shape else 1.0


def bar_width(shot: Shot) -> int:
    """Of the longest line in the bar's colour in the sidebar."""
    pixels = shot.crop(shot.facts["sidebar"]).astype(int)
    alike = (np.abs(pixels - shot.facts["bar_colour"]).max(axis=2) < 12).sum(axis=1)
    return int(alike.max(initial=0))


def for_readme(folder: Path, target: Path) -> None:
    """The panel at work, and the result in the viewport."""
    target.mkdir(parents=True, exist_ok=True)
    panel, result = read(folder, "5_later"), read(folder, "13_alone")
    save(panel.crop(panel.facts["sidebar"])[:-54], target / "blender_panel.png", 200_000)
    save(result.crop(result.facts["area"]), target / "blender_result.png", 300_000)


def save(pixels: np.ndarray, path: Path, most: int) -> None:
    image = Image.fromarray(pixels)
    image.save(path, optimize=True)
    if path.stat().st_size > most:
        image.quantize(256).save(path, optimize=True)
    print(f"    {path}: {path.stat().st_size:,} bytes")
