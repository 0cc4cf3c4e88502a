"""A plot of milliseconds over tokens as an SVG file, both axes logarithmic, readable on dark and on light ground."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]  # (tokens, milliseconds)
WIDTH, HEIGHT, LEFT, TOP, GAP = 420, 300, 56, 34, 24
COLORS = ("#e0662f", "#3b82c4", "#3a9d5d", "#9a63c9", "#808a96")  # of middle lightness, told apart by their order too
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 5")
STYLE = """text { font: 12px sans-serif; fill: #57606a } .grid { stroke: #8b949e; stroke-opacity: .3 }
path { fill: none; stroke-width: 2 } @media (prefers-color-scheme: dark) { text { fill: #b1bac4 } }"""


def panels(charts: Mapping[str, Mapping[str, Points]]) -> str:
    """One chart beside the other; series of one name have one color. Returns the text of an SVG file."""
    names = list(dict.fromkeys(name for series in charts.values() for name in series))
    total = len(charts) * (LEFT + WIDTH + GAP)
    legend = TOP + HEIGHT + 58
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{legend + 14}" '
        f'viewBox="0 0 {total} {legend + 14}" role="img">',
        f"<style>{STYLE}</style>",
    ]
    for place, (title, series) in enumerate(charts.items()):
        out += _panel(place * (LEFT + WIDTH + GAP) + LEFT, title, series, names)
    for i, name in enumerate(names):
        x = LEFT + i * (total - LEFT) / max(len(names), 1)
        out.append(f'<path d="M{x:.0f} {legend - 4}h26" {_stroke(i)}/>')
        out.append(f'<text x="{x + 32:.0f}" y="{legend}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>", ""])


def _panel(left: float, title: str, series: Mapping[str, Points], names: list[str]) -> list[str]:
    points = [point for found in series.values() for point in found]
    if not points:
        return [f'<text x="{left}" y="{TOP - 14}">{escape(title)}: nothing measured</text>']
    low_x, high_x = (f(x for x, _ in points) for f in (min, max))
    low_y = 10 ** math.floor(math.log10(min(y for _, y in points)))
    high_y = 10 ** math.ceil(math.log10(max(y for _, y in points)) + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = 0.5 if low_x == high_x else math.log(x / low_x) / math.log(high_x / low_x)
        up = math.log(y / low_y) / math.log(high_y / low_y)
        return left + (0.04 + 0.92 * across) * WIDTH, TOP + (1 - up) * HEIGHT

    out = [f'<text x="{left}" y="{TOP - 14}">{escape(title)}</text>']
    decade = low_y
    while decade <= high_y * 1.001:
        y = place(low_x, decade)[1]
        out.append(f'<path class="grid" d="M{left} {y:.1f}h{WIDTH}"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{decade:g}</text>')
        decade *= 10
    for x in sorted({x for x, _ in points}):
        at = place(x, low_y)[0]
        out.append(f'<path class="grid" d="M{at:.1f} {TOP}v{HEIGHT}"/>')
        out.append(f'<text x="{at:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{x / 1000:.3g}k</text>')
    out.append(
        f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle">tokens; milliseconds up</text>'
    )
    for name, found in series.items():
        i = names.index(name)
        spots = [place(*point) for point in sorted(found)]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        out.append(f'<path d="M{line}" {_stroke(i)}/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLORS[i % len(COLORS)]}"/>' for x, y in spots]
    return out


def _stroke(i: int) -> str:
    dash = DASHES[i % len(DASHES)]
    return f'stroke="{COLORS[i % len(COLORS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")
