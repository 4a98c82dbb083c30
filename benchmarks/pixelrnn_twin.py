"""PixelRNN in PyTorch as a good user of it writes the scans, with the weights of a tinygen model.

The map is skewed once (a pad and two views), both directions of the Diagonal BiLSTM go through one
batched product per diagonal, and a row of the Row LSTM is one conv1d. Masks are multiplied into
full kernels, the way masked convolutions are written everywhere.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tinygen.models import pixelrnn as ours


def parameter(value) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value.data).contiguous())


class MaskedConv2d(nn.Module):
    """The full kernel times its mask."""

    def __init__(self, layer):
        super().__init__()
        weight = torch.zeros(layer.out_channels, layer.in_channels, *layer.kernel_size)
        mask = torch.zeros_like(weight)
        for index, (kh, kw) in enumerate(layer.taps):
            weight[:, :, kh, kw] = torch.tensor(layer.weight.data[:, :, index])
            live = 1 if layer.mask is None else torch.tensor(layer.mask.data[:, :, index])
            mask[:, :, kh, kw] = live
        self.weight, self.padding = nn.Parameter(weight), layer.padding
        self.register_buffer("mask", mask)
        self.bias = None if layer.bias is None else parameter(layer.bias)

    def forward(self, x):
        # A 1 × 1 kernel of one colour has nothing to mask.
        weight = self.weight if self.weight[0, 0].numel() == 1 else self.weight * self.mask
        return F.conv2d(x, weight, self.bias, padding=self.padding)


def cell(a, c):
    """Gates i, f, g, o in the last axis."""
    i, f, g, o = a.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class RowBlock(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.input, self.up = MaskedConv2d(block.lstm.input_to_state), MaskedConv2d(block.up)
        self.kernel, self.h0, self.c0 = (
            parameter(p) for p in (block.lstm.state_to_state, block.lstm.h0, block.lstm.c0)
        )

    def forward(self, x):
        h, c = (s.expand(len(x), -1, -1) for s in (self.h0, self.c0))
        c = c.transpose(1, 2)
        rows = []
        for z in self.input(x).unbind(2):
            a = z + F.conv1d(h, self.kernel, padding=self.kernel.shape[2] // 2)
            h, c = cell(a.transpose(1, 2), c)
            h = h.transpose(1, 2)
            rows.append(h)
        return x + self.up(torch.stack(rows, 2))


class DiagonalBlock(nn.Module):
    def __init__(self, block):
        super().__init__()
        halves = block.lstm.left, block.lstm.right
        self.inputs = nn.ModuleList(MaskedConv2d(half.input_to_state) for half in halves)
        # (4h, h, 2) each to (direction, h above and h behind, 4h)
        kernels = torch.stack([torch.tensor(half.state_to_state.data) for half in halves])
        self.kernel = nn.Parameter(kernels.permute(0, 3, 2, 1).flatten(1, 2).contiguous())
        self.h0, self.c0 = (
            nn.Parameter(torch.stack([torch.tensor(getattr(half, s).data.T) for half in halves]))
            for s in ("h0", "c0")
        )
        self.up_left, self.up_right = MaskedConv2d(block.up_left), MaskedConv2d(block.up_right)

    def forward(self, x):
        n, _, height, width = x.shape
        left, right = (conv(x) for conv in self.inputs)
        z = torch.stack([left, right.flip(3)])  # (2, N, 4h, H, W)
        steps = width + height - 1
        z = F.pad(z, (0, height)).flatten(3)[..., : height * steps]
        z = z.reshape(2, n, -1, height, steps).permute(4, 0, 1, 3, 2).contiguous()
        h0, c0 = (s[:, None].expand(2, n, height, -1) for s in (self.h0, self.c0))
        h, c = h0, c0
        reached = torch.ones(height, steps).triu().bool()[..., None]
        columns = []
        for t in range(steps):
            window = torch.cat([F.pad(h[:, :, :-1], (0, 0, 1, 0)), h], -1)
            a = torch.baddbmm(z[t].flatten(1, 2), window.flatten(1, 2), self.kernel)
            new_h, new_c = cell(a.view(2, n, height, -1), c)
            h, c = torch.where(reached[:, t], new_h, h0), torch.where(reached[:, t], new_c, c0)
            columns.append(h)
        h = F.pad(torch.stack(columns, -1).transpose(2, 3).flatten(3), (0, height))
        left, right = h.reshape(2, n, -1, height, width + height)[..., :width]
        right = F.pad(right.flip(3)[:, :, :-1], (0, 0, 1, 0))
        return x + self.up_left(left) + self.up_right(right)


class PixelRNN(nn.Module):
    """The twin of a grey model of two levels: -log p, the mean over images and pixels."""

    def __init__(self, model: ours.PixelRNN):
        super().__init__()
        blocks = {ours.RowBlock: RowBlock, ours.DiagonalBlock: DiagonalBlock}
        self.first = MaskedConv2d(model.body.first)
        self.blocks = nn.Sequential(*(blocks[type(block)](block) for block in model.body.blocks))
        self.head = nn.ModuleList(MaskedConv2d(layer) for layer in list(model.head)[1::2])

    def forward(self, x):
        maps = self.blocks(self.first(2 * x - 1))
        for layer in self.head:
            maps = layer(F.relu(maps))
        return F.binary_cross_entropy_with_logits(maps, x)
