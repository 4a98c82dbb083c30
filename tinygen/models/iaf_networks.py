"""Encoders and decoders of the IAF paper's models of grey images: dense and residual ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from .. import functional as F
from .. import nn

__all__ = ["RESIDUAL_SCALE", "ResidualBlock", "conv_networks", "dense_networks"]

RESIDUAL_SCALE = 0.1  # of what a block adds to its input


def dense_networks(
    image_shape: tuple[int, int, int], code: int, latent_dim: int, *, hidden: int = 300
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of two hidden layers each; `code` is the number of encoder outputs."""
    pixels = math.prod(image_shape)

    def layers(before: int, after: int) -> list[nn.Module]:
        inner = [nn.Linear(before, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU()]
        return [*inner, nn.Linear(hidden, after)]

    encoder = nn.Sequential(nn.Flatten(), *layers(pixels, code))
    decoder = nn.Sequential(*layers(latent_dim, pixels), nn.Unflatten(1, image_shape))
    return encoder, decoder


class ResidualBlock(nn.Module):
    """shortcut(x) + 0.1 conv(ELU(conv(ELU(x)))) with 3 × 3 convolutions.

    `resize` "down" halves the maps (rounding up), "up" doubles them to `size`; then the shortcut
    is a convolution too, else the identity.
    """

    def __init__(self, before: int, after: int, resize: str | None = None, size: int = 0):
        super().__init__()

        def first():
            if resize == "up":
                even = 1 - size % 2
                return nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=even)
            return nn.Conv2d(before, after, 3, 2 if resize == "down" else 1, 1)

        self.first, self.second = first(), nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = None if resize is None else first()

    def forward(self, x):
        active = F.elu(x)
        branch = self.second(F.elu(self.first(active))) * RESIDUAL_SCALE
        return branch + (x if self.shortcut is None else self.shortcut(active))


def conv_networks(
    image_shape: tuple[int, int, int],
    code: int,
    latent_dim: int,
    *,
    maps: Sequence[int] = (16, 32, 32),
    hidden: int = 450,
) -> tuple[nn.Module, nn.Module]:
    """The paper's residual networks for MNIST (appendix B): `maps` after each halving, a block
    that keeps the size between two halvings, and a dense layer of `hidden` units."""
    channels, size, width = image_shape
    if size != width or size < 2 ** len(maps):
        raise ValueError(
            f"conv_networks: {len(maps)} halvings need square images of at least "
            f"{2 ** len(maps)} pixels, got {size} × {width}"
        )
    encoder, decoder, below = [], [], [channels, *maps]
    for level, (before, after) in enumerate(pairwise(below)):
        keep = [ResidualBlock(before, before)] if level else []
        encoder += [*keep, ResidualBlock(before, after, "down")]
        inner = before if level else after
        keep = [ResidualBlock(inner, inner)] if level else []
        decoder = [ResidualBlock(after, inner, "up", size), *keep, *decoder]
        size = -(-size // 2)
    units = maps[-1] * size * size
    encoder += [nn.ELU(), nn.Flatten(), nn.Linear(units, hidden), nn.ELU()]
    dense = [nn.Linear(latent_dim, hidden), nn.ELU(), nn.Linear(hidden, units)]
    innermost = nn.Unflatten(1, (maps[-1], size, size))
    to_logits = [nn.ELU(), nn.Conv2d(maps[0], channels, 3, 1, 1)]
    return (
        nn.Sequential(*encoder, nn.Linear(hidden, code)),
        nn.Sequential(*dense, innermost, *decoder, *to_logits),
    )
