"""Families made of many parts: furniture, vehicles, buildings, plants, animals and tools."""

import numpy as np

from core.data.builder import Builder


def _legs(
    b: Builder, x: float, z: float, top: float, bottom: float, radius: float, splay: float, color: int = 1
) -> None:
    square = b.chance(0.5)
    for sx in (-1, 1):
        for sz in (-1, 1):
            end = (sx * (x + splay), bottom, sz * (z + splay))
            b.beam((sx * x, top, sz * z), end, radius, square=square, color=color)


def table(b: Builder) -> None:
    w, d, t, h = b.u(0.6, 1), b.u(0.4, 0.8), b.u(0.04, 0.1), b.u(0.35, 0.75)
    if b.chance(0.35):
        b.rod((0, h, 0), max(w, d), t, edge=0.01)
        w = d = max(w, d) * 0.65
    else:
        b.box((0, h, 0), (w, t, d))
    if b.chance(0.25):
        b.rod((0, 0, 0), b.u(0.08, 0.16), h, color=1)
        b.rod((0, -h, 0), b.u(0.3, 0.5), 0.06, color=1, taper=0.1)
    else:
        r = b.u(0.05, 0.1)
        _legs(b, w - r - 0.02, d - r - 0.02, h, -h, r, b.u(0, 0.08))


def stool(b: Builder) -> None:
    r, h = b.u(0.4, 0.6), b.u(0.5, 0.85)
    b.rod((0, h, 0), r, b.u(0.06, 0.14), edge=0.03)
    leg = b.u(0.05, 0.08)
    _legs(b, r * 0.55, r * 0.55, h, -h, leg, b.u(0, 0.15))
    if b.chance(0.4):
        b.ring((0, -h * 0.3, 0), r * 0.75, 0.045, color=1)


def bench(b: Builder) -> None:
    w, d, t, h = b.u(0.75, 1), b.u(0.22, 0.4), b.u(0.05, 0.09), b.u(0.25, 0.42)
    b.box((0, h, 0), (w, t, d))
    for side in (-1, 1):
        b.box((side * (w - 0.2), 0, 0), (b.u(0.05, 0.1), h, d * 0.85), color=1)
    if b.chance(0.5):
        b.box((0, h + b.u(0.3, 0.5), -d + t), (w, b.u(0.1, 0.25), t))
        for side in (-1, 1):
            b.box((side * (w - 0.2), h + 0.25, -d + t), (0.06, 0.3, t * 0.9), color=1)


def sofa(b: Builder) -> None:
    w, d, seat = b.u(0.6, 1), b.u(0.38, 0.5), b.u(0.16, 0.26)
    back, arm, edge = b.u(0.3, 0.5), b.u(0.09, 0.18), b.u(0.03, 0.08)
    b.box((0, -0.2, 0), (w, seat, d), edge=edge)
    b.box((0, -0.2 + back * 0.7, -d + 0.12), (w, back, 0.14), edge=edge)
    for side in (-1, 1):
        b.box((side * w, -0.1, 0), (arm, seat + 0.15, d), edge=edge, color=0 if b.chance(0.7) else 1)


def bed(b: Builder) -> None:
    w, length, h = b.u(0.45, 0.75), 0.95, b.u(0.12, 0.2)
    b.box((0, 0, 0), (w, h, length), edge=0.04, color=1)
    b.box((0, b.u(0.1, 0.3), -length), (w + 0.04, b.u(0.3, 0.5), 0.06), color=0)
    for side in (-0.5, 0.5):
        b.box((side * w, h + 0.06, -length + 0.25), (w * 0.38, 0.07, 0.15), edge=0.05, color=2)
    _legs(b, w - 0.08, length - 0.08, -h, -h - b.u(0.1, 0.25), 0.06, 0.0, color=0)


def shelf(b: Builder) -> None:
    w, h, d, t = b.u(0.4, 0.8), 0.95, b.u(0.18, 0.35), b.u(0.04, 0.07)
    for side in (-1, 1):
        b.box((side * (w - t), 0, 0), (t, h, d))
    for y in np.linspace(-h + t, h - t, b.count(3, 5)):
        b.box((0, float(y), 0), (w, t, d))
    if b.chance(0.6):
        b.box((0, 0, -d + 0.03), (w, h, 0.035), color=1)


def cabinet(b: Builder) -> None:
    w, h, d = b.u(0.4, 0.8), b.u(0.5, 0.9), b.u(0.3, 0.5)
    b.box((0, 0, 0), (w, h, d))
    rows = b.count(1, 4)
    for y in np.linspace(-h, h, rows + 2)[1:-1]:
        b.carve((0, float(y), d), (w * 1.1, 0.018, 0.04))
    for side in (-0.12, 0.12):
        b.rod((side, 0.1, d + 0.04), 0.04, 0.06, "z", color=1)
    if b.chance(0.6):
        _legs(b, w - 0.08, d - 0.08, -h, -h - b.u(0.08, 0.25), 0.05, 0.0)


def lamp(b: Builder) -> None:
    top, bottom = b.u(0.2, 0.45), b.u(0.4, 0.65)
    shade, base = b.u(0.2, 0.4), b.u(0.25, 0.45)
    b.rod((0, -0.95, 0), base, b.u(0.04, 0.1), taper=b.u(0, 0.1), color=1)
    b.rod((0, -0.2, 0), b.u(0.05, 0.11), 0.75, color=1)
    b.rod((0, 0.95 - shade, 0), bottom, shade, taper=bottom - min(top, bottom), color=0)


def car(b: Builder) -> None:
    length, w, h = 0.95, b.u(0.34, 0.48), b.u(0.14, 0.22)
    r = b.u(0.15, 0.22)
    cab, shift = b.u(0.35, 0.6), b.u(-0.25, 0.1)
    b.box((0, 0, 0), (w, h, length), edge=b.u(0.03, 0.1))
    b.box((0, h + 0.16, shift), (w * 0.92, b.u(0.16, 0.26), cab), edge=0.06, taper=b.u(0, 0.14), color=b.count(0, 1))
    for sx in (-1, 1):
        for z in (-0.55, 0.58):
            b.rod((sx * w * 0.95, -h, z), r, 0.09, "x", color=2, edge=0.02)


def truck(b: Builder) -> None:
    w, h = b.u(0.34, 0.45), b.u(0.35, 0.5)
    b.box((0, 0.05, -0.3), (w, h, 0.62), edge=0.02)
    b.box((0, -0.1, 0.62), (w * 0.95, h * b.u(0.6, 0.85), 0.26), edge=0.05, color=1)
    b.box((0, -h, 0), (w * 0.8, 0.08, 0.9), color=2)
    for sx in (-1, 1):
        for z in (-0.65, -0.2, 0.6):
            b.rod((sx * w * 0.92, -h - 0.05, z), 0.17, 0.09, "x", color=2)


def house(b: Builder) -> None:
    w, h, d = b.u(0.45, 0.75), b.u(0.3, 0.55), b.u(0.45, 0.75)
    b.box((0, -0.4, 0), (w, h, d), edge=0.0)
    top, roof = -0.4 + h, b.u(0.2, 0.4)
    if b.chance(0.5):
        b.box((0, top + roof, 0), (w * 1.12, roof, d * 1.12), taper=min(w, d) * 1.1, color=1, edge=0.0)
    else:
        slope = np.degrees(np.arctan2(2 * roof, w * 1.15))
        side = float(np.hypot(w * 1.15, 2 * roof)) / 2 + 0.04
        for s in (-1, 1):
            angle = np.radians(slope)
            tilt = np.array([[np.cos(angle), -s * np.sin(angle), 0], [s * np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
            b.box((s * w * 0.56, top + roof, 0), (side, 0.05, d * 1.12), rotation=tilt, color=1, edge=0.0)
        b.box((0, top + roof * 0.9, 0), (w, roof * 0.9, d), taper=w * 0.98, edge=0.0)
    if b.chance(0.5):
        b.box((w * 0.5, top + roof * 1.2, b.u(-0.3, 0.3)), (0.09, roof * 0.9, 0.09), color=2)
    if b.chance(0.5):
        b.box((0, -0.4 - h + 0.2, d), (0.12, 0.2, 0.03), color=2)


def tree(b: Builder) -> None:
    trunk = b.u(0.07, 0.15)
    b.rod((0, -0.55, 0), trunk, 0.5, taper=trunk * 0.3, color=2)
    kind = b.count(0, 2)
    if kind == 0:
        y, r = -0.3, b.u(0.5, 0.7)
        for _ in range(b.count(2, 3)):
            b.rod((0, y + 0.25, 0), r, 0.32, taper=r * 0.95)
            y, r = y + 0.38, r * 0.78
    elif kind == 1:
        b.ball((0, 0.35, 0), b.u(0.45, 0.65), stretch=(1, b.u(0.8, 1.2), 1))
    else:
        for _ in range(b.count(3, 5)):
            b.ball(tuple(b.rng.uniform(-0.32, 0.32, 3) + [0, 0.35, 0]), b.u(0.25, 0.4), blend=0.06)


def quadruped(b: Builder) -> None:
    body, h, thick = b.u(0.4, 0.6), b.u(0.3, 0.5), b.u(0.17, 0.28)
    b.ball((0, 0.1, 0), thick, stretch=(1, 1, body / thick), blend=0.03)
    leg = b.u(0.06, 0.1)
    for sx in (-1, 1):
        for z in (-body * 0.7, body * 0.7):
            b.beam((sx * thick * 0.6, 0.05, z), (sx * thick * 0.65, -h, z), leg, edge=0.03, blend=0.05)
    head = np.array([0, b.u(0.3, 0.55), body + b.u(0.05, 0.2)])
    b.beam((0, 0.15, body * 0.7), tuple(head), thick * 0.5, blend=0.05, edge=0.05)
    b.ball(tuple(head), thick * b.u(0.7, 0.95), stretch=(0.9, 0.9, 1.25), blend=0.03)
    for sx in (-1, 1):
        tip = head + [sx * 0.14, b.u(0.2, 0.38), -0.05]
        b.beam(tuple(head + [sx * 0.08, 0.08, -0.05]), tuple(tip), 0.05, taper=0.02, color=1)
    b.beam((0, 0.15, -body * 0.9), (0, b.u(0.0, 0.4), -body - b.u(0.15, 0.35)), 0.045, edge=0.03)
    if b.chance(0.3):
        b.spin(b.u(-40, 40))


def figure(b: Builder) -> None:
    w, arm = b.u(0.2, 0.3), b.u(0.06, 0.1)
    b.box((0, 0.1, 0), (w, 0.35, 0.15), edge=0.08, blend=0.02)
    b.ball((0, 0.67, 0), b.u(0.18, 0.25), color=1)
    spread = b.u(0.05, 0.5)
    for s in (-1, 1):
        b.beam((s * w, 0.38, 0), (s * (w + spread), 0.38 - b.u(0.3, 0.6), b.u(0, 0.2)), arm, edge=arm * 0.9, color=0)
        b.beam((s * w * 0.55, -0.2, 0), (s * (w * 0.6 + spread * 0.2), -0.95, 0), arm * 1.25, edge=0.04, color=2)


def plane(b: Builder) -> None:
    r, wing = b.u(0.12, 0.18), b.u(0.7, 0.95)
    b.beam((0, 0, -0.9), (0, 0, 0.9), r, edge=r * 0.95)
    sweep = b.u(0, 0.3)
    for s in (-1, 1):
        tip = (s * wing, b.u(0.0, 0.1), 0.2 - sweep)
        b.beam((0, 0, 0.2), tip, 0.13, square=True, taper=0.04, stretch=(1, 1, 0.35), color=1)
        b.beam((0, 0.02, -0.75), (s * wing * 0.4, 0.05, -0.8), 0.09, square=True, stretch=(1, 1, 0.4), color=1)
    b.box((0, 0.2, -0.78), (0.035, 0.2, 0.13), color=1)


def boat(b: Builder) -> None:
    w, h = b.u(0.28, 0.4), b.u(0.18, 0.28)
    b.ball((0, 0, 0), w, stretch=(1, h / w * 1.6, 0.95 / w))
    b.carve((0, 0.55, 0), (2, 0.5, 2), color=1)
    if b.chance(0.5):
        b.box((0, 0.15, -0.2), (w * 0.6, 0.2, 0.25), color=1)
    else:
        b.rod((0, 0.5, 0), 0.045, 0.5, color=2)
        b.box((0, 0.55, 0.03), (w * 1.1, 0.35, 0.03), color=1)


def axe(b: Builder) -> None:
    r = b.u(0.06, 0.1)
    b.rod((0, 0, 0), r, 0.95, edge=0.03, color=1)
    b.box((0.2, 0.65, 0), (0.3, b.u(0.18, 0.28), b.u(0.06, 0.1)), edge=0.02)
    if b.chance(0.4):
        b.box((-0.2, 0.65, 0), (0.3, 0.2, 0.07), edge=0.02)


def pan(b: Builder) -> None:
    r, h, wall = b.u(0.45, 0.6), b.u(0.1, 0.3), 0.06
    b.beam((r * 0.9, h * 0.3, 0), (r + b.u(0.5, 0.8), h * 0.6, 0), b.u(0.06, 0.1), square=True, edge=0.04, color=1)
    b.rod((0, 0, 0), r, h, edge=0.04, taper=-0.04)
    b.rod((0, wall * 1.5, 0), r - wall, h, taper=-0.04, op=1, color=2)


def sword(b: Builder) -> None:
    w = b.u(0.07, 0.12)
    b.box((0, 0.3, 0), (w, 0.7, 0.05), taper=0.035, edge=0.01)
    b.box((0, -0.42, 0), (b.u(0.22, 0.4), 0.06, 0.07), color=1)
    b.rod((0, -0.68, 0), 0.06, 0.26, color=2)
    b.ball((0, -0.95, 0), 0.1, color=1)


def gear(b: Builder) -> None:
    r, t, n = b.u(0.5, 0.7), b.u(0.12, 0.25), b.count(6, 10)
    b.rod((0, 0, 0), r, t, "z")
    for k in range(n):
        a = 2 * np.pi * k / n
        direction = np.array([np.cos(a), np.sin(a), 0])
        b.beam(direction * r * 0.85, direction * (r + 0.22), t * 0.8, square=True)
    b.rod((0, 0, 0), r * b.u(0.25, 0.5), t * 1.5, "z", op=1)


def teapot(b: Builder) -> None:
    r, squash = b.u(0.45, 0.58), b.u(0.75, 1.0)
    b.ring((-r, 0, 0), 0.27, 0.06, "z", color=0)
    b.beam((r * 0.75, -0.1, 0), (r + 0.4, b.u(0.2, 0.4), 0), 0.12, taper=0.06, blend=0.06)
    b.ball((0, 0, 0), r, stretch=(1, squash, 1), blend=0.03)
    b.rod((0, r * squash, 0), 0.22, 0.05, color=1)
    b.ball((0, r * squash + 0.12, 0), 0.09, color=1)
    b.rod((0, -r * squash + 0.03, 0), r * 0.6, 0.08)


def robot(b: Builder) -> None:
    w, d = b.u(0.28, 0.42), b.u(0.2, 0.32)
    b.box((0, 0, 0), (w, 0.35, d))
    b.box((0, 0.58, 0), (w * 0.7, 0.2, d * 0.8), color=1)
    for s in (-1, 1):
        b.box((s * (w + 0.13), b.u(-0.05, 0.1), 0), (0.09, 0.3, 0.1), color=1)
        b.box((s * w * 0.55, -0.65, 0), (0.12, 0.32, 0.14), color=2)
        b.rod((s * w * 0.3, 0.6, d * 0.8), 0.06, 0.04, "z", color=2)
    if b.chance(0.5):
        b.rod((0, 0.88, 0), 0.03, 0.13, color=2)


def chair(b: Builder) -> None:
    w, d, t, seat = b.u(0.4, 0.55), b.u(0.4, 0.5), b.u(0.05, 0.09), b.u(-0.15, 0.05)
    b.box((0, seat, 0), (w, t, d))
    _legs(b, w - 0.08, d - 0.08, seat, -0.95, b.u(0.05, 0.08), b.u(0, 0.05))
    b.box((0, (seat + 0.95) / 2, -d + t), (w, (0.95 - seat) / 2, t), color=0 if b.chance(0.6) else 1)
    if b.chance(0.3):
        for s in (-1, 1):
            b.box((s * w, seat + 0.35, 0), (0.05, 0.05, d), color=1)
            b.box((s * w, seat + 0.17, d - 0.08), (0.05, 0.18, 0.05), color=1)


def hammer(b: Builder) -> None:
    r = b.u(0.06, 0.1)
    b.rod((0, -0.1, 0), r, 0.85, edge=0.02, color=1)
    if b.chance(0.5):
        b.box((0, 0.72, 0), (b.u(0.3, 0.5), b.u(0.12, 0.2), b.u(0.12, 0.18)))
    else:
        b.rod((0, 0.72, 0), b.u(0.13, 0.2), b.u(0.3, 0.5), "x")


def bear(b: Builder) -> None:
    r = b.u(0.5, 0.65)
    b.ball((0, 0, 0), r, stretch=(1, b.u(0.85, 1.05), 0.95))
    for s in (-1, 1):
        b.ball((s * r * 0.75, r * 0.75, 0), b.u(0.16, 0.24), color=b.count(0, 1))
        b.ball((s * 0.2, 0.12, r * 0.88), 0.07, color=2)
    b.ball((0, -0.15, r * 0.85), b.u(0.16, 0.24), stretch=(1.1, 0.8, 1), color=1)


def castle(b: Builder) -> None:
    w, h = b.u(0.45, 0.6), b.u(0.3, 0.5)
    b.box((0, -0.4, 0), (w, h, w))
    r, top = b.u(0.14, 0.22), b.u(0.1, 0.4)
    for sx in (-1, 1):
        for sz in (-1, 1):
            b.rod((sx * w, -0.4 - h + (top + h + 0.4) / 2, sz * w), r, (top + h + 0.4) / 2, color=0)
            b.rod((sx * w, top + 0.12, sz * w), r * 1.2, 0.17, taper=r * 1.1, color=1)


COMPOUND = (
    table, stool, bench, sofa, bed, shelf, cabinet, lamp, car, truck, house, tree, quadruped, figure, plane,
    boat, axe, pan, sword, gear, teapot, robot,
)  # fmt: skip
COMPOUND_LEFT_OUT = (chair, hammer, bear, castle)
