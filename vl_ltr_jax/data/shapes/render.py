"""Pictures of the embedded world: looks in, pixels out.

Each picture draws one composition with nuisance that no text mentions: place, turn,
scale, shade, clutter, specks, an occluding bar and sensor noise. The unit is half the
picture's side. Not in the paper.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from vl_ltr_jax.data.shapes.looks import Looks

_OVERSAMPLING = 2
_COLOURS = {
    "red": (205, 40, 40),
    "orange": (238, 130, 30),
    "yellow": (240, 215, 50),
    "green": (55, 150, 60),
    "teal": (40, 175, 165),
    "blue": (45, 75, 200),
    "purple": (125, 55, 165),
    "pink": (245, 145, 185),
    "brown": (115, 70, 38),
    "white": (240, 240, 236),
    "grey": (132, 132, 135),
    "black": (28, 28, 30),
}
_GROUNDS = {
    "night": (42, 42, 56),
    "sand": (212, 192, 146),
    "meadow": (112, 152, 84),
    "water": (98, 148, 192),
    "snow": (228, 232, 238),
}
# Centres of the elements and their radius, for a large element.
_ARRANGEMENTS: dict[str, tuple[list[tuple[float, float]], float]] = {
    "single": ([(0.0, 0.0)], 0.72),
    "pair": ([(-0.46, 0.0), (0.46, 0.0)], 0.44),
    "row": ([(-0.64, 0.0), (0.0, 0.0), (0.64, 0.0)], 0.33),
    "block": ([(-0.45, -0.45), (0.45, -0.45), (-0.45, 0.45), (0.45, 0.45)], 0.42),
    "wreath": (
        [(0.62 * math.sin(0.4 * k * math.pi), -0.62 * math.cos(0.4 * k * math.pi))
         for k in range(5)],
        0.33,
    ),
}  # fmt: skip
_SIZES = {"small": 0.66, "large": 1.0}


@dataclasses.dataclass(frozen=True)
class Style:
    """Strength of a picture's nuisance.

    Attributes:
      clutter: largest number of muted strokes and blobs behind the elements.
      specks: largest number of vivid specks in front of them.
      occlusion: probability of a bar across the picture.
      shade: standard deviation of the colour of elements and ground, of 255.
      noise: largest standard deviation of the pixel noise, of 255.
      cast: gains of the red, green and blue channel.
    """

    clutter: int
    specks: int
    occlusion: float
    shade: float
    noise: float
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)


def _arc(
    x: float, y: float, radius: float, start: float, stop: float, points: int
) -> list[tuple[float, float]]:
    angles = np.linspace(start, stop, points) * np.pi
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def _polar(radii: list[float], count: int) -> list[tuple[float, float]]:
    angles = [2 * math.pi * k / count - math.pi / 2 for k in range(count)]
    return [
        (radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a))
        for k, a in enumerate(angles)
    ]


def _heart() -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = np.sin(angles) ** 3
    y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles)
    y = (y - np.cos(4 * angles)) / 16
    return list(zip(x.tolist(), (-y - 0.1).tolist(), strict=True))


def _outlines() -> dict[str, list[Float[np.ndarray, "K 2"]]]:
    """Returns closed outlines within the unit circle; a second one is a hole."""
    a, b = 0.34, 0.94
    loops: dict[str, list[list[tuple[float, float]]]] = {
        "circle": [_arc(0, 0, 0.92, 0, 2, 24)],
        "square": [_polar([1.08], 4)],
        "triangle": [_polar([1.1], 3)],
        "star": [_polar([1.1, 0.44], 10)],
        "cross": [
            [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
            + [(a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        ],
        "ring": [_arc(0, 0, 1.0, 0, 2, 24), _arc(0, 0, 0.55, 0, 2, 20)],
        "crescent": [
            _arc(0.2, 0, 1.0, 0.3, 1.7, 18) + _arc(0.62, 0, 0.83, 1.57, 0.43, 14)
        ],
        "heart": [_heart()],
        "hexagon": [_polar([1.0], 6)],
        "arrow": [
            [(0, -1.05), (0.85, -0.1), (0.33, -0.1), (0.33, 1.0)]
            + [(-0.33, 1.0), (-0.33, -0.1), (-0.85, -0.1)]
        ],
        "drop": [[(0, -1.15), *_arc(0, 0.32, 0.68, -0.16, 1.16, 18)]],
        "leaf": [
            _arc(-0.72, 0, 1.22, -0.3, 0.3, 10) + _arc(0.72, 0, 1.22, 0.7, 1.3, 10)
        ],
    }
    return {name: [np.array(loop) for loop in value] for name, value in loops.items()}


_OUTLINES = _outlines()


def _turn(angle: float) -> Float[np.ndarray, "2 2"]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def _second_tone(colour: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """Returns pale marks for a dark colour, dark marks for a pale one."""
    dark = float(colour @ np.array([0.3, 0.59, 0.11])) < 115
    return colour * 0.3 + 175 if dark else colour * 0.3


def _pattern(
    name: str, side: int, radius: float, rng: np.random.Generator
) -> Float[np.ndarray, "H W"]:
    """Returns the coverage by the second tone, 0 to 1."""
    step = np.linspace(-1, 1, side, dtype=np.float32)
    # Never finer than four pixels of a 32-pixel picture.
    period = max(0.8 * radius, 0.25) * rng.uniform(0.9, 1.1)
    angle, phase = rng.normal(0.4, 0.15), rng.uniform(0, 2 * math.pi, 2)
    scale = 2 * math.pi / period
    u = scale * (math.cos(angle) * step[None] + math.sin(angle) * step[:, None])
    if name == "striped":
        return np.clip(0.5 + 2 * np.sin(u + phase[0]), 0, 1)
    v = scale * (math.cos(angle) * step[:, None] - math.sin(angle) * step[None])
    wave = np.sin(u + phase[0]), np.sin(v + phase[1])
    if name == "dotted":
        return np.clip(3 * (wave[0] + wave[1] - 0.65), 0, 1)
    return np.clip(0.5 + 3 * np.sin(0.75 * u) * np.sin(0.75 * v), 0, 1)


class _Canvas:
    """One-channel layers in unit coordinates, smoothed by oversampling."""

    def __init__(self, side: int):
        self._side = side * _OVERSAMPLING
        self._image = Image.new("L", (self._side, self._side))
        self._draw = ImageDraw.Draw(self._image)

    def _pixels(self, points: Float[np.ndarray, "K 2"]) -> list[float]:
        return ((points + 1) * (self._side / 2)).ravel().tolist()

    def fill(self, points: Float[np.ndarray, "K 2"], value: int = 255) -> None:
        self._draw.polygon(self._pixels(points), fill=value)

    def trace(self, points: Float[np.ndarray, "K 2"], width: float) -> None:
        closed = self._pixels(np.concatenate([points, points[:2]]))
        self._draw.line(closed, fill=255, width=round(width * self._side / 2))

    def disc(self, centre: Float[np.ndarray, "2"], radius: float) -> None:
        corners = np.stack([centre - radius, centre + radius])
        self._draw.ellipse(self._pixels(corners), fill=255)

    def coverage(self) -> Float[np.ndarray, "H W 1"]:
        small = np.asarray(self._image.reduce(_OVERSAMPLING), np.float32)
        return small[..., None] / 255


def _ground(
    looks: Looks, style: Style, side: int, rng: np.random.Generator
) -> Float[np.ndarray, "H W 3"]:
    """Returns uneven light, with strokes and blobs of muted colours."""
    base = np.array(_GROUNDS[looks.ground]) + rng.normal(0, style.shade, 3)
    patches = base + rng.normal(0, 11, (5, 5, 3))
    coarse = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    image = coarse.resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(style.clutter + 1)):
        tone = np.clip(base + rng.normal(0, 34, 3), 0, 255).astype(int)
        x, y, dx, dy = rng.uniform(0, side, 4).tolist()
        dx, dy = (dx - side / 2) * 0.8, (dy - side / 2) * 0.8
        if rng.random() < 0.5:
            width = int(rng.integers(1, max(2, side // 16)))
            draw.line((x, y, x + dx, y + dy), fill=tuple(tone.tolist()), width=width)
        else:
            box = (x, y, x + abs(dx) / 2 + 1, y + abs(dy) / 2 + 1)
            draw.ellipse(box, fill=tuple(tone.tolist()))
    return np.asarray(image, np.float32)


def _foreground(
    image: Float[np.ndarray, "H W 3"], style: Style, rng: np.random.Generator
) -> Float[np.ndarray, "H W 3"]:
    """Draws vivid specks, and at times a bar across the picture."""
    side = image.shape[0]
    for _ in range(rng.integers(style.specks + 1)):
        size = int(rng.integers(1, max(2, side // 14)))
        y, x = rng.integers(side - size, size=2)
        image[y : y + size, x : x + size] = rng.uniform(20, 240, 3)
    if rng.random() < style.occlusion:
        width = int(side * rng.uniform(0.08, 0.2))
        start = int(rng.integers(side - width))
        bar = image[start : start + width]
        if rng.random() < 0.5:
            bar = image[:, start : start + width]
        bar[...] = rng.uniform(60, 200) + rng.normal(0, 15, 3)
    return image


def render(
    looks: Looks, style: Style, rng: np.random.Generator, image_size: int = 32
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the pixels of one picture.

    Args:
      looks: composition.
      style: strength of the nuisance.
      rng: source of every choice; equal states give equal pixels.
      image_size: side in pixels.
    """
    centres, radius = _ARRANGEMENTS[looks.arrangement]
    scale = rng.uniform(0.9, 1.08)
    radius = radius * _SIZES[looks.size] * scale
    shift = rng.uniform(-0.08, 0.08, 2)
    places = scale * np.array(centres) @ _turn(rng.normal(0, 0.15)) + shift
    turns = rng.normal(0, 0.25) + rng.normal(0, 0.1, len(centres))

    body, border, eyes = (_Canvas(image_size) for _ in range(3))
    for place, turn in zip(places, turns, strict=True):
        matrix = radius * rng.uniform(0.9, 1.1) * _turn(turn)
        for value, loop in zip((255, 0), _OUTLINES[looks.shape], strict=False):
            points = loop @ matrix + place
            body.fill(points, value)
            if looks.edge == "outlined":
                border.trace(points, max(0.3 * radius, 0.1))
        if looks.pattern == "eyed":
            eyes.disc(place, 0.45 * radius)

    colour = np.array(_COLOURS[looks.colour]) + rng.normal(0, style.shade, 3)
    colour = colour * rng.uniform(0.88, 1.08)
    second = _second_tone(colour)
    paint = np.broadcast_to(colour, (image_size, image_size, 3))
    if looks.pattern not in ("plain", "eyed"):
        marks = _pattern(looks.pattern, image_size, radius, rng)[..., None]
        paint = paint + marks * (second - colour)

    image = _ground(looks, style, image_size, rng)
    image = image + body.coverage() * (paint - image)
    if looks.pattern == "eyed":
        image = image + eyes.coverage() * (second - image)
    if looks.edge == "outlined":
        image = image + border.coverage() * (_second_tone(colour * 0.8) - image)
    image = _foreground(image, style, rng)
    light = rng.uniform(0.85, 1.12) * np.array(style.cast)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image = image * light + rng.uniform(0.2, 1.0) * style.noise * noise
    return np.clip(image, 0, 255).astype(np.uint8)
