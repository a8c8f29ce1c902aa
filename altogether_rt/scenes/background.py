"""Draws the backgrounds of scenes."""

from __future__ import annotations

import random

from PIL import ImageDraw

__all__ = ["RGB", "paint_background"]

RGB = tuple[int, int, int]


def _mix(a: RGB, b: RGB, t: float) -> RGB:
    r, g, bl = (round(x + (y - x) * t) for x, y in zip(a, b, strict=True))
    return r, g, bl


def _bands(draw: ImageDraw.ImageDraw, side: int, top: RGB, bottom: RGB, steps: int = 16) -> None:
    for i in range(steps):
        fill = _mix(top, bottom, i / (steps - 1))
        draw.rectangle((0, side * i // steps, side, side * (i + 1) // steps), fill)


def paint_background(draw: ImageDraw.ImageDraw, name: str, side: int, rng: random.Random) -> None:
    """Paint a background of `world.BACKGROUNDS` over a square image of `side` pixels.

    rng: for details that no fact depends on: waves, grass, stars.
    """
    unit = side / 64
    if name == "sea":
        _bands(draw, side, (170, 215, 235), (95, 165, 205))
        for row in range(8):
            y = (6 + 8 * row + rng.uniform(-1, 1)) * unit
            for column in range(-1, 5):
                x = (column * 16 + (row % 2) * 8) * unit
                draw.arc((x, y, x + 12 * unit, y + 5 * unit), 0, 180, (225, 240, 250), round(unit))
    elif name == "meadow":
        _bands(draw, side, (205, 235, 170), (150, 205, 120))
        for _ in range(40):
            x, y = rng.random() * side, rng.random() * side
            draw.line((x, y, x + unit, y - 4 * unit), (105, 170, 85), round(unit))
    elif name == "desert":
        draw.rectangle((0, 0, side, side), (238, 214, 160))
        for row in range(4):
            y = (8 + 17 * row + rng.uniform(-2, 2)) * unit
            draw.arc(
                (-8 * unit, y, 40 * unit, y + 14 * unit), 200, 340, (214, 180, 115), round(unit)
            )
            draw.arc(
                (26 * unit, y, 74 * unit, y + 14 * unit), 200, 340, (214, 180, 115), round(unit)
            )
    elif name == "night":
        _bands(draw, side, (30, 32, 82), (62, 58, 120))
        for _ in range(28):
            x, y = rng.random() * side, rng.random() * side
            draw.ellipse((x, y, x + 1.5 * unit, y + 1.5 * unit), (235, 235, 200))
    elif name == "snow":
        _bands(draw, side, (198, 208, 222), (238, 242, 248))
        for _ in range(36):
            x, y = rng.random() * side, rng.random() * side
            draw.ellipse((x, y, x + 2 * unit, y + 2 * unit), (255, 255, 255))
    elif name == "wall":
        draw.rectangle((0, 0, side, side), (196, 140, 120))
        for row in range(9):
            y = row * 8 * unit
            draw.line((0, y, side, y), (225, 205, 195), round(unit))
            for column in range(5):
                x = (column * 16 + (row % 2) * 8) * unit
                draw.line((x, y, x, y + 8 * unit), (225, 205, 195), round(unit))
    elif name == "sunset":
        _bands(draw, side, (120, 80, 150), (255, 175, 90))
    else:
        draw.rectangle((0, 0, side, side * 0.7), (222, 222, 205))
        draw.rectangle((0, side * 0.7, side, side), (178, 150, 118))
        for column in range(1, 6):
            x = column * 12 * unit
            draw.line((x, side * 0.7, x, side), (150, 122, 92), round(unit))
