"""Pictures of a run: sample grids, the animation over training, plots of metrics.csv.

Images are float arrays (N, C, H, W), C = 1 or 3, in [-1, 1] or another fixed range. The mapping to
0..255 never looks at the values, so that pictures of different steps can be compared.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .files import replacing

__all__ = ["animate", "grid", "pairs", "plot", "save_png", "to_uint8"]

READABLE = 64  # pixels; smaller images are enlarged to about this size
GREY = 128  # between the images of a grid: seen beside black and white ones


def to_uint8(images: Any, value_range: tuple[float, float] = (-1.0, 1.0)) -> np.ndarray:
    """round(255 (x - low) / (high - low)), clipped: floats in `value_range` to bytes."""
    low, high = value_range
    scaled = (np.asarray(images, np.float32) - low) * (255 / (high - low))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def grid(
    images: Any,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    padding: int = 2,
    scale: int | None = None,
) -> np.ndarray:
    """Images (N, C, H, W) side by side, row by row, as one picture (height, width, C), uint8.

    `columns`: about as many as rows by default. `scale`: each pixel becomes scale x scale equal
    ones; by default just enough for small images to be seen.
    """
    tiles = to_uint8(images, value_range)
    if tiles.ndim != 4 or tiles.shape[1] not in (1, 3) or not tiles.size:
        raise ValueError(f"grid: expected images (N, 1 or 3, H, W), got shape {tiles.shape}")
    n, channels, height, width = tiles.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    scale = scale or max(1, round(READABLE / max(height, width)))

    tiles = tiles.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    step_y, step_x = height * scale + padding, width * scale + padding
    shape = (rows * step_y + padding, columns * step_x + padding, channels)
    picture = np.full(shape, GREY, np.uint8)
    for i, tile in enumerate(tiles):
        y = padding + (i // columns) * step_y
        x = padding + (i % columns) * step_x
        picture[y : y + height * scale, x : x + width * scale] = tile
    return picture


def pairs(
    left: Any, right: Any, *, columns: int = 4, value_range: tuple[float, float] = (-1.0, 1.0)
) -> np.ndarray:
    """A grid of pairs: each image of `left` with its partner of `right` beside it."""
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape:
        raise ValueError(f"pairs: shapes {left.shape} and {right.shape} differ")
    images = np.stack([left, right], axis=1).reshape(-1, *left.shape[1:])
    return grid(images, columns=2 * columns, value_range=value_range)


def save_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """A picture (height, width, 1 or 3), uint8, as a PNG file."""
    with replacing(path) as temporary:
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(temporary)


def animate(
    path: str | os.PathLike,
    frames: Sequence[str | os.PathLike],
    *,
    seconds: float = 10.0,
    max_frames: int = 100,
) -> None:
    """The PNG files `frames` as a GIF that loops; of more than `max_frames`, evenly chosen ones.

    The last frame stays for a second and a half.
    """
    if not frames:
        raise ValueError("animate: there are no frames")
    count = min(len(frames), max_frames)
    pictures = [
        _read(frames[i]) for i in np.linspace(0, len(frames) - 1, count).round().astype(int)
    ]
    if pictures[0].mode != "L":
        # GIF knows 256 colours. One palette for all frames: the ground must not flicker.
        palette = _palette(pictures)
        undithered = Image.Dither.NONE  # nor may it sparkle
        pictures = [p.quantize(palette=palette, dither=undithered) for p in pictures]
    # Hundredths of a second; viewers slow down what is shorter than two of them.
    durations = [max(20, round(100 * seconds / count) * 10)] * count
    durations[-1] += 1500
    with replacing(path) as temporary:
        pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
        )


def _read(path: str | os.PathLike) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


def _palette(pictures: Sequence[Image.Image]) -> Image.Image:
    """The 256 colours that suit up to four of the pictures best."""
    some = [np.asarray(picture) for picture in pictures[:: -(-len(pictures) // 4)]]
    return Image.fromarray(np.concatenate(some)).quantize(256)


def plot(
    path: str | os.PathLike,
    metrics: Mapping[str, Sequence[float]],
    panels: Sequence[Sequence[str]],
) -> None:
    """Columns of metrics.csv over the steps, one panel for each group of column names."""
    # Imported here: matplotlib takes most of a second, and only the end of a run needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, names in zip(axes, panels, strict=True):
        for name in names:
            axis.plot(metrics["step"], metrics[name], label=name, linewidth=1)
        axis.legend(loc="upper right")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def bars(path: str | os.PathLike, rows: Any, *, title: str, xlabel: str, ylabel: str) -> None:
    """A bar for each number of one or several rows (rows, numbers), a panel for each row, all of
    one scale; above each row its number, if there are several, and its sum."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = np.atleast_2d(rows)
    figure = Figure(figsize=(7, 1.5 + 1.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for number, (axis, values) in enumerate(zip(panels, rows, strict=True), start=1):
        axis.bar(np.arange(1, len(values) + 1), values)
        of_row = f"{number}: " if len(rows) > 1 else ""
        axis.set_title(f"{of_row}{values.sum():.1f} in all", fontsize="medium")
        axis.set_ylabel(ylabel)
        axis.grid(axis="y", alpha=0.3)
    panels[-1].set_xlabel(xlabel)
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
