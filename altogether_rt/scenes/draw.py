"""Draws a scene with Pillow: flat shapes with a dark outline on a plain background."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from altogether_rt.scenes.background import RGB, paint_background
from altogether_rt.scenes.scene import Placement, Scene
from altogether_rt.scenes.world import COLOURS

__all__ = ["IMAGE_SIZE", "render"]

IMAGE_SIZE = 256  # pixels, each side
_OVERSAMPLING = 2

Point = tuple[float, float]

_INK: RGB = (20, 20, 20)
_PAPER: RGB = (240, 240, 235)


class _Pen:
    """Draws in an object's own coordinates, from (-1, -1), upper left, to (1, 1), lower right."""

    def __init__(self, draw: ImageDraw.ImageDraw, placement: Placement, side: int, fill: RGB):
        self._draw = draw
        self._cx, self._cy = placement.x * side, placement.y * side
        self._scale = placement.radius * side
        self.fill = fill
        # A dark object gets a light outline, so that its details are visible.
        self.outline = (215, 215, 215) if sum(fill) < 120 else _INK
        self._width = max(2, round(self._scale * 0.09))

    def _points(self, points: Sequence[Point]) -> list[Point]:
        return [(self._cx + x * self._scale, self._cy + y * self._scale) for x, y in points]

    def polygon(self, *points: Point, fill: RGB | None = None) -> None:
        mapped = self._points(points)
        self._draw.polygon(mapped, fill=fill or self.fill)
        self._draw.line([*mapped, mapped[0], mapped[1]], self.outline, self._width, joint="curve")

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: RGB | None = None) -> None:
        box = self._points([(x0, y0), (x1, y1)])
        self._draw.ellipse([*box[0], *box[1]], fill or self.fill, self.outline, self._width)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB | None = None) -> None:
        self.polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1), fill=fill)

    def line(self, *points: Point, width: float = 0.1) -> None:
        self._draw.line(self._points(points), self.outline, max(2, round(width * self._scale)))

    def arc(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float) -> None:
        box = self._points([(x0, y0), (x1, y1)])
        width = max(3, round(0.2 * self._scale))
        self._draw.arc([*box[0], *box[1]], start, end, self.outline, width + self._width)
        self._draw.arc([*box[0], *box[1]], start, end, self.fill, width)


def _polar(radius: float, degrees: float) -> Point:
    angle = math.radians(degrees)
    return radius * math.cos(angle), radius * math.sin(angle)


def _ball(p: _Pen) -> None:
    p.ellipse(-0.9, -0.9, 0.9, 0.9)
    p.line((-0.8, -0.3), (0.8, -0.3), width=0.12)
    p.line((-0.8, 0.3), (0.8, 0.3), width=0.12)


def _balloon(p: _Pen) -> None:
    p.line((0, 0.5), (0.1, 1.0), width=0.1)
    p.ellipse(-0.65, -1.0, 0.65, 0.5)
    p.polygon((0, 0.45), (-0.18, 0.68), (0.18, 0.68))


def _bell(p: _Pen) -> None:
    p.ellipse(-0.25, 0.5, 0.25, 1.0)
    p.polygon((-0.3, -0.9), (0.3, -0.9), (0.55, 0.3), (0.95, 0.7), (-0.95, 0.7), (-0.55, 0.3))


def _bird(p: _Pen) -> None:
    p.polygon((-0.4, 0.2), (-1.0, -0.15), (-0.95, 0.45))
    p.ellipse(-0.65, -0.25, 0.5, 0.7)
    p.ellipse(0.1, -0.75, 0.75, -0.05)
    p.polygon((0.7, -0.5), (1.0, -0.35), (0.7, -0.2), fill=(250, 170, 30))
    p.line((-0.2, 0.7), (-0.2, 1.0))
    p.line((0.15, 0.7), (0.15, 1.0))


def _boat(p: _Pen) -> None:
    p.line((0, -1.0), (0, 0.4), width=0.14)
    p.polygon((0.08, -0.95), (0.8, 0.15), (0.08, 0.15), fill=_PAPER)
    p.polygon((-1.0, 0.35), (1.0, 0.35), (0.65, 0.95), (-0.65, 0.95))


def _box(p: _Pen) -> None:
    p.box(-0.85, -0.85, 0.85, 0.85)
    p.line((-0.85, -0.85), (0.85, 0.85), width=0.12)
    p.line((0.85, -0.85), (-0.85, 0.85), width=0.12)


def _butterfly(p: _Pen) -> None:
    for side in (-1, 1):
        p.polygon((0, 0), (side * 0.95, -0.9), (side * 0.95, -0.1))
        p.polygon((0, 0), (side * 0.75, 0.25), (side * 0.6, 0.9))
    p.ellipse(-0.12, -0.7, 0.12, 0.8, fill=_INK)


def _car(p: _Pen) -> None:
    p.polygon((-0.55, -0.55), (0.4, -0.55), (0.65, 0.0), (-0.75, 0.0))
    p.box(-1.0, -0.05, 1.0, 0.5)
    p.ellipse(-0.75, 0.2, -0.15, 0.8, fill=(60, 60, 60))
    p.ellipse(0.15, 0.2, 0.75, 0.8, fill=(60, 60, 60))


def _cup(p: _Pen) -> None:
    p.arc(0.2, -0.45, 1.0, 0.4, -90, 90)
    p.polygon((-0.8, -0.75), (0.55, -0.75), (0.35, 0.85), (-0.6, 0.85))


def _fish(p: _Pen) -> None:
    p.polygon((0.4, 0.0), (1.0, -0.6), (1.0, 0.6))
    p.ellipse(-1.0, -0.55, 0.6, 0.55)
    p.ellipse(-0.75, -0.25, -0.45, 0.05, fill=_PAPER)


def _flower(p: _Pen) -> None:
    for step in range(5):
        x, y = _polar(0.55, 72 * step - 90)
        p.ellipse(x - 0.4, y - 0.4, x + 0.4, y + 0.4)
    p.ellipse(-0.3, -0.3, 0.3, 0.3, fill=(250, 230, 120))


def _hat(p: _Pen) -> None:
    p.box(-0.5, -0.85, 0.5, 0.45)
    p.box(-1.0, 0.4, 1.0, 0.7)


def _heart(p: _Pen) -> None:
    points = []
    for step in range(36):
        t = math.radians(10 * step)
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17.0, -y / 17.0))
    p.polygon(*points)


def _house(p: _Pen) -> None:
    p.box(-0.75, -0.1, 0.75, 0.95)
    p.polygon((-1.0, -0.1), (0, -1.0), (1.0, -0.1))
    p.box(-0.2, 0.35, 0.2, 0.95, fill=_PAPER)


def _key(p: _Pen) -> None:
    p.box(-0.15, -0.1, 0.15, 1.0)
    p.box(0.15, 0.35, 0.5, 0.6)
    p.box(0.15, 0.75, 0.5, 1.0)
    p.ellipse(-0.5, -1.0, 0.5, 0.0)
    p.ellipse(-0.2, -0.7, 0.2, -0.3, fill=_PAPER)


def _kite(p: _Pen) -> None:
    p.line((0, 0.4), (0.3, 0.7), (0, 1.0), width=0.1)
    p.polygon((0, -1.0), (0.65, -0.3), (0, 0.55), (-0.65, -0.3))
    p.line((0, -1.0), (0, 0.55), width=0.08)
    p.line((-0.65, -0.3), (0.65, -0.3), width=0.08)


def _lamp(p: _Pen) -> None:
    p.line((0, 0), (0, 0.85), width=0.2)
    p.polygon((-0.4, -0.9), (0.4, -0.9), (0.85, 0.1), (-0.85, 0.1))
    p.box(-0.5, 0.75, 0.5, 0.95)


def _moon(p: _Pen) -> None:
    outer = [_polar(0.95, angle) for angle in range(50, 311, 13)]
    inner = [(x * 0.75 + 0.3, y * 0.8) for x, y in (_polar(0.95, a) for a in range(300, 59, -13))]
    p.polygon(*outer, *inner)


def _mushroom(p: _Pen) -> None:
    p.box(-0.28, 0.0, 0.28, 0.95, fill=_PAPER)
    p.polygon((-0.95, 0.15), *[_polar(0.95, a) for a in range(180, 361, 15)], (0.95, 0.15))
    for x, y in ((-0.45, -0.2), (0.15, -0.5), (0.5, -0.1)):
        p.ellipse(x - 0.14, y - 0.14, x + 0.14, y + 0.14, fill=_PAPER)


def _ring(p: _Pen) -> None:
    p.arc(-0.95, -0.95, 0.95, 0.95, 0, 360)
    p.arc(-0.82, -0.82, 0.82, 0.82, 0, 360)


def _star(p: _Pen) -> None:
    p.polygon(*[_polar(1.0 if i % 2 == 0 else 0.42, 36 * i - 90) for i in range(10)])


def _tower(p: _Pen) -> None:
    p.polygon((-0.35, -0.5), (0.35, -0.5), (0.55, 1.0), (-0.55, 1.0))
    for x in (-0.55, -0.12, 0.31):
        p.box(x, -1.0, x + 0.25, -0.6)
    p.box(-0.55, -0.7, 0.55, -0.45)


def _tree(p: _Pen) -> None:
    p.box(-0.15, 0.5, 0.15, 1.0, fill=(110, 75, 45))
    p.polygon((0, -0.35), (0.85, 0.6), (-0.85, 0.6))
    p.polygon((0, -1.0), (0.6, -0.05), (-0.6, -0.05))


def _umbrella(p: _Pen) -> None:
    p.line((0, -0.1), (0, 0.8), (0.15, 0.95), (0.35, 0.8), width=0.14)
    scallops = [(0.66, -0.15), (0.33, 0.0), (0, -0.15), (-0.33, 0.0), (-0.66, -0.15)]
    p.polygon((-1.0, 0.0), *[_polar(1.0, a) for a in range(180, 361, 15)], *scallops)


_SHAPES: dict[str, Callable[[_Pen], None]] = {
    "ball": _ball, "balloon": _balloon, "bell": _bell, "bird": _bird, "boat": _boat, "box": _box,
    "butterfly": _butterfly, "car": _car, "cup": _cup, "fish": _fish, "flower": _flower,
    "hat": _hat, "heart": _heart, "house": _house, "key": _key, "kite": _kite, "lamp": _lamp,
    "moon": _moon, "mushroom": _mushroom, "ring": _ring, "star": _star, "tower": _tower,
    "tree": _tree, "umbrella": _umbrella,
}  # fmt: skip


def render(scene: Scene, size: int = IMAGE_SIZE) -> Image.Image:
    """The scene as an RGB image of `size` × `size` pixels."""
    side = size * _OVERSAMPLING
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    paint_background(draw, scene.background, side, random.Random(scene.seed))
    for group in scene.groups:
        for placement in group.placements:
            _SHAPES[group.kind](_Pen(draw, placement, side, COLOURS[group.colour]))
    return image.reduce(_OVERSAMPLING)
