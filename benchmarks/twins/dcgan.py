"""DCGAN: the discriminator on a real and a generated batch, then the generator.

Generated images serve both turns. The generator's turn needs no gradients of the discriminator's
weights, and computes none.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from .common import Pair, Step, Torch, copy_weights


@dataclass(frozen=True)
class DCGAN:
    """Sizes: the CPU preset of examples/dcgan.py at 28 pixels, the usual ones at 64."""

    image_size: int
    channels: int
    width: int
    hidden: int | None
    batch_size: int
    latent_dim: int = 100


CASES = {
    "dcgan 28x28, batch 128": DCGAN(28, 1, 32, 256, 128),
    "dcgan 64x64, batch 64": DCGAN(64, 3, 64, None, 64),
}
SMALL = {
    "dcgan 28x28, batch 128": DCGAN(28, 1, 2, 8, 4),
    "dcgan 64x64, batch 64": DCGAN(64, 1, 2, None, 4),
}
RATES = {"generator": 1e-3, "discriminator": 2e-4}
BETAS = (0.5, 0.999)


def generator(nn, c: DCGAN):
    """That of `tinygen.models.dcgan`, by the layers of either library."""
    if c.hidden:
        maps, size = 2 * c.width, c.image_size // 4
        return nn.Sequential(
            nn.Linear(c.latent_dim, c.hidden, bias=False), nn.BatchNorm1d(c.hidden), nn.ReLU(),
            nn.Linear(c.hidden, maps * size * size, bias=False),
            nn.BatchNorm1d(maps * size * size), nn.ReLU(),
            nn.Unflatten(1, (maps, size, size)),
            nn.ConvTranspose2d(maps, c.width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(c.width), nn.ReLU(),
            nn.ConvTranspose2d(c.width, c.channels, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
    layers, maps = [nn.Unflatten(1, (c.latent_dim, 1, 1))], 8 * c.width
    layers += [nn.ConvTranspose2d(c.latent_dim, maps, 4, 1, 0, bias=False)]
    layers += [nn.BatchNorm2d(maps), nn.ReLU()]
    while maps > c.width:
        layers += [nn.ConvTranspose2d(maps, maps // 2, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(maps // 2), nn.ReLU()]
        maps //= 2
    layers += [nn.ConvTranspose2d(maps, c.channels, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)


def discriminator(nn, c: DCGAN):
    """That of `tinygen.models.dcgan`, by the layers of either library."""
    layers = [nn.Conv2d(c.channels, c.width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    maps, size = c.width, c.image_size // 2
    last = 7 if c.hidden else 4
    while size > last:
        layers += [nn.Conv2d(maps, 2 * maps, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(2 * maps), nn.LeakyReLU(0.2)]
        maps, size = 2 * maps, size // 2
    if c.hidden:
        layers += [nn.Flatten(), nn.Linear(maps * size * size, c.hidden, bias=False)]
        layers += [nn.BatchNorm1d(c.hidden), nn.LeakyReLU(0.2), nn.Linear(c.hidden, 1, bias=False)]
    else:
        layers += [nn.Conv2d(maps, 1, 4, 1, 0, bias=False), nn.Flatten()]
    return nn.Sequential(*layers)


def images(c: DCGAN) -> np.ndarray:
    shape = (c.batch_size, c.channels, c.image_size, c.image_size)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def tinygen_step(c: DCGAN, device: str = "cpu") -> Step:
    import tinygen
    from tinygen import functional as F
    from tinygen import optim
    from tinygen.models.dcgan import Discriminator, Generator, sample_codes

    tinygen.manual_seed(0)
    sizes = {n: getattr(c, n) for n in ("image_size", "channels", "width", "hidden")}
    G, D = Generator(c.latent_dim, **sizes).to(device), Discriminator(**sizes).to(device)
    optimizers = (
        optim.Adam(net.parameters(), lr=lr, betas=BETAS)
        for net, lr in zip((G, D), RATES.values(), strict=True)
    )
    real = tinygen.Tensor(images(c)).to(device)

    def codes():
        return sample_codes(c.batch_size, c.latent_dim, device=device)

    return game(F.softplus, G, D, *optimizers, codes, real)


def torch_step(c: DCGAN, how: Torch) -> Step:
    import torch
    from torch import nn

    torch.manual_seed(0)
    G, D = how.net(generator(nn, c)), how.net(discriminator(nn, c))
    optimizers = (
        how.optimizer("Adam", net, lr=lr, betas=BETAS)
        for net, lr in zip((G, D), RATES.values(), strict=True)
    )
    real = how.images(images(c))

    def codes():
        return torch.rand(c.batch_size, c.latent_dim, device=real.device) * 2 - 1

    return game(nn.functional.softplus, G, D, *optimizers, codes, real, how.autocast)


def game(softplus, G, D, optimizer_g, optimizer_d, codes, real, autocast=nullcontext) -> Step:
    """One training step, D then G: the same lines for both libraries. Returns both losses."""

    def step():
        D.requires_grad_(True)
        with autocast():
            fake = G(codes())
            loss_d = discriminator_loss(softplus, D, real, fake)
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()
        D.requires_grad_(False)
        with autocast():
            loss_g = softplus(-D(fake)).mean()
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        return loss_d.detach(), loss_g.detach()

    return step


def discriminator_loss(softplus, D, real, fake):
    return softplus(-D(real)).mean() + softplus(D(fake.detach())).mean()


def pair(c: DCGAN) -> Pair:
    """Both turns' losses as one sum, so that every parameter of both networks has a gradient."""
    import torch

    import tinygen
    from tinygen import functional as F
    from tinygen import nn
    from tinygen.models.dcgan import Discriminator, Generator

    sizes = {n: getattr(c, n) for n in ("image_size", "channels", "width", "hidden")}
    ours = nn.ModuleList([Generator(c.latent_dim, **sizes), Discriminator(**sizes)])
    theirs = torch.nn.ModuleList([generator(torch.nn, c), discriminator(torch.nn, c)])
    copy_weights(ours, theirs)
    real = images(c)
    codes = np.random.default_rng(1).uniform(-1, 1, (c.batch_size, c.latent_dim))

    def loss(softplus, G, D, real, codes):
        fake = G(codes)
        return discriminator_loss(softplus, D, real, fake) + softplus(-D(fake)).mean()

    arrays = real, codes.astype(np.float32)
    our_loss = loss(F.softplus, *ours, *map(tinygen.Tensor, arrays))
    their_loss = loss(torch.nn.functional.softplus, *theirs, *map(torch.from_numpy, arrays))
    return Pair(ours, our_loss, theirs, their_loss)
