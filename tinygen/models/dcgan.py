"""DCGAN: adversarial nets of strided convolutions (Radford et al. 2015, arXiv 1511.06434).

A generator G maps a code z to an image, a discriminator D an image to a logit, log-odds of "real":

    min_G max_D  E_x log σ(D(x)) + E_z log(1 - σ(D(G(z))))

The paper's rules: strides in place of pooling; batch norm everywhere but at G's output and D's
input; ReLU in G with tanh at the end, leaky ReLU in D; no hidden dense layers (unless `hidden` is
given: at 28 × 28 they help); weights from N(0, 0.02²). The kernels are 4 × 4, which stride 2
divides, so that they overlap evenly; the authors' own 5 × 5 ones leave a checkerboard.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .. import functional as F
from .. import nn, random
from ..tensor import Tensor

__all__ = [
    "SMALLEST",
    "Discriminator",
    "Generator",
    "discriminator_loss",
    "generator_loss",
    "interpolate",
    "sample_codes",
]

SMALLEST = 8  # pixels: one halving, to 4 × 4


def map_sizes(image_size: int) -> list[int]:
    """Height of the maps between image and innermost one, which is 4 to 7 pixels high.

    >>> map_sizes(64)
    [64, 32, 16, 8, 4]
    >>> map_sizes(45)
    [45, 22, 11, 5]
    """
    if image_size < SMALLEST:
        raise ValueError(f"DCGAN: images of {image_size} pixels; at least {SMALLEST} are needed")
    sizes = [image_size]
    while sizes[-1] >= 2 * 4:
        sizes.append(sizes[-1] // 2)  # what a 4 × 4 convolution with stride 2, padding 1 gives
    return sizes


class Generator(nn.Module):
    """Codes (N, latent_dim) to images (N, channels, image_size, image_size) in (-1, 1).

    `width` is the number of maps at half the image's size; it doubles at each halving. `hidden`
    adds a dense layer of that size in front.

    >>> import numpy as np
    >>> import tinygen
    >>> G = Generator(image_size=28, channels=1, width=32, hidden=256)
    >>> G(tinygen.tensor(np.zeros((5, 100), np.float32))).shape
    (5, 1, 28, 28)
    """

    def __init__(
        self,
        latent_dim: int = 100,
        *,
        image_size: int = 64,
        channels: int = 3,
        width: int = 64,
        hidden: int | None = None,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        sizes = map_sizes(image_size)[::-1]  # 4, 8, ..., image_size
        maps = [width * 2**i for i in reversed(range(len(sizes) - 1))]
        innermost = (maps[0], sizes[0], sizes[0])
        if hidden:
            units = int(np.prod(innermost))
            layers = [
                nn.Linear(latent_dim, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, units, bias=False),
                nn.BatchNorm1d(units),
                nn.ReLU(),
                nn.Unflatten(1, innermost),
            ]
        else:
            layers = [
                nn.Unflatten(1, (latent_dim, 1, 1)),
                nn.ConvTranspose2d(latent_dim, maps[0], kernel_size=sizes[0], bias=False),
                nn.BatchNorm2d(maps[0]),
                nn.ReLU(),
            ]
        for inputs, outputs, size in zip(maps, [*maps[1:], channels], sizes[1:], strict=True):
            layers += [
                nn.ConvTranspose2d(
                    inputs, outputs, kernel_size=4, stride=2, padding=1,
                    output_padding=size % 2, bias=False,
                ),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]  # fmt: skip
        layers[-2:] = [nn.Tanh()]  # batch norm at the output makes the samples oscillate
        self.net = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, z):
        return self.net(z)


class Discriminator(nn.Module):
    """Images (N, channels, image_size, image_size) in [-1, 1] to logits (N,) of "real".

    The mirror image of `Generator`. Show it real and generated images in separate batches: batch
    norm would let it tell a mixture from its statistics.
    """

    def __init__(
        self,
        *,
        image_size: int = 64,
        channels: int = 3,
        width: int = 64,
        hidden: int | None = None,
    ):
        super().__init__()
        sizes = map_sizes(image_size)  # image_size, ..., 8, 4
        maps = [channels, *(width * 2**i for i in range(len(sizes) - 1))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(maps):
            layers += [
                nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        del layers[1]  # no batch norm on what comes from the image itself
        if hidden:
            layers += [
                nn.Flatten(),
                nn.Linear(maps[-1] * sizes[-1] ** 2, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.LeakyReLU(0.2),
                nn.Linear(hidden, 1, bias=False),
            ]
        else:
            layers += [nn.Conv2d(maps[-1], 1, kernel_size=sizes[-1], bias=False)]
        self.net = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, x):
        return self.net(x).flatten()


def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02²), batch norm's gains from N(1, 0.02²), as in the authors' code."""
    weight = module._parameters.get("weight")
    if weight is not None:
        norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        nn.init.normal_(weight, 1.0 if norm else 0.0, 0.02)


def discriminator_loss(real_logits, fake_logits):
    """-E log σ(D(x)) - E log(1 - σ(D(G(z)))), in nats; 2 log 2 where D knows nothing.

    By softplus(s) = log(1 + eˢ): a logarithm of a rounded σ would be infinite once D wins.
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits):
    """-E log σ(D(G(z))), in nats: the non-saturating loss (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def sample_codes(
    n: int,
    latent_dim: int,
    prior: str = "uniform",
    generator: random.Generator | None = None,
    *,
    device: str = "cpu",
) -> Tensor:
    """n codes (n, latent_dim) in float32: "uniform" on [-1, 1), as in the paper, or "normal"."""
    generator = generator or random.default_generator()
    if prior == "uniform":
        return Tensor(generator.uniform((n, latent_dim), -1.0, 1.0, device=device))
    if prior == "normal":
        return Tensor(generator.normal((n, latent_dim), device=device))
    raise ValueError(f"sample_codes: prior {prior!r} is neither 'uniform' nor 'normal'")


def interpolate(start, end, steps: int, prior: str = "uniform") -> np.ndarray:
    """Codes (steps, latent_dim) from `start` to `end` (latent_dim,), both included.

    A straight line for the uniform prior. For the normal one a great circle: nearly all its mass
    lies at a distance of √latent_dim from the origin, and a straight line would leave it.
    """
    start, end = np.asarray(start), np.asarray(end)
    t = np.linspace(0, 1, steps, dtype=start.dtype)[:, None]
    if prior == "uniform":
        return (1 - t) * start + t * end
    cosine = start @ end / (np.linalg.norm(start) * np.linalg.norm(end))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-4:  # (anti)parallel: every arc is as good, so is the line
        return (1 - t) * start + t * end
    return (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
