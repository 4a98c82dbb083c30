"""Multi-scale PixelRNN: a small image first, then the pixels between, given all of it.

log p(x) = log p(s) + Σ log p(x[i,j] | s, pixels before),  s = x[::2, ::2]

van den Oord et al. 2016, section 3.6: an unconditional network for the subsampled image, and a
conditional one whose layers are biased by an upsampled map of it. The large picture's outline is
decided in a quarter of the pixels, so the network between them need not look far.

What differs from the paper: the pixels of s are not drawn a second time, so the likelihood is
exact; and the map is added to what each block reads, not to its gates.
"""

from __future__ import annotations

import numpy as np

from .. import functional as F
from .. import nn
from ..tensor import Tensor
from .pixelrnn import PixelRNN

__all__ = ["MultiScalePixelRNN"]


class MultiScalePixelRNN(nn.Module):
    """Two PixelRNNs, each of the same options: one of every second pixel of every second row, one
    of the others.

    forward: the logits of the large network as PixelRNN gives them, which mean something where
    `order` comes after the small image. nll: of every pixel.

    >>> import tinygen
    >>> model = MultiScalePixelRNN("row", image_size=7, hidden=4, head=8)
    >>> model.nll(tinygen.zeros(2, 1, 7, 7)).shape
    (2, 1, 7, 7)
    """

    def __init__(self, kind: str = "diagonal", *, hidden: int = 16, **options):
        super().__init__()
        self.large = large = PixelRNN(kind, hidden=hidden, context=2 * hidden, **options)
        small = -(-large.height // 2), -(-large.width // 2)
        self.small = PixelRNN(kind, hidden=hidden, **{**options, "image_size": small})
        self.height, self.width = large.height, large.width
        self.channels, self.levels = large.channels, large.levels
        self.upsample = nn.Sequential(
            nn.Conv2d(self.channels, 2 * hidden, 5, padding=2), nn.ReLU(),
            nn.ConvTranspose2d(2 * hidden, 2 * hidden, 4, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        between = np.ones((self.height, self.width), np.float32)
        between[::2, ::2] = 0
        self.register_buffer("between", Tensor(between))

    @property
    def order(self) -> np.ndarray:
        """The place of each pixel in the chain rule, (H, W): first those of the small image."""
        order = self.large.order + self.small.order.size
        order[::2, ::2] = self.small.order
        # Without gaps, where the large network leaves the others' pixels out.
        return order.ravel().argsort().argsort().reshape(order.shape)

    def context(self, small):
        """Small images to the maps (N, 2h, H, W) that the large network is told."""
        return self.upsample(self.large.scaled(small))[:, :, : self.height, : self.width]

    def forward(self, x):
        return self.large(x, self.context(x[:, :, ::2, ::2]))

    def nll(self, x):
        """-log p of each pixel and colour given those before it in `order`, in nats."""
        small = x[:, :, ::2, ::2]
        between = self.large.nll(x, self.context(small)) * self.between
        return between + self._spread(self.small.nll(small))

    def _spread(self, small):
        """Values (N, C, h, w) at their places in the large image, with zeros between."""
        n, channels, height, width = small.shape
        spaced = F.pad(small.reshape(n, channels, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
        spaced = spaced.reshape(n, channels, 2 * height, 2 * width)
        return spaced[:, :, : self.height, : self.width]
