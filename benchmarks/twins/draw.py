"""DRAW with and without attention, as examples/draw.py trains it."""

from __future__ import annotations

from dataclasses import dataclass

from .binary import steps_of
from .common import Recipe


@dataclass(frozen=True)
class DRAW:
    """Sizes; `window` is that of both grids of filters, None for whole pictures."""

    window: int | None
    glimpses: int = 10
    latent_dim: int = 10
    hidden: int = 256
    batch_size: int = 100
    size: int = 28


CASES = {
    "draw 28x28, attention 5x5, batch 100": DRAW(5),
    "draw 28x28, no attention, batch 100": DRAW(None),
}
TINY = {"glimpses": 3, "latent_dim": 2, "hidden": 7, "batch_size": 4, "size": 6}
SMALL = {
    "draw 28x28, attention 5x5, batch 100": DRAW(3, **TINY),
    "draw 28x28, no attention, batch 100": DRAW(None, **TINY),
}


def network(c: DRAW, device: str):
    from tinygen.models import draw

    net = draw.DRAW(
        (1, c.size, c.size), steps=c.glimpses, latent_dim=c.latent_dim, hidden=c.hidden,
        read=c.window, write=c.window,
    ).to(device)  # fmt: skip

    def loss(x):
        minus_log_p, kl = net(x)
        return minus_log_p.mean() + kl.sum(0).mean()

    return net, loss


def twin(c: DRAW):
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Attention(nn.Module):
        """A grid of Gaussian filters; images are batches of matrices."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(c.hidden, 5)
            self.register_buffer("offsets", torch.arange(c.window) - (c.window - 1) / 2)
            self.register_buffer("pixels", torch.arange(float(c.size)))

        def forward(self, h):
            """The filters F_y and F_x, (N, window, size) each, and log γ (N, 1, 1)."""
            x, y, log_variance, log_stride, log_gain = self.head(h).split(1, 1)
            stride = log_stride.exp() * ((c.size - 1) / max(c.window - 1, 1))
            centres = (torch.cat([y, x], 1) + 1) * ((c.size + 1) / 2) - 1
            means = centres[:, :, None] + (stride * self.offsets)[:, None]
            sharpness = -0.5 * torch.exp(-log_variance)
            distance = self.pixels - means[..., None]
            filters = torch.softmax(distance**2 * sharpness[..., None, None], 3)
            return *filters.unbind(1), log_gain[..., None]

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.blank = nn.Parameter(torch.zeros(1, c.size, c.size))
            self.reader, self.writer = (Attention() if c.window else None for _ in "rw")
            seen = 2 * (c.window or c.size) ** 2
            self.encoder = nn.LSTMCell(seen + c.hidden, c.hidden)
            self.posterior = nn.Linear(c.hidden, 2 * c.latent_dim)
            self.decoder = nn.LSTMCell(c.latent_dim, c.hidden)
            self.patch = nn.Linear(c.hidden, (c.window or c.size) ** 2)

        def forward(self, x, noise=None):
            if noise is None:
                noise = torch.randn(c.glimpses, len(x), c.latent_dim, device=x.device)
            x, canvas = x.squeeze(1), self.blank
            encoder = decoder = (x.new_zeros(len(x), c.hidden),) * 2
            codes = []
            for epsilon in noise:
                h = decoder[0]
                missing = x - torch.sigmoid(canvas)
                encoder = self.encoder(torch.cat([self.read(h, x, missing), h], 1), encoder)
                codes.append(self.posterior(encoder[0]))
                mean, log_std = codes[-1].chunk(2, 1)
                decoder = self.decoder(mean + log_std.exp() * epsilon, decoder)
                canvas = canvas + self.stroke(decoder[0])
            mean, log_std = torch.stack(codes).chunk(2, 2)
            kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum()
            recon = F.binary_cross_entropy_with_logits(canvas, x, reduction="sum")
            return (recon + kl) / len(x)

        def read(self, h, x, missing):
            if self.reader is None:
                return torch.cat([x.flatten(1), missing.flatten(1)], 1)
            vertical, horizontal, log_gain = self.reader(h)
            # Both pictures go through one product with each filter, side by side and row by row.
            rows = torch.bmm(vertical, torch.cat([x, missing], 2)).view(len(x), -1, c.size)
            patches = torch.bmm(rows, horizontal.transpose(1, 2)) * log_gain.exp()
            return patches.unflatten(1, (c.window, 2)).transpose(1, 2).flatten(1)

        def stroke(self, h):
            patch = self.patch(h)
            if self.writer is None:
                return patch.unflatten(1, (c.size, c.size))
            vertical, horizontal, log_gain = self.writer(h)
            patch = patch.unflatten(1, (c.window, c.window)) * torch.exp(-log_gain)
            return torch.bmm(torch.bmm(vertical.transpose(1, 2), patch), horizontal)

    return Twin()


def noise(c: DRAW) -> tuple[int, ...]:
    return c.glimpses, c.batch_size, c.latent_dim


tinygen_step, torch_step, pair = steps_of(network, twin, Recipe(lr=1e-3, clip=10.0), noise)
