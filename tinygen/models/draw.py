"""DRAW: a VAE that paints a picture in T strokes (Gregor et al. 2015, arXiv 1502.04623).

    x̂_t = x - σ(c_{t-1})                                what is still missing
    r_t = read(x, x̂_t, h_dec)                           a glimpse of it
    h_enc = LSTM(h_enc, [r_t, h_dec]),  z_t ~ q = N(μ(h_enc), σ²(h_enc))
    h_dec = LSTM(h_dec, z_t)
    c_t = c_{t-1} + write(h_dec)                        a stroke

    -ELBO = -log p(x | σ(c_T)) + Σ_t KL(q_t ‖ N(0, 1))

Only the last canvas is judged. A new picture takes the last two lines alone, with z_t ~ N(0, 1).
Without attention `read` is [x, x̂] and `write` a matrix; with it both act through a grid of n × n
Gaussian filters, whose place, stride, width and gain are read off h_dec.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .. import creation, nn, random
from .. import functional as F
from ..tensor import Tensor

__all__ = ["DRAW", "Attention", "Glimpse", "Window", "filterbank"]


class Window(NamedTuple):
    """Where a grid of filters lies on each image: (N, 1) each, in pixels that count from 0."""

    x: Tensor
    y: Tensor
    stride: Tensor
    log_variance: Tensor
    log_gain: Tensor


class Glimpse(NamedTuple):
    """One of the T steps: the canvas after it as logits (N, C, H, W), what was drawn from where.

    `kl` (N,), in nats, and `read` are None where nothing was looked at, the windows without
    attention.
    """

    canvas: Tensor
    z: Tensor
    kl: Tensor | None
    read: Window | None
    write: Window | None


def filterbank(centre, stride, log_variance, offsets, pixels):
    """n Gaussians on a line of A pixels, each of weight 1: (N, n, A).

    F[i, a] = exp(-(a - μ_i)² / 2σ²) / Z_i,    μ_i = centre + offset_i · stride    (eqs. 19-26)

    centre, stride, log_variance (N, 1); offsets (n,), pixels (A,). As a softmax over the pixels,
    it is exact where all exponentials would be zero: beyond the edge a filter sees the edge.
    """
    distance = pixels - F.unsqueeze(centre + offsets * stride, 2)
    sharpness = F.unsqueeze(F.exp(-log_variance) * -0.5, 2)
    return F.softmax(distance * distance * sharpness, -1)


class Attention(nn.Module):
    """A grid of size × size Gaussian filters on images (N, C, height, width), placed by a state.

    With parameters of 0 it is centred and spans the whole image.
    """

    def __init__(self, hidden: int, size: int, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width
        self.longest_stride = (max(height, width) - 1) / max(size - 1, 1)
        self.head = nn.Linear(hidden, 5)
        nn.init.zeros_(self.head.bias)
        for name, values in {
            "offsets": np.arange(size) - (size - 1) / 2,
            "rows": np.arange(height),
            "columns": np.arange(width),
        }.items():
            self.register_buffer(name, Tensor(values.astype(np.float32)))

    def window(self, h) -> Window:
        """What the state h (N, hidden) looks at; eqs. 21-24, where pixels count from 1."""
        x, y, log_variance, log_stride, log_gain = F.split(self.head(h), 1, 1)
        return Window(
            x=(x + 1) * ((self.width + 1) / 2) - 1,
            y=(y + 1) * ((self.height + 1) / 2) - 1,
            stride=F.exp(log_stride) * self.longest_stride,
            log_variance=log_variance,
            log_gain=log_gain,
        )

    def filters(self, window: Window):
        """F_y (N, 1, size, H) and F_x (N, 1, size, W): the same for all channels."""
        grid = window.stride, window.log_variance, self.offsets
        vertical = filterbank(window.y, *grid, self.rows)
        horizontal = filterbank(window.x, *grid, self.columns)
        return F.unsqueeze(vertical, 1), F.unsqueeze(horizontal, 1)

    def read(self, window: Window, images):
        """γ F_y x F_xᵀ: images (N, C, H, W) to patches (N, C, size, size), eq. 27."""
        vertical, horizontal = self.filters(window)
        patch = vertical @ images @ horizontal.transpose(-1, -2)
        return patch * F.reshape(F.exp(window.log_gain), -1, 1, 1, 1)

    def write(self, window: Window, patch):
        """1/γ F_yᵀ w F_x: patches (N, C, size, size) to images (N, C, H, W), eq. 29."""
        vertical, horizontal = self.filters(window)
        patch = patch * F.reshape(F.exp(-window.log_gain), -1, 1, 1, 1)
        return vertical.transpose(-1, -2) @ patch @ horizontal


class DRAW(nn.Module):
    """Images (N, *image_shape) in T = `steps` glimpses; `read` and `write` are the sizes of the
    grids, None for no attention there.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        steps: int = 10,
        latent_dim: int = 10,
        hidden: int = 256,
        read: int | None = 5,
        write: int | None = 5,
    ):
        super().__init__()
        for name, value in (("steps", steps), ("read", read), ("write", write)):
            if value is not None and value < 1:
                raise ValueError(f"DRAW: {name}={value}; expected at least 1")
        self.image_shape = channels, height, width = tuple(image_shape)
        self.steps, self.latent_dim, self.hidden = steps, latent_dim, hidden
        self.reader = Attention(hidden, read, height, width) if read else None
        self.writer = Attention(hidden, write, height, width) if write else None
        self.patch_shape = (channels, write, write) if write else self.image_shape
        seen = 2 * channels * (read * read if read else height * width)
        self.encoder = nn.LSTMCell(seen + hidden, hidden)
        self.posterior = nn.Linear(hidden, 2 * latent_dim)
        self.decoder = nn.LSTMCell(latent_dim, hidden)
        self.patch = nn.Linear(hidden, int(np.prod(self.patch_shape)))
        self.blank = nn.Parameter(np.zeros(self.image_shape, np.float32))  # c_0

    def forward(self, x, noise=None):
        """-log p(x | z) (N,) and the KLs (T, N), in nats: their sum is -ELBO. x holds 0 and 1.

        `noise` (T, N, latent_dim) is drawn if it isn't given.
        """
        glimpses = list(self.look(x, noise))
        log_p = F.bernoulli_log_likelihood(glimpses[-1].canvas, x)
        return -log_p, F.stack([glimpse.kl for glimpse in glimpses])

    def look(self, x, noise=None) -> Iterator[Glimpse]:
        """Paint after a model x (N, C, H, W): z_t from the posterior. Options as for `forward`."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"DRAW: images {tuple(x.shape)}; expected (N, *image_shape) = "
                f"(N, {', '.join(map(str, self.image_shape))})"
            )
        if noise is None:
            size = self.steps, len(x), self.latent_dim
            noise = Tensor(random.normal(size, dtype=x.dtype, device=x.device))
        canvas, decoder = self._start(len(x))
        encoder = decoder
        for t in range(self.steps):
            h = decoder[0]
            both = F.cat([x, x - F.sigmoid(canvas)], 1)
            window = self.reader and self.reader.window(h)
            seen = self.reader.read(window, both) if self.reader else both
            encoder = self.encoder(F.cat([F.flatten(seen, 1), h], 1), encoder)
            mean, log_std = F.chunk(self.posterior(encoder[0]), 2, 1)
            z, kl = F.reparameterize(mean, log_std, noise[t])
            canvas, decoder, stroke = self._paint(canvas, decoder, z)
            yield Glimpse(canvas, z, kl, window, stroke)

    def draw(self, z) -> Iterator[Glimpse]:
        """Paint from codes z (T, N, latent_dim): N(0, 1) makes new pictures."""
        canvas, decoder = self._start(z.shape[1])
        for z_t in z:
            canvas, decoder, stroke = self._paint(canvas, decoder, z_t)
            yield Glimpse(canvas, z_t, None, None, stroke)

    def _start(self, n: int):
        """The blank canvas for n images, and the state of an LSTM before the first step."""
        weight = self.posterior.weight
        zeros = creation.zeros(n, self.hidden, dtype=weight.dtype, device=weight.device)
        return F.expand(self.blank, n, *self.image_shape), (zeros, zeros)

    def _paint(self, canvas, decoder, z):
        decoder = self.decoder(z, decoder)
        h = decoder[0]
        window = self.writer and self.writer.window(h)
        stroke = F.reshape(self.patch(h), -1, *self.patch_shape)
        if self.writer:
            stroke = self.writer.write(window, stroke)
        return canvas + stroke, decoder, window
