"""PixelRNN and PixelCNN: the exact likelihood of an image, pixel by pixel and colour by colour.

log p(x) = Σ_{i,j} Σ_c log p(x[i,j,c] | rows above, pixels to the left, earlier colours here)

van den Oord, Kalchbrenner, Kavukcuoglu 2016 (arXiv 1601.06759, table 1) and, for the gated
PixelCNN, van den Oord et al. 2016 (arXiv 1606.05328, figure 2). A network of masked layers gives
all the conditionals of an image in one pass; drawing one is `pixelrnn_sampling`.

Four bodies, between a 7 × 7 convolution of mask A and a head of 1 × 1 convolutions of mask B:
  row        Row LSTM: from row to row; sees a triangle above the pixel
  diagonal   Diagonal BiLSTM: sees (nearly) all of the past in every layer
  cnn        3 × 3 convolutions of mask B: quick, but blind for a wedge to the upper right
  gated      gated PixelCNN: a vertical and a horizontal stack, which see all within their reach
Maps have 2h channels, LSTM gates and inner convolutions h. With skip connections the head reads
the sum of all layers' maps, not only the last ones:  x_L + Σ_{l<L} S_l x_l  (section 3.3; worth
0.01 bits beside the residual connections, says the paper).

What differs from the paper: a ReLU before each of the three layers of the head, and its first two
are `head` wide.
"""

from __future__ import annotations

import numpy as np

from .. import functional as F
from .. import nn
from ..functional.checks import Size, sizes
from ..nn.masked import shift_down
from ..tensor import Tensor

__all__ = ["KINDS", "PixelRNN", "quantise"]

FIRST = 7  # the size of the first convolution


class CNNBlock(nn.Module):
    """x + up(relu(conv(relu(down(relu(x))))))."""

    def __init__(self, hidden: int, height: int, width: int, colours: int):
        super().__init__()
        self.down = nn.MaskedConv2d(2 * hidden, hidden, 1, colours=colours)
        self.conv = nn.MaskedConv2d(hidden, hidden, 3, colours=colours)
        self.up = nn.MaskedConv2d(hidden, 2 * hidden, 1, colours=colours)

    def forward(self, x):
        h = F.relu(self.down(F.relu(x)))
        return x + self.up(F.relu(self.conv(h)))


class RowBlock(nn.Module):
    """x + up(RowLSTM(x))."""

    def __init__(self, hidden: int, height: int, width: int, colours: int):
        super().__init__()
        self.lstm = nn.RowLSTM(2 * hidden, hidden, width, colours=colours)
        self.up = nn.MaskedConv2d(hidden, 2 * hidden, 1, colours=colours)

    def forward(self, x):
        return x + self.up(self.lstm(x))


class DiagonalBlock(nn.Module):
    """x + up_left(left half) + up_right(right half, a row lower)."""

    def __init__(self, hidden: int, height: int, width: int, colours: int):
        super().__init__()
        self.lstm = nn.DiagonalBiLSTM(2 * hidden, hidden, height, colours=colours)
        self.up_left = nn.MaskedConv2d(hidden, 2 * hidden, 1, colours=colours)
        # Tells of finished rows only: no colour needs to be hidden.
        self.up_right = nn.MaskedConv2d(hidden, 2 * hidden, 1, mask="rows", bias=False)

    def forward(self, x):
        left, right = self.lstm(x)
        return x + self.up_left(left) + self.up_right(right)


class Residual(nn.Module):
    """The first convolution and the blocks: images (N, C, H, W) to each one's maps (N, 2h, H, W).

    The `biases` (N, 2h, H, W), or None, are added to what the blocks read.
    """

    def __init__(self, block, layers: int, hidden: int, height: int, width: int, colours: int):
        super().__init__()
        self.first = nn.MaskedConv2d(colours, 2 * hidden, FIRST, mask="A", colours=colours)
        self.blocks = nn.ModuleList(block(hidden, height, width, colours) for _ in range(layers))

    def forward(self, x, biases):
        maps = [self.first(x)]
        for block, bias in zip(self.blocks, biases, strict=True):
            maps.append(block(biased(maps[-1], bias)))
        return maps


class GatedBlock(nn.Module):
    """The vertical stack v and the horizontal stack x, a layer of each.

    a = W_v ∗ v;  v' = gate(a);  x' = x + up(gate(W_x ∗ x + W_a a↓)),  gate(t, s) = tanh(t) σ(s)

    v has seen all of its own row, so it (a↓) comes to x from the row above. The first block, which
    sees the image itself (mask A), has no residual connection.
    """

    def __init__(self, inputs: int, maps: int, kernel_size: int, colours: int, *, first: bool):
        super().__init__()
        self.first = first
        mask = "A" if first else "B"
        self.vertical = nn.MaskedConv2d(inputs, 2 * maps, kernel_size, mask="rows")
        self.across = nn.MaskedConv2d(2 * maps, 2 * maps, 1, mask="rows", bias=False)
        self.horizontal = nn.MaskedConv2d(
            inputs, 2 * maps, (1, kernel_size), mask=mask, colours=colours, gates=2
        )
        self.up = nn.MaskedConv2d(maps, maps, 1, colours=colours)

    def forward(self, v, x):
        a = self.vertical(v)
        y = self.up(gate(self.horizontal(x) + self.across(shift_down(a))))
        return gate(a), y if self.first else x + y


def gate(a):
    """tanh of the first half of the channels times σ of the second."""
    t, s = F.chunk(a, 2, 1)
    return F.tanh(t) * F.sigmoid(s)


class Gated(nn.Module):
    """Gated blocks, with the arguments and results of Residual; the first one is its own kind.

    The biases go to the horizontal stack.
    """

    def __init__(self, layers: int, hidden: int, colours: int):
        super().__init__()
        blocks = [GatedBlock(colours, 2 * hidden, FIRST, colours, first=True)]
        blocks += [
            GatedBlock(2 * hidden, 2 * hidden, 3, colours, first=False) for _ in range(layers)
        ]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x, biases):
        v, maps = x, []
        for block, bias in zip(self.blocks, [None, *biases], strict=True):
            v, x = block(v, biased(x, bias))
            maps.append(x)
        return maps


def biased(x, bias):
    return x if bias is None else x + bias


BLOCKS = {"row": RowBlock, "diagonal": DiagonalBlock, "cnn": CNNBlock}
KINDS = (*BLOCKS, "gated")


class PixelRNN(nn.Module):
    """Images of whole numbers 0, ..., levels - 1 to the logits of each of their pixels.

    forward: x (N, channels, H, W), floating point, to logits (N, K, channels, H, W): K = levels
    for a softmax, or K = 1 for levels = 2, the logit of a 1. Colours are drawn in the order of the
    channels. `layers` are the blocks after the first convolution, `hidden` is h. With `context`
    the network is told something more about the images: forward and nll take maps
    (N, context, H, W) that every block may see all of.

    >>> import tinygen
    >>> model = PixelRNN("row", image_size=8, levels=4, hidden=4, head=8)
    >>> x = tinygen.zeros(2, 1, 8, 8)
    >>> model(x).shape, model.nll(x).shape
    ((2, 4, 1, 8, 8), (2, 1, 8, 8))
    """

    def __init__(
        self,
        kind: str = "diagonal",
        *,
        image_size: Size = 28,
        channels: int = 1,
        levels: int = 2,
        layers: int = 1,
        hidden: int = 16,
        head: int = 32,
        skip: bool = False,
        context: int = 0,
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"PixelRNN: kind={kind!r} must be one of {', '.join(KINDS)}")
        self.height, self.width = sizes("PixelRNN", "image_size", image_size, 2, least=1)
        if not 2 <= levels <= 256:
            raise ValueError(f"PixelRNN: levels={levels} must be from 2 (black, white) to 256")
        if channels < 1 or layers < 1:
            raise ValueError(f"PixelRNN: channels={channels}, layers={layers} must be at least 1")
        if min(hidden, head) < channels:
            raise ValueError(
                f"PixelRNN: hidden={hidden} and head={head} must be at least channels={channels}: "
                "each colour needs maps of its own"
            )
        self.kind, self.channels, self.levels = kind, channels, levels
        self.layers, self.context = layers, context
        if kind == "gated":
            self.body: nn.Module = Gated(layers, hidden, channels)
        else:
            size = self.height, self.width
            self.body = Residual(BLOCKS[kind], layers, hidden, *size, channels)
        outputs = channels * self.logits_per_pixel
        self.head = nn.Sequential(
            nn.ReLU(), nn.MaskedConv2d(2 * hidden, head, 1, colours=channels),
            nn.ReLU(), nn.MaskedConv2d(head, head, 1, colours=channels),
            nn.ReLU(), nn.MaskedConv2d(head, outputs, 1, colours=channels),
        )  # fmt: skip
        # No biases of their own: the next layer of the head and the blocks' layers have some.
        self.skips = nn.ModuleList(
            nn.MaskedConv2d(2 * hidden, 2 * hidden, 1, colours=channels, bias=False)
            for _ in range(layers if skip else 0)
        )
        self.to_biases = nn.ModuleList(
            nn.Conv2d(context, 2 * hidden, 1, bias=False) for _ in range(layers if context else 0)
        )

    @property
    def order(self) -> np.ndarray:
        """The place of each pixel in the chain rule, (H, W): row by row."""
        return np.arange(self.height * self.width).reshape(self.height, self.width)

    @property
    def logits_per_pixel(self) -> int:
        """K, for each colour."""
        return 1 if self.levels == 2 else self.levels

    def scaled(self, x):
        """Levels 0, ..., levels - 1 to what the network sees, [-1, 1]."""
        return x * (2 / (self.levels - 1)) - 1

    def biases(self, context=None) -> list[Tensor | None]:
        """What each block is told of the context: maps (N, 2h, H, W), or None without one."""
        if (context is None) == bool(self.context):
            maps = (self.context, self.height, self.width)
            raise ValueError(
                f"PixelRNN: made with context={self.context}, so it "
                + (f"needs maps (N, {str(maps)[1:]}" if self.context else "takes none")
                + f", got {'none' if context is None else tuple(context.shape)}"
            )
        return [layer(context) for layer in self.to_biases] or [None] * self.layers

    def forward(self, x, context=None):
        if tuple(x.shape[1:]) != (self.channels, self.height, self.width):
            raise ValueError(
                f"PixelRNN: images {tuple(x.shape)} must be (N, channels, height, width) with "
                f"{(self.channels, self.height, self.width)}"
            )
        *early, maps = self.body(self.scaled(x), self.biases(context))
        for skip, layer in zip(self.skips, early, strict=False):  # if there are any
            maps = maps + skip(layer)
        logits = self.head(maps)
        shape = (x.shape[0], self.channels, self.logits_per_pixel, self.height, self.width)
        return logits.reshape(*shape).transpose(1, 2)

    def nll(self, x, context=None):
        """-log p of each pixel and colour given those before it, in nats: (N, C, H, W)."""
        return negative_log_likelihood(self(x, context), x)


def negative_log_likelihood(logits, x):
    """-log p(x) by logits (N, K, C, H, W) of pixels x (N, C, H, W), in nats, each by itself."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], x, reduction="none")
    return F.cross_entropy(logits, x.detach().astype(np.int64), reduction="none")


def quantise(images, levels: int):
    """Pixels in [0, 1] to the nearest of 0, ..., levels - 1, in the same dtype."""
    return (images * (levels - 1) + 0.5).astype(np.uint8).astype(images.dtype)
