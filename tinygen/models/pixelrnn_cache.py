"""The layers of a PixelRNN a pixel at a time, with what later pixels will read kept: the FLOPs of
one forward pass for a whole image.

A masked convolution keeps the last rows of its input, an LSTM the states of the row above. The
right half of a Diagonal BiLSTM follows a row at a time, as soon as the row is finished, and so
does the vertical stack of a gated PixelCNN. A colour computes its own channels only, by the rule
that the masks go by.

All of it is NumPy on the host, whatever device the model is on: thousands of dependent steps on
matrices of a few thousand elements would mostly wait for a GPU's launches. Channels come first
and the n images last: the channels of a colour are one block, and elementwise work runs along the
images.

Columns of a row are visited from left to right. `pixel(j, x, colour)` takes the input (C, n) of
column j to the output there, of which the channels of that colour are right (None: all). Those of
earlier colours were computed before; in those of later ones something else still stands, which
weights of 0 keep away from all that is computed now. `end_row` comes when all columns are
complete, for what reads whole rows.
"""

from __future__ import annotations

import numpy as np

from .. import nn
from ..autograd import no_grad
from ..functional import matmul
from ..tensor import Tensor
from .pixelrnn import CNNBlock, DiagonalBlock, GatedBlock, PixelRNN, RowBlock

__all__ = ["CachedNetwork"]


class CachedNetwork:
    """A whole model, a pixel at a time; with the context (n, c, H, W) of one that needs it."""

    def __init__(self, model: PixelRNN, n: int, context: Tensor | None = None):
        self.model = model
        body, gated = model.body, model.kind == "gated"
        layers = [*body.blocks] if gated else [body.first, *body.blocks]
        self.layers = [_CACHED[type(layer)](layer, n, model.width) for layer in layers]
        first = self.layers[0]
        self.of_image = [first.vertical, first.horizontal] if gated else [first]
        with no_grad():
            biases = model.biases(context)
        # (H, W, 2h, n) for each layer but the first, the one that sees the image.
        self.biases = [None] + [b if b is None else _host(b).transpose(2, 3, 1, 0) for b in biases]
        self.skips = [_Conv(layer, n, model.width) for layer in model.skips]
        self.head = [_Conv(layer, n, model.width) for layer in list(model.head)[1::2]]
        self.maps = np.empty(0)

    def begin_row(self, i: int) -> None:
        self.i = i
        for layer in self.layers:
            layer.begin_row(i)

    def put(self, j: int, colour: int, levels: np.ndarray) -> None:
        """Show the network a colour (n,) of column j."""
        for conv in self.of_image:
            conv.row[j, colour] = self.model.scaled(levels)

    def pixel(self, j: int, colour: int | None) -> None:
        """Compute the maps of column j, of one colour."""
        x = self.of_image[0].row[j]
        maps = []
        for layer, bias in zip(self.layers, self.biases, strict=True):
            x = layer.pixel(j, x if bias is None else x + bias[self.i, j], colour)
            maps.append(x)
        for skip, early in zip(self.skips, maps[:-1], strict=False):  # if there are any
            x = x + skip.of(early, colour)
        self.maps = x

    def logits(self, colour: int) -> np.ndarray:
        """Those (K, n) of the pixel computed last."""
        x = self.maps
        for layer in self.head:
            x = layer.of(_relu(x), colour)
        k = self.model.logits_per_pixel
        return x[colour * k : (colour + 1) * k]

    def end_row(self) -> None:
        row = self.of_image[0].row
        for layer in self.layers:
            row = layer.end_row(row)


class _Conv:
    """A masked convolution with the rows (rows, width and margins, C, n) it still reads."""

    def __init__(self, layer: nn.MaskedConv2d, n: int, width: int):
        weight = _host(layer.masked_weight())
        outputs, inputs, _ = weight.shape
        up, side = layer.padding
        self.width, self.n = width, n
        self.rows = np.zeros((up + 1, width + 2 * side, inputs, n), weight.dtype)
        self.row = self.rows[-1, side : side + width]  # the current one, without its margins
        self.kh, self.kw = np.array(layer.taps).T
        self.weight = np.ascontiguousarray(weight.swapaxes(1, 2)).reshape(outputs, -1)
        self.bias = np.zeros((outputs, 1), weight.dtype)
        if layer.bias is not None:
            self.bias[:, 0] = _host(layer.bias)
        self.output = np.zeros((outputs, n), weight.dtype)
        # A colour's outputs lie together in each gate.
        colours = nn.colour_of(outputs // layer.gates, layer.colours)
        self.parts = {
            colour: self._part(np.flatnonzero(colours == colour), layer.gates)
            for colour in range(layer.colours)
        }
        self.parts[None] = self._part(np.arange(len(colours)), layer.gates)

    def _part(self, channels: np.ndarray, gates: int) -> tuple:
        """The weight and the bias of some channels of each gate, and where their outputs go."""
        of_gates = [
            x.reshape(gates, -1, x.shape[1]) for x in (self.weight, self.bias, self.output)
        ]
        part = slice(channels[0], channels[-1] + 1)
        weight, bias, output = (x[:, part] for x in of_gates)
        return weight.reshape(-1, weight.shape[2]), bias, output

    def begin_row(self, i: int) -> None:
        self.rows[:-1] = self.rows[1:]

    def of(self, window: np.ndarray, colour: int | None) -> np.ndarray:
        """(O, n) of a window (L · C, n); a layer without colours computes all channels."""
        weight, bias, output = self.parts.get(colour, self.parts[None])
        output[...] = matmul(weight, window).reshape(output.shape) + bias
        return self.output

    def at(self, j: int, colour: int | None) -> np.ndarray:
        """(O, n) at column j of the current row, as far as it is there."""
        return self.of(self.rows[self.kh, self.kw + j].reshape(self.weight.shape[1], -1), colour)

    def pixel(self, j: int, x: np.ndarray, colour: int | None) -> np.ndarray:
        """Enter the input (C, n) of column j, and compute there."""
        self.row[j] = x
        return self.at(j, colour)

    def end_row(self, row: np.ndarray | None) -> None:
        return None

    def whole_row(self) -> np.ndarray:
        """(W, O, n): all columns of the current row, as one product."""
        columns = np.arange(self.width)[:, None]
        windows = self.rows[self.kh, self.kw + columns].reshape(self.width, -1, self.n)
        outputs = matmul(self.weight, np.concatenate(windows, axis=1)) + self.bias
        return np.stack(np.split(outputs, self.width, axis=1))


class _CNN:
    """A block of the PixelCNN: it keeps what its 3 × 3 convolution reads."""

    def __init__(self, block: CNNBlock, n: int, width: int):
        self.down, self.conv, self.up = (
            _Conv(layer, n, width) for layer in (block.down, block.conv, block.up)
        )

    def begin_row(self, i):
        self.conv.begin_row(i)

    def pixel(self, j, x, colour):
        h = _relu(self.down.of(_relu(x), colour))
        return x + self.up.of(_relu(self.conv.pixel(j, h, colour)), colour)

    def end_row(self, row):
        return None


class _Row:
    """A block of the Row LSTM: what the row above says to a whole row is computed at its start."""

    def __init__(self, block: RowBlock, n: int, width: int):
        lstm = block.lstm
        self.input, self.up = (_Conv(x, n, width) for x in (lstm.input_to_state, block.up))
        kernels = _host(lstm.state_to_state)
        self.taps, hidden = kernels.shape[2], kernels.shape[1]
        self.kernel = kernels.swapaxes(1, 2).reshape(4 * hidden, -1)
        side = self.taps // 2
        self.h = np.zeros((width + 2 * side, hidden, n), kernels.dtype)
        self.h_row = self.h[side : side + width]
        self.h_row[...] = _host(lstm.h0).T[:, :, None]
        self.c = np.repeat(_host(lstm.c0).T[:, :, None], n, 2)

    def begin_row(self, i):
        self.input.begin_row(i)
        self.c_above = self.c.copy()
        windows = np.concatenate([self.h[k : k + len(self.c)] for k in range(self.taps)], 1)
        self.from_above = self.kernel @ windows

    def pixel(self, j, x, colour):
        a = self.input.pixel(j, x, colour) + self.from_above[j]
        self.h_row[j], self.c[j] = _cell(a, self.c_above[j])
        return x + self.up.of(self.h_row[j], colour)

    def end_row(self, row):
        return None


class _Diagonal:
    """A block of the Diagonal BiLSTM: the left half by pixels, the right half by rows."""

    def __init__(self, block: DiagonalBlock, n: int, width: int):
        self.left, self.right = block.lstm.left, block.lstm.right
        self.input, self.input_right = (
            _Conv(half.input_to_state, n, width) for half in (self.left, self.right)
        )
        self.up_left, self.up_right = (
            _Conv(layer, n, width) for layer in (block.up_left, block.up_right)
        )
        dtype, hidden = self.input.weight.dtype, self.left.hidden_size
        self.kernel, self.kernel_right = (
            np.ascontiguousarray(_host(half.state_to_state).transpose(2, 0, 1))
            for half in (self.left, self.right)
        )
        # Of the left half the row above and the current one, with the initial state in front.
        self.h_above, self.h, self.c = np.zeros((3, 1 + width, hidden, n), dtype)
        self.h_right = np.zeros((width, hidden, n), dtype)  # of the row above
        self.from_right = np.zeros((width, 2 * hidden, n), dtype)

    def begin_row(self, i):
        self.i = i
        self.h_above, self.h = self.h, self.h_above
        self.h[0], self.c[0] = (_host(x)[:, i, None] for x in (self.left.h0, self.left.c0))

    def pixel(self, j, x, colour):
        if not colour:  # once for all colours: it reads finished pixels only
            above, behind = self.kernel
            self.a = above @ self.h_above[1 + j] + behind @ self.h[j]
        z = self.input.pixel(j, x, colour)
        self.h[1 + j], self.c[1 + j] = _cell(z + self.a, self.c[j])
        return x + self.up_left.of(self.h[1 + j], colour) + self.from_right[j]

    def end_row(self, row):
        """The right half: it needs the whole row, and is read in the next one."""
        above, behind = self.kernel_right
        self.input_right.row[...] = self.input.row
        a = self.input_right.whole_row() + above @ self.h_right
        h, c = (_host(x)[:, self.i, None] for x in (self.right.h0, self.right.c0))
        h = np.repeat(h, a.shape[2], 1)
        for j in reversed(range(len(a))):
            h, c = _cell(a[j] + behind @ h, c)
            self.h_right[j] = h
        self.from_right = self.up_right.weight @ self.h_right
        return None


class _Gated:
    """A block of the gated PixelCNN: the horizontal stack by pixels, the vertical one by rows."""

    def __init__(self, block: GatedBlock, n: int, width: int):
        self.is_first = block.first
        self.vertical, self.across, self.horizontal, self.up = (
            _Conv(layer, n, width)
            for layer in (block.vertical, block.across, block.horizontal, block.up)
        )
        self.from_above = np.zeros((width, *self.across.output.shape), self.up.weight.dtype)

    def begin_row(self, i):
        self.vertical.begin_row(i)

    def pixel(self, j, x, colour):
        a = self.horizontal.pixel(j, x, colour) + self.from_above[j]
        y = self.up.of(_gate(a), colour)
        return y.copy() if self.is_first else x + y

    def end_row(self, row):
        """The vertical stack: its layers follow each other, and are read in the next row."""
        self.vertical.row[...] = row
        a = self.vertical.whole_row()
        self.from_above = self.across.weight @ a
        return _gate(a)


_CACHED = {
    nn.MaskedConv2d: _Conv,
    CNNBlock: _CNN,
    RowBlock: _Row,
    DiagonalBlock: _Diagonal,
    GatedBlock: _Gated,
}


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # without overflow


def _gate(a: np.ndarray) -> np.ndarray:
    """tanh of the first half of the channels (..., C, n) times σ of the second."""
    t, s = np.split(a, 2, -2)
    return np.tanh(t) * _sigmoid(s)


def _cell(a: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of an LSTM: gates (4h, n) in the order i, f, g, o and c (h, n) to (h', c')."""
    hidden = len(a) // 4
    i, f = np.split(_sigmoid(a[: 2 * hidden]), 2)
    c = f * c + i * np.tanh(a[2 * hidden : 3 * hidden])
    return _sigmoid(a[3 * hidden :]) * np.tanh(c), c
