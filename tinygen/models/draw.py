"""DRAW: a VAE that paints a picture in T strokes (Gregor et al. 2015, arXiv 1502.04623).

    x̂_t = x - σ(c_{t-1})                                what is still missing
    r_t = read(x, x̂_t, h_dec)                           a glimpse of it
    h_enc = LSTM(h_enc, [r_t, h_dec]),  z_t ~ q = N(μ(h_enc), σ²(h_enc))
    h_dec = LSTM(h_dec, z_t)
    c_t = c_{t-1} + write(h_dec)                        a stroke

    -ELBO = -log p(x | σ(c_T)) + Σ_t KL(q_t ‖ N(0, 1))

Only the last canvas is judged. A new picture takes the last two lines alone, with z_t ~ N(0, 1).
Without attention `read` is [x, x̂] and `write` a matrix; with it both act through a grid of n × n
Gaussian filters, whose place, stride, width and gain are read off h_dec: `F.read_window`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .. import creation, nn, random
from .. import functional as F
from ..autograd import no_grad
from ..tensor import Tensor

__all__ = ["DRAW", "Glimpse", "place"]


class Glimpse(NamedTuple):
    """One of the T steps: the canvas after it as logits (N, C, H, W), what was drawn from where.

    `kl` (N,), in nats, and `read` are None where nothing was looked at; the windows (N, 5), as
    `F.read_window` takes them, without attention.
    """

    canvas: Tensor
    z: Tensor
    kl: Tensor | None
    read: Tensor | None
    write: Tensor | None


def place(window, size: int, height: int, width: int) -> tuple[np.ndarray, ...]:
    """Where the filters of a window (N, 5) lie on each image, in pixels that count from 0: the x
    and y of the grid's centre and the stride from one to the next, (N,) each."""
    x, y, _, log_stride, _ = window.numpy().T
    stride = np.exp(log_stride) * (max(height, width) - 1) / max(size - 1, 1)
    return (x + 1) * ((width + 1) / 2) - 1, (y + 1) * ((height + 1) / 2) - 1, stride


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
        self.read, self.write = read, write
        self.reader = nn.Linear(hidden, 5) if read else None
        self.writer = nn.Linear(hidden, 5) if write else None
        for window in filter(None, (self.reader, self.writer)):
            nn.init.zeros_(window.bias)  # centred on the image, which it spans
        self.patch_shape = (channels, write, write) if write else self.image_shape
        seen = 2 * channels * (read * read if read else height * width)
        self.encoder = nn.LSTMCell(seen + hidden, hidden)
        self.posterior = nn.Linear(hidden, 2 * latent_dim)
        self.decoder = nn.LSTMCell(latent_dim, hidden)
        self.patch = nn.Linear(hidden, int(np.prod(self.patch_shape)))
        self.blank = nn.Parameter(np.zeros(self.image_shape, np.float32))  # c_0

    def start_from(self, pixel_means: np.ndarray) -> None:
        """Set c_0 to the logits of the training set's pixel means (C, H, W)."""
        p = np.clip(pixel_means, 0.001, 0.999)
        with no_grad():
            self.blank.copy_(Tensor(np.log(p / (1 - p)).astype(np.float32)).to(self.blank.device))

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
            seen, window = F.cat([x, x - F.sigmoid(canvas)], 1), None
            if self.reader:
                window = self.reader(h)
                seen = F.read_window(seen, window, self.read)
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
        h, window = decoder[0], None
        stroke = F.reshape(self.patch(h), -1, *self.patch_shape)
        if self.writer:
            window = self.writer(h)
            stroke = F.write_window(stroke, window, *self.image_shape[1:])
        return canvas + stroke, decoder, window
