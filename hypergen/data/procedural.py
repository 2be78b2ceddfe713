"""Images that are drawn, not collected: classification tasks without any files."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hypergen.data.images import ImageDataModule

_CANVAS = 2  # Drawn at this many times the size, so that edges are smooth.


class ProceduralImageDataModule(ImageDataModule):
    """A classification task of drawn colour images, balanced over its classes.

    Args:
        kind: ``"shapes"``: a filled or hollow figure anywhere; ``"textures"``: gratings and noise of one orientation
            and frequency; ``"strokes"``: a glyph of a few curves, drawn by another hand each time; ``"colours"``: a
            field of two colours; ``"letters"``: Latin capitals in the fonts of Matplotlib.
        classes: Number of classes; ``"shapes"`` has at most 12 and ``"letters"`` at most 26.
        images_per_class: Training images of each class; validation and test have a quarter of it each.
        image_size: Height and width of the images.
        batch_size: Images per batch.
        seed: What the classes look like and every image. Other seeds are other textures, glyphs and colours.
        num_workers: Loader processes.

    Raises:
        ValueError: The kind is unknown, or a number is out of range.
    """

    channels = 3

    def __init__(
        self,
        kind: str,
        classes: int = 10,
        images_per_class: int = 200,
        image_size: int = 32,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        if kind not in _KINDS:
            raise ValueError(f"unknown kind {kind!r} of drawn images; expected one of {tuple(_KINDS)}")
        most = {"shapes": len(_SHAPES), "letters": 26}.get(kind, 1000)
        if not 2 <= classes <= most:
            raise ValueError(f"classes must lie between 2 and {most} for kind={kind!r}; got {classes}")
        if images_per_class < 4 or image_size < 8:
            raise ValueError(
                "images_per_class must be at least 4 and image_size at least 8; "
                f"got {images_per_class} and {image_size}"
            )
        self.kind, self.num_classes, self.image_size = kind, classes, image_size
        self.images_per_class = images_per_class

    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Draw the splits: images [N, 3, image_size, image_size] from 0 to 1, labels [N]."""
        held_out = self.images_per_class // 4
        counts = {"train": self.images_per_class, "validation": held_out, "test": held_out}
        draws = [_KINDS[self.kind](np.random.default_rng((self.seed, c)), c) for c in range(self.num_classes)]
        splits = {}
        for number, (split, count) in enumerate(counts.items()):
            rng = np.random.default_rng((self.seed, 1_000_003, number))
            images = np.stack([draw(rng, self.image_size) for draw in draws for _ in range(count)])
            labels = torch.arange(self.num_classes).repeat_interleave(count)
            splits[split] = (torch.from_numpy(images).float().permute(0, 3, 1, 2).clamp(0, 1), labels)
        return splits


_Draw = Callable[[np.random.Generator, int], np.ndarray]  # an image [size, size, 3] from 0 to 1


def _shapes(style: np.random.Generator, label: int) -> _Draw:
    name = _SHAPES[label]

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        angles, radii = _OUTLINES[name]
        turn = rng.uniform(-0.3, 0.3)
        radius, (x, y) = rng.uniform(0.22, 0.38), rng.uniform(0.38, 0.62, 2)
        points = [(x + radius * r * math.cos(a + turn), y + radius * r * math.sin(a + turn)) for a, r in
                  zip(angles, radii, strict=True)]  # fmt: skip
        return _on_canvas(rng, size, [points], filled=name in _FILLED, width=rng.uniform(0.06, 0.1))

    return draw


def _strokes(style: np.random.Generator, label: int) -> _Draw:
    curves = style.uniform(0.15, 0.85, (int(style.integers(2, 5)), 4, 2))  # control points

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        along = np.linspace(0, 1, 16)[:, None]
        turned = _affine(rng)
        lines = []
        for curve in curves + rng.normal(0, 0.025, curves.shape):
            a, b, c, d = (curve - 0.5) @ turned + 0.5 + rng.normal(0, 0.02, 2)
            points = (1 - along) ** 3 * a + 3 * along * (1 - along) ** 2 * b + 3 * along**2 * (1 - along) * c
            lines.append([tuple(point) for point in points + along**3 * d])
        return _on_canvas(rng, size, lines, filled=False, width=rng.uniform(0.05, 0.09))

    return draw


def _letters(style: np.random.Generator, label: int) -> _Draw:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    fonts = [
        FontProperties(family=family, weight=weight, style=slant)
        for family in ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "STIXGeneral")
        for weight in ("normal", "bold")
        for slant in ("normal", "italic")
    ]

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        path = TextPath((0, 0), chr(65 + label), prop=fonts[rng.integers(len(fonts))])
        polygons = [np.asarray(polygon) for polygon in path.to_polygons()]
        every = np.concatenate(polygons)
        middle, extent = (every.max(0) + every.min(0)) / 2, (every.max(0) - every.min(0)).max()
        turned = _affine(rng) * rng.uniform(0.6, 0.75)
        shift = 0.5 + rng.uniform(-0.06, 0.06, 2)
        placed = [((p - middle) / extent * [1, -1]) @ turned + shift for p in polygons]
        return _on_canvas(rng, size, [[tuple(point) for point in p] for p in placed], filled=True, width=0.0)

    return draw


def _textures(style: np.random.Generator, label: int) -> _Draw:
    angle, frequency, wobble = style.uniform(0, math.pi), style.uniform(1.5, 8), style.uniform(0, 1.5)
    second, share = style.uniform(0, math.pi), style.choice([0.0, 0.5])

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        y, x = np.mgrid[:size, :size] / size
        x, y = x + wobble * 0.1 * np.sin(2 * math.pi * (y + rng.uniform())), y
        pattern = np.zeros((size, size))
        for turned, amount in ((angle, 1 - share / 2), (second, share)):
            turned += rng.normal(0, 0.06)
            wave = (x * math.cos(turned) + y * math.sin(turned)) * frequency * rng.uniform(0.92, 1.08)
            pattern += amount * np.sin(2 * math.pi * (wave + rng.uniform()))
        low, high = _two_colours(rng)
        shares = (0.5 + 0.5 * pattern.clip(-1, 1))[..., None]
        return low * (1 - shares) + high * shares + rng.normal(0, 0.06, (size, size, 3))

    return draw


def _colours(style: np.random.Generator, label: int) -> _Draw:
    first, second = style.uniform(0, 1, (2, 3))
    angle = style.uniform(0, 2 * math.pi)

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        y, x = np.mgrid[:size, :size] / size - 0.5
        turned = angle + rng.normal(0, 0.2)
        along = x * math.cos(turned) + y * math.sin(turned) + rng.uniform(-0.15, 0.15)
        shares = 1 / (1 + np.exp(-along * rng.uniform(4, 20)))[..., None]
        a, b = first + rng.normal(0, 0.12, 3), second + rng.normal(0, 0.12, 3)
        return a * (1 - shares) + b * shares + rng.normal(0, 0.08, (size, size, 3))

    return draw


def _affine(rng: np.random.Generator) -> np.ndarray:
    turn = rng.normal(0, 0.15)
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return turned @ (np.eye(2) * rng.uniform(0.8, 1.1, 2) + np.array([[0, rng.normal(0, 0.12)], [0, 0]]))


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours whose brightness differs by a third at least."""
    while True:
        low, high = rng.uniform(0, 1, (2, 3))
        if abs(low.mean() - high.mean()) > 1 / 3:
            return low, high


def _on_canvas(
    rng: np.random.Generator, size: int, lines: list[list[tuple[float, float]]], filled: bool, width: float
) -> np.ndarray:
    """Polygons or lines, in units of the image, on a plain ground with noise."""
    from PIL import Image, ImageChops, ImageDraw

    side = size * _CANVAS
    mask = Image.new("1", (side, side))
    for line in lines:
        points = [(x * side, y * side) for x, y in line]
        if filled:  # a polygon within another one is a hole
            layer = Image.new("1", (side, side))
            ImageDraw.Draw(layer).polygon(points, fill=1)
            mask = ImageChops.logical_xor(mask, layer)
        else:
            ImageDraw.Draw(mask).line(points, fill=1, width=max(1, round(width * side)), joint="curve")
    shares = np.asarray(mask.convert("L").resize((size, size), Image.Resampling.BOX))[..., None] / 255
    low, high = _two_colours(rng)
    return low * (1 - shares) + high * shares + rng.normal(0, 0.05, (size, size, 3))


def _polygon(corners: int, inner: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Angles and radii of a closed regular polygon, or of a star with an inner radius."""
    count = corners if inner is None else 2 * corners
    angles = np.linspace(0, 2 * math.pi, count + 1) - math.pi / 2
    radii = np.ones(count + 1)
    if inner is not None:
        radii[1::2] = inner
    return angles, radii


_OUTLINES = {
    "triangle": _polygon(3), "square": _polygon(4), "pentagon": _polygon(5), "disc": _polygon(24),
    "star": _polygon(5, 0.4), "cross": _polygon(4, 0.25), "gear": _polygon(8, 0.6),
    "open_triangle": _polygon(3), "open_square": _polygon(4), "ring": _polygon(24),
    "open_star": _polygon(5, 0.4), "open_cross": _polygon(4, 0.25),
}  # fmt: skip
_SHAPES = tuple(_OUTLINES)
_FILLED = {name for name in _SHAPES if not name.startswith("open") and name != "ring"}
_KINDS: dict[str, Callable[[np.random.Generator, int], _Draw]] = {
    "shapes": _shapes, "textures": _textures, "strokes": _strokes, "colours": _colours, "letters": _letters,
}  # fmt: skip
