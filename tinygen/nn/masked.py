"""Layers that see the past only: masked convolutions, Row LSTM and Diagonal BiLSTM (PixelRNN).

The past of a pixel is all rows above it and what lies left of it in its own row; of a colour, the
colours before it in the same pixel too. So that a colour can be told from another inside the
network, every map's channels are shared out among the colours: channel k of C belongs to colour
floor(colours · k / C), a rule that each layer follows, whatever C.
"""

from __future__ import annotations

import math

import numpy as np

from .. import functional as F
from ..functional.checks import Size, sizes
from ..tensor import Tensor
from . import init
from .module import Module, Parameter

__all__ = ["DiagonalBiLSTM", "DiagonalLSTM", "MaskedConv2d", "RowLSTM", "colour_of"]

MASKS = ("A", "B", "rows")


def colour_of(channels: int, colours: int) -> np.ndarray:
    """The colour, from 0 on, that each of the channels belongs to: floor(colours · k / C)."""
    return np.arange(channels) * colours // channels


class MaskedConv2d(Module):
    """A convolution that keeps the image's size and does not see the future.

    Of a kernel of KH × KW (odd) the rows above the centre and what lies left of it are alive. The
    centre is where the masks differ: an output of colour g sees the inputs of colours < g there
    with mask "A", for the image itself, and ≤ g with mask "B", for maps that were masked already.
    Mask "rows" has no colours and sees the whole centre row, for a stack that is shifted down by
    a row later (the vertical stack of the gated PixelCNN).

    (N, C, H, W) -> (N, O, H, W). The weight (O, C, L) has the L live taps only, in reading order.
    Where the centre is alive for some colours only, the buffer `mask`, of the weight's shape, is
    1 where it is. With `gates` the outputs are as many equal parts one after another, each with
    its own first to last colour.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *,
        mask: str = "B",
        colours: int = 1,
        gates: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        name = type(self).__name__
        self.kernel_size = sizes(name, "kernel_size", kernel_size, 2, least=1)
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"{name}: kernel_size={kernel_size} has no centre: it must be odd")
        if mask not in MASKS:
            raise ValueError(f"{name}: mask={mask!r} must be one of {', '.join(MASKS)}")
        if gates < 1 or out_channels % gates:
            raise ValueError(f"{name}: gates={gates} must divide out_channels={out_channels}")
        if colours < 1 or min(in_channels, out_channels // gates) < colours:
            raise ValueError(
                f"{name}: {colours} colours need at least as many channels, got in_channels="
                f"{in_channels} and out_channels={out_channels} in {gates} gates"
            )
        self.in_channels, self.out_channels, self.colours = in_channels, out_channels, colours
        self.mask_type, self.gates = mask, gates
        self.padding = tuple(k // 2 for k in self.kernel_size)
        live = self._live()
        height, width = self.kernel_size
        self.taps = [
            (kh, kw) for kh in range(height) for kw in range(width) if live[:, :, kh, kw].any()
        ]
        if not self.taps:
            raise ValueError(f"{name}: mask 'A' leaves nothing of a kernel of {self.kernel_size}")
        live = np.stack([live[:, :, kh, kw] for kh, kw in self.taps], axis=-1)
        # Channels last in memory, the order in which the kernels read weights.
        memory = np.empty((out_channels, len(self.taps), in_channels), np.float32)
        self.weight = Parameter(memory.swapaxes(1, 2))
        self.register_parameter(
            "bias", Parameter(np.empty(out_channels, np.float32)) if bias else None
        )
        self.register_buffer("mask", None if live.all() else Tensor(live.astype(np.float32)))
        self.reset_parameters()

    def _live(self) -> np.ndarray:
        """Whether each weight of the full kernel is alive, (O, C, KH, KW)."""
        shape = (self.out_channels, self.in_channels, *self.kernel_size)
        live = np.zeros(shape, bool)
        row, column = self.padding
        live[:, :, :row] = True
        live[:, :, row, :column] = True
        of_input = colour_of(self.in_channels, self.colours)
        of_output = np.tile(colour_of(self.out_channels // self.gates, self.colours), self.gates)[
            :, None
        ]
        if self.mask_type == "rows":
            live[:, :, row] = True
        elif self.mask_type == "A":
            live[:, :, row, column] = of_input < of_output
        else:
            live[:, :, row, column] = of_input <= of_output
        return live

    def reset_parameters(self) -> None:
        """Draw new starting values: uniform in ±1/√(live inputs)."""
        bound = 1 / math.sqrt(self.in_channels * len(self.taps))
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def masked_weight(self) -> Tensor:
        """The weight (O, C, L), 0 where the mask is."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, input):
        return F.masked_conv2d(
            input, self.masked_weight(), self.bias,
            taps=self.taps, kernel_size=self.kernel_size, padding=self.padding,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"mask={self.mask_type!r}, colours={self.colours}, gates={self.gates}, "
            f"bias={self.bias is not None}"
        )


class _Scan(Module):
    """An LSTM over maps: a masked input-to-state convolution and the scan's parameters.

    Gates in the order i, f, g, o; f's bias starts at 1, so that states last at first. The initial
    states of the `side` lines are learned.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_size: int,
        side: int,
        *,
        kernel_size: Size,
        taps: int,
        colours: int,
    ):
        super().__init__()
        self.in_channels, self.hidden_size, self.side = in_channels, hidden_size, side
        self.input_to_state = MaskedConv2d(
            in_channels, 4 * hidden_size, kernel_size, mask="B", colours=colours, gates=4
        )
        shape = (4 * hidden_size, hidden_size, taps)
        self.state_to_state = Parameter(np.empty(shape, np.float32))
        self.h0 = Parameter(np.zeros((hidden_size, side), np.float32))
        self.c0 = Parameter(np.zeros((hidden_size, side), np.float32))
        bound = 1 / math.sqrt(hidden_size * taps)
        init.uniform_(self.state_to_state, -bound, bound)
        init.ones_(self.input_to_state.bias[hidden_size : 2 * hidden_size].detach())

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.hidden_size}, {self.side}"


class RowLSTM(_Scan):
    """Maps (N, C, H, width) to states (N, hidden_size, H, width), from row to row.

    A state sees a triangle above its pixel, and of its own row what the 1 × 3 input convolution
    of mask B does; see `F.row_lstm`. `width` is that of the maps: the initial states are learned.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_size: int,
        width: int,
        *,
        kernel_size: int = 3,
        colours: int = 1,
    ):
        super().__init__(
            in_channels, hidden_size, width,
            kernel_size=(1, kernel_size), taps=kernel_size, colours=colours,
        )  # fmt: skip

    def forward(self, input):
        z = self.input_to_state(input)
        return F.row_lstm(z, self.state_to_state, self.h0, self.c0)


class DiagonalLSTM(_Scan):
    """Maps (N, C, height, W) to states (N, hidden_size, height, W), from diagonal to diagonal.

    A state sees all that lies above and left of its pixel, the pixel included (with `reverse`,
    above and right of it); see `F.diagonal_lstm`. `height` is that of the maps: the initial states
    are learned.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_size: int,
        height: int,
        *,
        reverse: bool = False,
        colours: int = 1,
    ):
        super().__init__(in_channels, hidden_size, height, kernel_size=1, taps=2, colours=colours)
        self.reverse = reverse

    def forward(self, input):
        z = self.input_to_state(input)
        return F.diagonal_lstm(z, self.state_to_state, self.h0, self.c0, reverse=self.reverse)


class DiagonalBiLSTM(Module):
    """Maps (N, C, height, W) to states (left, right), each (N, hidden_size, height, W).

    The right half reads what lies right of a pixel in its row, which is its future: it is moved
    down by one row, so that it tells of the row above, where all is past.
    """

    def __init__(self, in_channels: int, hidden_size: int, height: int, *, colours: int = 1):
        super().__init__()
        self.left, self.right = (
            DiagonalLSTM(in_channels, hidden_size, height, reverse=reverse, colours=colours)
            for reverse in (False, True)
        )

    def forward(self, input):
        return self.left(input), shift_down(self.right(input))


def shift_down(x):
    """Maps (N, C, H, W) moved down by a row: zeros come in, the last row is lost."""
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))
