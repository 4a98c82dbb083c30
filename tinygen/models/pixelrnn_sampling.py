"""Drawing images from a PixelRNN: pixel by pixel, at the price of one forward pass in total.

`sample_naive` runs the whole network for every pixel and colour and throws nearly all of it away:
784 passes for an image of 28 × 28. `sample` computes what belongs to the pixel at hand only, by
the layers of `pixelrnn_cache`. Both draw by the same uniform numbers, so they give the same
images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import nn, random
from ..autograd import no_grad
from ..tensor import Tensor
from .pixelrnn import PixelRNN
from .pixelrnn_cache import CachedNetwork
from .pixelrnn_multiscale import MultiScalePixelRNN

__all__ = ["sample", "sample_naive"]

Model = PixelRNN | MultiScalePixelRNN
Sampled = tuple[np.ndarray, np.ndarray]


def sample(
    model: Model,
    n: int,
    generator: random.Generator | None = None,
    *,
    temperature: float = 1.0,
    known: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Sampled:
    """Draw n images: returns (pixels, log_prob), each (n, C, H, W) in the model's dtype.

    pixels are levels 0, ..., levels - 1; log_prob is what each was drawn with, in nats. Logits
    are divided by the `temperature`: below 1 the likely becomes likelier.

    Completion: where `mask` (H, W) is true the pixels are those of `known` (n, C, H, W), with
    log_prob 0. A pixel is drawn given those before it, known or not, never given later ones.
    """
    draws = _Draws.start(model, n, generator, temperature, known, mask)
    _scale_by_scale(_draw_cached, model, draws)
    return draws.result()


def sample_naive(
    model: Model,
    n: int,
    generator: random.Generator | None = None,
    *,
    temperature: float = 1.0,
    known: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Sampled:
    """The same as `sample` by a whole forward pass for each pixel and colour: slow, and plain."""
    draws = _Draws.start(model, n, generator, temperature, known, mask)
    _scale_by_scale(_draw_naively, model, draws)
    return draws.result()


def _scale_by_scale(draw: Callable, model: Model, draws: _Draws) -> None:
    """Draw what is unknown, in a multi-scale model first the small images, then between them."""
    if isinstance(model, PixelRNN):
        draw(model, draws, None)
        return
    small = draws.every_second()
    draw(model.small, small, None)
    draws.known[::2, ::2] = True
    with no_grad():
        context = model.context(small.images(model))
    draw(model.large, draws, context)


def _draw_cached(model: PixelRNN, draws: _Draws, context: Tensor | None) -> None:
    network = CachedNetwork(model, draws.pixels.shape[-1], context)
    for i in range(model.height):
        if draws.known[i:].all():
            break
        network.begin_row(i)
        for j in range(model.width):
            if draws.known[i, j]:
                for colour in range(model.channels):
                    network.put(j, colour, draws.pixels[i, j, colour])
                network.pixel(j, None)
                continue
            for colour in range(model.channels):
                network.pixel(j, colour)
                network.put(j, colour, draws.draw(i, j, colour, network.logits(colour)))
        network.end_row()


def _draw_naively(model: PixelRNN, draws: _Draws, context: Tensor | None) -> None:
    with no_grad():
        for i, j in np.argwhere(~draws.known):
            for colour in range(model.channels):
                logits = model(draws.images(model), context)[:, :, colour, int(i), int(j)]
                draws.draw(i, j, colour, logits.numpy().T)


@dataclass
class _Draws:
    """The images as far as they are drawn, and the numbers to draw the rest by."""

    pixels: np.ndarray  # (H, W, C, n), as the next two
    log_prob: np.ndarray
    uniform: np.ndarray
    known: np.ndarray  # (H, W)
    temperature: float

    @classmethod
    def start(cls, model, n, generator, temperature, known, mask) -> _Draws:
        size = model.height, model.width
        if n < 1 or not temperature > 0:
            raise ValueError(f"sample: n={n} and temperature={temperature} must be above 0")
        if (known is None) != (mask is None):
            raise ValueError("sample: a completion needs both known pixels and their mask")
        dtype = next(model.parameters()).dtype
        pixels = np.zeros((*size, model.channels, n), dtype)
        mask = np.zeros(size, bool) if mask is None else np.array(mask, bool)  # a copy
        if known is not None:
            known = np.asarray(known)
            if known.shape != (n, model.channels, *size) or mask.shape != size:
                raise ValueError(
                    f"sample: known {known.shape} and mask {mask.shape} must be "
                    f"{(n, model.channels, *size)} and {size}"
                )
            pixels[mask] = known.transpose(2, 3, 1, 0)[mask]
        uniform = (generator or random.default_generator()).uniform(pixels.shape, dtype=dtype)
        return cls(pixels, np.zeros_like(pixels), uniform, mask, temperature)

    def every_second(self) -> _Draws:
        """The small image within: what is drawn there is drawn here."""
        parts = (x[::2, ::2] for x in (self.pixels, self.log_prob, self.uniform, self.known))
        return _Draws(*parts, self.temperature)

    def images(self, model: nn.Module) -> Tensor:
        """(n, C, H, W) for the model to see, on its device."""
        pixels = np.ascontiguousarray(self.pixels.transpose(3, 2, 0, 1))
        return Tensor(pixels).to(next(model.parameters()).device)

    def draw(self, i: int, j: int, colour: int, logits: np.ndarray) -> np.ndarray:
        """Draw a pixel's colour by logits (K, n): the levels (n,)."""
        logits = logits / self.temperature
        if len(logits) == 1:  # the logit of a 1
            logits = np.concatenate([np.zeros_like(logits), logits])
        log_p = logits - logits.max(0)
        log_p -= np.log(np.exp(log_p).sum(0))
        # The level whose part of [0, 1) the uniform number falls into. Without the last sum,
        # which rounding may leave below 1: there is no level after the last.
        level = (self.uniform[i, j, colour] >= np.cumsum(np.exp(log_p), 0)[:-1]).sum(0)
        self.pixels[i, j, colour] = level
        self.log_prob[i, j, colour] = np.take_along_axis(log_p, level[None], 0)[0]
        return self.pixels[i, j, colour]

    def result(self) -> Sampled:
        """(pixels, log_prob) as (n, C, H, W)."""
        pixels, log_prob = (x.transpose(3, 2, 0, 1) for x in (self.pixels, self.log_prob))
        return np.ascontiguousarray(pixels), np.ascontiguousarray(log_prob)
