"""What a PixelRNN can show of itself, as arrays: completions, the order of drawing, what it sees.

Images are (N, C, H, W) of levels 0, ..., levels - 1. What is not drawn yet is a middle grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..autograd import grad
from ..random import Generator
from ..tensor import Tensor
from .pixelrnn_sampling import Model, sample

__all__ = ["completions", "drawing", "receptive_field"]


def completions(
    model: Model,
    images: np.ndarray,
    generator: Generator,
    *,
    hidden: float = 0.5,
    ways: int = 5,
    temperature: float = 1.0,
) -> np.ndarray:
    """Images whose lower part is hidden, with several ways to go on: (N, ways + 2, C, H, W).

    The row of an image: what is left of it, the completions, and itself. `hidden`: the part of
    its height, rounded up to whole rows.
    """
    shape = images.shape[1:]
    known = np.ones(shape[1:], bool)
    known[model.height - math.ceil(hidden * model.height) :] = False
    left = np.where(known, images, (model.levels - 1) / 2)
    several = np.repeat(images, ways, axis=0)
    drawn, _ = sample(
        model, len(several), generator, temperature=temperature, known=several, mask=known
    )
    drawn = drawn.reshape(len(images), ways, *shape)
    return np.concatenate([left[:, None], drawn, images[:, None]], axis=1)


def drawing(model: Model, images: np.ndarray, frames: int) -> Iterator[np.ndarray]:
    """The images as they are drawn, from nothing to everything in `frames` steps."""
    pixels = model.height * model.width
    for drawn in np.linspace(0, pixels, frames + 1).round():
        yield np.where(model.order < drawn, images, (model.levels - 1) / 2)


def receptive_field(model: Model, images: np.ndarray, i: int, j: int) -> np.ndarray:
    """What the pixel (i, j) sees of some images, a picture (3, H, W) in [0, 1].

    The size of its logits' gradients for each pixel, summed over the images: from black, one
    millionth of the largest, to white. The past that is not seen is red, the future blue, the
    pixel itself yellow. A model that could look ahead would show it here. In a multi-scale model
    the past is `model.order`'s, and (i, j) should not be one of the small image.
    """
    device = next(model.parameters()).device
    x = Tensor(images).to(device).requires_grad_()
    logits = model(x)[:, :, :, i, j]
    # Signs, so that the gradients of a softmax's logits don't cancel each other out.
    signs = np.where(np.arange(logits.shape[1]) % 2, -1, 1).astype(logits.dtype)
    weights = np.broadcast_to(signs[:, None], logits.shape).copy()
    gradient = grad(logits, x, Tensor(weights).to(device))
    seen = np.abs(gradient.cpu().numpy()).sum((0, 1))
    with np.errstate(divide="ignore"):
        light = 1 + np.log10(seen / max(seen.max(), 1e-30)) / 6
    picture = np.repeat(light.clip(0, 1)[None], 3, axis=0)
    future = model.order > model.order[i, j]
    picture[:, seen == 0] = np.array([[0.6], [0.1], [0.1]])
    picture[:, future & (seen == 0)] = np.array([[0.1], [0.1], [0.4]])
    picture[:, i, j] = (1, 1, 0)
    return picture
