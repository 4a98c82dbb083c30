"""PixelRNN with two levels, as examples/pixelrnn.py trains it: the exact likelihood.

The twin's masks are multiplied into full kernels, the way masked convolutions are written
everywhere; both directions of the Diagonal BiLSTM go through the same products.
"""

from __future__ import annotations

from dataclasses import dataclass

from .binary import steps_of
from .common import Recipe


@dataclass(frozen=True)
class PixelRNN:
    """Sizes; `kind` is "row" or "diagonal"."""

    kind: str
    layers: int
    hidden: int = 16
    head: int = 32
    batch_size: int = 16
    size: int = 28


CASES = {
    "pixelrnn diagonal, 1 layer, batch 16": PixelRNN("diagonal", 1),
    "pixelrnn row, 2 layers, batch 16": PixelRNN("row", 2),
}
TINY = {"hidden": 3, "head": 4, "batch_size": 3, "size": 5}
SMALL = {
    "pixelrnn diagonal, 1 layer, batch 16": PixelRNN("diagonal", 2, **TINY),
    "pixelrnn row, 2 layers, batch 16": PixelRNN("row", 2, **TINY),
}
RECIPE = Recipe(lr=3e-3, clip=1.0, average=0.999)
FIRST = 7  # the size of the first convolution


def network(c: PixelRNN, device: str):
    from tinygen.models import pixelrnn

    sizes = {"image_size": c.size, "layers": c.layers, "hidden": c.hidden, "head": c.head}
    net = pixelrnn.PixelRNN(c.kind, **sizes).to(device)
    return net, lambda x: net.nll(x).mean()


def twin(c: PixelRNN):
    import torch
    from torch import nn
    from torch.nn import functional as F

    from .scans import diagonal_lstm, row_lstm

    class MaskedConv2d(nn.Conv2d):
        """Sees what comes before a pixel in reading order; the pixel itself with mask B."""

        def __init__(self, inputs, outputs, kernel_size, mask):
            height, width = kernel_size
            padding = height // 2, width // 2
            super().__init__(inputs, outputs, kernel_size, padding=padding)
            live = torch.arange(height * width) < height * width // 2 + (mask == "B")
            self.register_buffer("mask", live.view(height, width).float())

        def forward(self, x):
            return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)

    class Scan(nn.Module):
        """The parameters of one LSTM over maps."""

        def __init__(self, taps, input_to_state):
            super().__init__()
            self.kernel = nn.Parameter(0.1 * torch.randn(4 * c.hidden, c.hidden, taps))
            self.h0, self.c0 = (nn.Parameter(torch.zeros(c.hidden, c.size)) for _ in "hc")
            self.input_to_state = input_to_state

    class RowBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = Scan(3, MaskedConv2d(2 * c.hidden, 4 * c.hidden, (1, 3), "B"))
            self.up = nn.Conv2d(c.hidden, 2 * c.hidden, 1)

        def forward(self, x):
            scan = self.lstm
            return x + self.up(row_lstm(scan.input_to_state(x), scan.kernel, scan.h0, scan.c0))

    class DiagonalBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.halves = nn.ModuleList(
                Scan(2, nn.Conv2d(2 * c.hidden, 4 * c.hidden, 1)) for _ in ("left", "right")
            )
            self.up_left = nn.Conv2d(c.hidden, 2 * c.hidden, 1)
            self.up_right = nn.Conv2d(c.hidden, 2 * c.hidden, 1, bias=False)

        def forward(self, x):
            left, right = (half.input_to_state(x) for half in self.halves)
            kernels, h0, c0 = (
                torch.stack([getattr(half, name) for half in self.halves])
                for name in ("kernel", "h0", "c0")
            )
            left, right = diagonal_lstm(torch.stack([left, right.flip(3)]), kernels, h0, c0)
            # The right half, mirrored back, comes from the row above.
            right = F.pad(right.flip(3)[:, :, :-1], (0, 0, 1, 0))
            return x + self.up_left(left) + self.up_right(right)

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            block = {"row": RowBlock, "diagonal": DiagonalBlock}[c.kind]
            self.first = MaskedConv2d(1, 2 * c.hidden, (FIRST, FIRST), "A")
            self.blocks = nn.Sequential(*(block() for _ in range(c.layers)))
            self.head = nn.Sequential(
                nn.ReLU(), nn.Conv2d(2 * c.hidden, c.head, 1),
                nn.ReLU(), nn.Conv2d(c.head, c.head, 1),
                nn.ReLU(), nn.Conv2d(c.head, 1, 1),
            )  # fmt: skip

        def forward(self, x):
            logits = self.head(self.blocks(self.first(2 * x - 1)))
            return F.binary_cross_entropy_with_logits(logits, x)

    return Twin()


tinygen_step, torch_step, pair = steps_of(network, twin, RECIPE)
