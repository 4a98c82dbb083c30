"""Drawing images from a PixelRNN: pixel by pixel, at the price of one forward pass in total.

`sample_naive` runs the whole network for every pixel and colour and throws nearly all of it away:
784 passes for an image of 28 × 28. `sample` computes what belongs to the pixel at hand and keeps
what later ones will read: of a masked convolution the last rows of its input, of an LSTM the
states of the row above. The right half of a Diagonal BiLSTM follows a row at a time, as soon as
the row is finished; so does the vertical stack of a gated PixelCNN. Of the channels, a colour
computes its own only, by the same rule that the masks go by.

Both draw by the same uniform numbers, so they give the same images. They work in NumPy on the
host, whatever device the model is on: thousands of dependent steps on matrices of a few thousand
elements would wait for a GPU's launches. Channels come first and the images of the batch last, so
that the channels of a colour are one block, and elementwise work runs along the batch.
"""

from __future__ import annotations

import numpy as np

from .. import nn, random
from ..autograd import no_grad
from ..functional import matmul
from ..tensor import Tensor
from .pixelrnn import CNNBlock, DiagonalBlock, GatedBlock, PixelRNN, RowBlock

__all__ = ["sample", "sample_naive"]

Sampled = tuple[np.ndarray, np.ndarray]


def sample(
    model: PixelRNN,
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
    draws = _Draws(model, n, generator, temperature, known, mask)
    network = _Network(model, n)
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
    return draws.result()


def sample_naive(
    model: PixelRNN,
    n: int,
    generator: random.Generator | None = None,
    *,
    temperature: float = 1.0,
    known: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Sampled:
    """The same as `sample` by a whole forward pass for each pixel and colour: slow, and plain."""
    draws = _Draws(model, n, generator, temperature, known, mask)
    device = next(model.parameters()).device
    with no_grad():
        for i, j in np.argwhere(~draws.known):
            for colour in range(model.channels):
                pixels = np.ascontiguousarray(draws.pixels.transpose(3, 2, 0, 1))
                logits = model(Tensor(pixels).to(device))[:, :, colour, int(i), int(j)]
                draws.draw(i, j, colour, logits.numpy().T)
    return draws.result()


class _Draws:
    """The images as far as they are drawn, (H, W, C, n), and the numbers to draw the rest by."""

    def __init__(self, model, n, generator, temperature, known, mask):
        size = model.height, model.width
        if n < 1 or not temperature > 0:
            raise ValueError(f"sample: n={n} and temperature={temperature} must be above 0")
        if (known is None) != (mask is None):
            raise ValueError("sample: a completion needs both known pixels and their mask")
        dtype = next(model.parameters()).dtype
        self.temperature = temperature
        self.pixels = np.zeros((*size, model.channels, n), dtype)
        self.log_prob = np.zeros_like(self.pixels)
        self.known = np.zeros(size, bool)
        if known is not None:
            known, self.known = np.asarray(known), np.asarray(mask, bool)
            if known.shape != (n, model.channels, *size) or self.known.shape != size:
                raise ValueError(
                    f"sample: known {known.shape} and mask {self.known.shape} must be "
                    f"{(n, model.channels, *size)} and {size}"
                )
            self.pixels[self.known] = known.transpose(2, 3, 1, 0)[self.known]
        generator = generator or random.default_generator()
        self.uniform = generator.uniform(self.pixels.shape, dtype=dtype)

    def draw(self, i: int, j: int, colour: int, logits: np.ndarray) -> np.ndarray:
        """Draw a pixel's colour by logits (K, n): the levels (n,)."""
        logits = logits / self.temperature
        if len(logits) == 1:  # the logit of a 1
            logits = np.concatenate([np.zeros_like(logits), logits])
        log_p = logits - logits.max(0)
        log_p -= np.log(np.exp(log_p).sum(0))
        # The level whose part of [0, 1) the uniform number falls into; rounding must not make
        # one more of them.
        level = (self.uniform[i, j, colour] >= np.cumsum(np.exp(log_p), 0)[:-1]).sum(0)
        self.pixels[i, j, colour] = level
        self.log_prob[i, j, colour] = np.take_along_axis(log_p, level[None], 0)[0]
        return self.pixels[i, j, colour]

    def result(self) -> Sampled:
        """(pixels, log_prob) as (n, C, H, W)."""
        return tuple(np.ascontiguousarray(x.transpose(3, 2, 0, 1)) for x in (
            self.pixels, self.log_prob))  # fmt: skip


# ------------------------------------------------------------------------------- cached layers
#
# Columns of a row are visited from left to right. `pixel(j, x, colour)` takes the input (C, n) of
# column j to the output there, of which the channels of that colour are right (None: all). Those
# of earlier colours were computed before; in those of later ones something else still stands,
# which weights of 0 keep away from all that is computed now. `end_row` comes when all columns are
# complete, for what reads whole rows.


class _Network:
    """A whole model, a pixel at a time."""

    def __init__(self, model: PixelRNN, n: int):
        self.model = model
        body, width = model.body, model.width
        self.blocks = [_CACHED[type(block)](block, n, width) for block in body.blocks]
        if model.kind == "gated":
            self.first = None
            self.of_image = [self.blocks[0].vertical, self.blocks[0].horizontal]
        else:
            self.first = _Conv(body.first, n, width)
            self.of_image = [self.first]
        self.head = [_Conv(layer, n, width) for layer in list(model.head)[1::2]]
        self.maps = np.empty(0)

    def begin_row(self, i: int) -> None:
        if self.first:
            self.first.begin_row()
        for block in self.blocks:
            block.begin_row(i)

    def put(self, j: int, colour: int, levels: np.ndarray) -> None:
        """Show the network a colour (n,) of column j."""
        for conv in self.of_image:
            conv.row[j, colour] = self.model.scaled(levels)

    def pixel(self, j: int, colour: int | None) -> None:
        """Compute the maps of column j, of one colour."""
        x = self.first.at(j, colour) if self.first else self.of_image[0].row[j]
        for block in self.blocks:
            x = block.pixel(j, x, colour)
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
        for block in self.blocks:
            row = block.end_row(row)


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

    def begin_row(self) -> None:
        self.rows[:-1] = self.rows[1:]

    def of(self, window: np.ndarray, colour: int | None) -> np.ndarray:
        """(O, n) of a window (L · C, n)."""
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

    def whole_row(self) -> np.ndarray:
        """(W, O, n): all columns of the current row, as one product."""
        columns = np.arange(self.width)[:, None]
        windows = self.rows[self.kh, self.kw + columns].reshape(self.width, -1, self.n)
        outputs = matmul(self.weight, np.concatenate(windows, axis=1)) + self.bias
        return np.stack(np.split(outputs, self.width, axis=1))


class _CNN:
    def __init__(self, block: CNNBlock, n: int, width: int):
        self.down, self.conv, self.up = (
            _Conv(layer, n, width) for layer in (block.down, block.conv, block.up)
        )

    def begin_row(self, i):
        self.conv.begin_row()

    def pixel(self, j, x, colour):
        h = _relu(self.down.of(_relu(x), colour))
        return x + self.up.of(_relu(self.conv.pixel(j, h, colour)), colour)

    def end_row(self, row):
        return None


class _Row:
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
        self.input.begin_row()
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
    def __init__(self, block: GatedBlock, n: int, width: int):
        self.is_first = block.first
        self.vertical, self.across, self.horizontal, self.up = (
            _Conv(layer, n, width)
            for layer in (block.vertical, block.across, block.horizontal, block.up)
        )
        self.from_above = np.zeros((width, *self.across.output.shape), self.up.weight.dtype)

    def begin_row(self, i):
        self.vertical.begin_row()

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


_CACHED = {CNNBlock: _CNN, RowBlock: _Row, DiagonalBlock: _Diagonal, GatedBlock: _Gated}


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
