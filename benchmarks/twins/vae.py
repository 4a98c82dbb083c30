"""The VAE of dense layers, by its bound (k = 1) or by the importance-weighted one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from .binary import steps_of
from .common import Recipe


@dataclass(frozen=True)
class VAE:
    """Sizes, and the number of importance samples."""

    hidden: tuple[int, ...]
    latent_dim: int
    k: int = 1
    batch_size: int = 100
    size: int = 28


CASES = {
    "vae 784-500-20, batch 100": VAE((500,), 20),
    "iwae 784-200-200-50, k 5, batch 100": VAE((200, 200), 50, k=5),
}
SMALL = {
    "vae 784-500-20, batch 100": VAE((6,), 3, batch_size=4, size=4),
    "iwae 784-200-200-50, k 5, batch 100": VAE((6, 5), 3, k=2, batch_size=4, size=4),
}


def network(c: VAE, device: str):
    from tinygen.models import vae

    net = vae.VAE((1, c.size, c.size), c.latent_dim, hidden=c.hidden).to(device)
    return net, lambda x: vae.objective(net, x, k=c.k).loss


def twin(c: VAE):
    import torch
    from torch import nn
    from torch.nn import functional as F

    def dense(*sizes):
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers[:-1])

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = dense(c.size**2, *c.hidden, 2 * c.latent_dim)
            self.decoder = dense(c.latent_dim, *c.hidden[::-1], c.size**2)

        def forward(self, x, noise=None):
            x = x.flatten(1)
            mean, log_std = self.encoder(x).chunk(2, 1)
            if noise is None:
                noise = torch.randn(c.k, *mean.shape, device=x.device)
            return (self.bound if c.k == 1 else self.tighter_bound)(x, mean, log_std, noise)

        def bound(self, x, mean, log_std, noise):
            z = mean + log_std.exp() * noise[0]
            recon = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum()
            return (recon + kl) / len(x)

        def tighter_bound(self, x, mean, log_std, noise):
            z = mean + log_std.exp() * noise
            log_ratio = (0.5 * (z**2 - noise**2) - log_std).sum(2)
            logits, x = self.decoder(z), x.expand(c.k, -1, -1)
            losses = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(2)
            return math.log(c.k) - torch.logsumexp(-losses - log_ratio, 0).mean()

    return Twin()


def noise(c: VAE) -> tuple[int, ...]:
    return c.k, c.batch_size, c.latent_dim


tinygen_step, torch_step, pair = steps_of(network, twin, Recipe(lr=1e-3), noise)
