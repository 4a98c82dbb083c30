"""A variational auto-encoder whose posterior is made flexible by an inverse autoregressive flow
(Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling 2016, arXiv 1606.04934).

A sample of the Gaussian posterior goes through T invertible steps, each of them parallel over the
D latent numbers: its m and s for the i-th depend on the numbers before it and on a context h.

    z_0 = μ + e^{log σ} ε,  ε ~ N(0, I)                 z_t = f(z_{t-1}; m_t, s_t)
    log q(z_T | x) = Σ_i (log N(ε_i; 0, 1) - log σ_i) - Σ_t log |det ∂z_t / ∂z_{t-1}|

Every Jacobian is triangular: its determinant is the product of the diagonal. Every other step
takes the numbers in the opposite order, which is what the paper's reversal of z amounts to. The KL
has no closed form any more; log q - log p of the sample estimates it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .. import functional as F
from .. import nn, random
from ..autograd import no_grad
from ..distributions import Bernoulli, LogMeanExp, Normal, per_example
from ..nn.utils import weight_norm
from ..random import Generator
from ..tensor import Tensor
from .vae import check_samples

__all__ = [
    "IAF",
    "FlowVAE",
    "IAFStep",
    "ImportanceSampled",
    "conv_networks",
    "dense_networks",
    "free_bits",
    "normalise_weights",
]

FORGET_BIAS = 1.5  # of the gate: a step starts near the identity
SCALE = 0.1  # of m and s in the affine step


class IAFStep(nn.Module):
    """One step f: (z (N, D, ...), context) -> (f(z), log |det ∂f/∂z| (N,)).

    Gated (`F.iaf_gate`) or affine (`F.iaf_affine`); m and s (N, 2D, ...) are what the
    autoregressive `net` makes of z and the context: an `nn.MADE`, or a `MaskedConvs` for maps.
    """

    def __init__(self, net: nn.Module, *, gated: bool = True):
        super().__init__()
        self.net, self.gated = net, gated

    def forward(self, z, context=None):
        ms = self.net(z, context)
        if self.gated:
            return F.iaf_gate(z, ms, bias=FORGET_BIAS)
        return F.iaf_affine(z, ms, scale=SCALE)

    def inverse(self, y, context=None):
        """The z with f(z) = y, in D passes: each makes one number more right, the first in order
        first, since m and s of a number depend on right ones only."""
        z = y
        for _ in range(math.prod(y.shape[1:])):
            m, s = F.split(self.net(z, context), y.shape[1], 1)
            if self.gated:
                keep = F.sigmoid(s + FORGET_BIAS)
                z = (y - (1 - keep) * m) / keep
            else:
                z = y * F.exp(s * SCALE) + m * SCALE
        return z


class IAF(nn.Module):
    """`steps` steps with MADEs of two hidden layers of `width` units, in alternating order."""

    def __init__(
        self,
        latent_dim: int,
        context_features: int,
        *,
        steps: int = 2,
        width: int = 320,
        gated: bool = True,
    ):
        super().__init__()
        if steps < 1:
            raise ValueError(f"IAF: steps={steps}; at least 1")
        nets = (
            nn.MADE(
                latent_dim, [width, width], context_features=context_features, reverse=t % 2 == 1
            )
            for t in range(steps)
        )
        self.steps = nn.ModuleList(IAFStep(net, gated=gated) for net in nets)

    def forward(self, z, context=None):
        total = 0.0
        for step in self.steps:
            z, log_det = step(z, context)
            total = log_det + total
        return z, total

    def inverse(self, y, context=None):
        """The z that the steps take to y."""
        for step in reversed(list(self.steps)):
            y = step.inverse(y, context)
        return y


class ImportanceSampled(nn.Module):
    """A model with `log_weights(x, k)`: log p(x|z) (k, N) and log q - log p of the latents, (k, N)
    or, in groups, (k, N, groups). `binary` says whether its pixels are 0 or 1."""

    binary = True

    def log_likelihood(
        self, x, k: int = 128, *, rows: int = 2000, generator: Generator | None = None
    ) -> np.ndarray:
        """Estimates of log p(x) by k importance samples, (N,) float64, a lower bound on average.

        `rows` codes are decoded at a time; no more than that is in memory.
        """
        check_samples(k)
        estimates = []
        with no_grad():
            for part in x.split(rows):
                running, at_once = LogMeanExp(), max(1, rows // len(part))
                for done in range(0, k, at_once):
                    n = min(at_once, k - done)
                    log_px, log_ratio = self.log_weights(part, n, generator=generator)
                    of_groups = tuple(range(2, log_ratio.ndim))
                    running.add(log_px - F.sum(log_ratio, of_groups))
                estimates.append(running.value())
        return np.concatenate(estimates)


class FlowVAE(ImportanceSampled):
    """A VAE of binary images with an IAF, or with the Gaussian posterior alone (`flow` None).

    `encoder`: images (N, C, H, W) -> (N, 2D + H), which holds μ, log σ and the context, H being
    `context_features` (0 without a flow); `decoder`: (N, D) -> logits (N, C, H, W).
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, latent_dim: int, flow: IAF | None = None
    ):
        super().__init__()
        self.encoder, self.decoder, self.latent_dim, self.flow = encoder, decoder, latent_dim, flow

    def start_from(self, x) -> None:
        """Set the scales of a model with `normalise_weights` by its first batch of images.

        Every layer's outputs then have mean 0 and variance 1, those of the encoder and of the
        flow's nets a tenth of that spread: the posterior starts close to the prior, not at a KL
        of 100 nats, and the flow close to one fixed scale.
        """
        with no_grad():
            self.encoder(x)
            _shrink(self.encoder[-1])
            self.log_weights(x)
            for step in () if self.flow is None else self.flow.steps:
                _shrink(step.net.net[-1])

    def posterior(self, x, k: int = 1, *, generator: Generator | None = None):
        """k samples for each image: z and log q(z|x), (k·N, D) and (k·N,), the first samples of
        all images first."""
        check_samples(k)
        code = self.encoder(x)
        if k > 1:
            code = F.reshape(F.expand(code, (k, *code.shape)), (k * len(x), code.shape[1]))
        width = self.latent_dim
        mean, log_std = code[:, :width], code[:, width : 2 * width]
        draw = (generator or random.default_generator()).normal
        noise = Tensor(draw(mean.shape, dtype=mean.dtype, device=mean.device))
        z = mean + F.exp(log_std) * noise
        log_q = per_example(Normal().log_prob(noise)) - per_example(log_std)
        if self.flow is not None:
            z, log_det = self.flow(z, code[:, 2 * width :])
            log_q = log_q - log_det
        return z, log_q

    def decode(self, z) -> Bernoulli:
        """p(x|z) of codes (N, latent_dim); its `mean` are the images that one shows."""
        return Bernoulli(self.decoder(z))

    def log_weights(self, x, k: int = 1, *, generator: Generator | None = None):
        """log p(x|z) and log q(z|x) - log p(z) of k samples for each image, both (k, N).

        The mean of the second is the KL; the first minus the second are the importance weights.
        """
        z, log_q = self.posterior(x, k, generator=generator)
        log_px = F.bernoulli_log_likelihood(self.decoder(z), x)
        log_ratio = log_q - per_example(Normal().log_prob(z))
        return F.reshape(log_px, (k, len(x))), F.reshape(log_ratio, (k, len(x)))

    def reconstruct(self, x, *, generator: Generator | None = None):
        """The pixels' probabilities for one sample of the posterior, (N, C, H, W)."""
        with no_grad():
            return self.decode(self.posterior(x, generator=generator)[0]).mean

    def sample(self, n: int, *, generator: Generator | None = None):
        """n new images (n, C, H, W): the pixels' probabilities, at codes from the prior."""
        device = next(self.parameters()).device
        draw = (generator or random.default_generator()).normal
        with no_grad():
            return self.decode(Tensor(draw((n, self.latent_dim), device=device))).mean


def _shrink(layer: nn.Module) -> None:
    layer.weight_g.mul_(0.1)
    layer.bias.mul_(0.1)


def free_bits(kl, least: float):
    """Σ_j max(λ, mean over the batch of KL_j): kl (N,) is one group, (N, groups) are several.

    A group below λ nats has no gradient, so that it costs nothing to use it: that keeps a model
    from giving up its latents early (equation 15). For training alone, never for a figure.
    """
    return F.sum(F.maximum(F.mean(kl, 0), least))


def dense_networks(
    image_shape: tuple[int, int, int], code: int, latent_dim: int, *, hidden: int = 300
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of two hidden layers each; `code` is the number of encoder outputs."""
    pixels = math.prod(image_shape)

    def layers(before: int, after: int) -> list[nn.Module]:
        inner = [nn.Linear(before, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU()]
        return [*inner, nn.Linear(hidden, after)]

    encoder = nn.Sequential(nn.Flatten(), *layers(pixels, code))
    decoder = nn.Sequential(*layers(latent_dim, pixels), nn.Unflatten(1, image_shape))
    return encoder, decoder


class ResidualBlock(nn.Module):
    """shortcut(x) + 0.1 conv(ELU(conv(ELU(x)))) with 3 × 3 convolutions.

    `resize` "down" halves the maps (rounding up), "up" doubles them to `size`; then the shortcut
    is a convolution too, else the identity.
    """

    def __init__(self, before: int, after: int, resize: str | None = None, size: int = 0):
        super().__init__()

        def first():
            if resize == "up":
                even = 1 - size % 2
                return nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=even)
            return nn.Conv2d(before, after, 3, 2 if resize == "down" else 1, 1)

        self.first, self.second = first(), nn.Conv2d(after, after, 3, 1, 1)
        self.shortcut = None if resize is None else first()

    def forward(self, x):
        active = F.elu(x)
        branch = self.second(F.elu(self.first(active))) * SCALE
        return branch + (x if self.shortcut is None else self.shortcut(active))


def conv_networks(
    image_shape: tuple[int, int, int],
    code: int,
    latent_dim: int,
    *,
    maps: Sequence[int] = (16, 32, 32),
    hidden: int = 450,
) -> tuple[nn.Module, nn.Module]:
    """The paper's residual networks for MNIST (appendix B): `maps` after each halving, a block
    that keeps the size between two halvings, and a dense layer of `hidden` units."""
    channels, size, width = image_shape
    if size != width or size < 2 ** len(maps):
        raise ValueError(
            f"conv_networks: {len(maps)} halvings need square images of at least "
            f"{2 ** len(maps)} pixels, got {size} × {width}"
        )
    encoder, decoder, below = [], [], [channels, *maps]
    for level, (before, after) in enumerate(pairwise(below)):
        keep = [ResidualBlock(before, before)] if level else []
        encoder += [*keep, ResidualBlock(before, after, "down")]
        inner = before if level else after
        keep = [ResidualBlock(inner, inner)] if level else []
        decoder = [ResidualBlock(after, inner, "up", size), *keep, *decoder]
        size = -(-size // 2)
    units = maps[-1] * size * size
    encoder += [nn.ELU(), nn.Flatten(), nn.Linear(units, hidden), nn.ELU()]
    dense = [nn.Linear(latent_dim, hidden), nn.ELU(), nn.Linear(hidden, units)]
    innermost = nn.Unflatten(1, (maps[-1], size, size))
    to_logits = [nn.ELU(), nn.Conv2d(maps[0], channels, 3, 1, 1)]
    return (
        nn.Sequential(*encoder, nn.Linear(hidden, code)),
        nn.Sequential(*dense, innermost, *decoder, *to_logits),
    )


def normalise_weights(module: nn.Module) -> None:
    """Weight norm for every layer, whose outputs the first batch through it will set to mean 0
    and variance 1 (Salimans & Kingma 2016, section 3): `FlowVAE.start_from`."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.MaskedConv2d):
            if isinstance(layer, nn.MaskedConv2d) and layer.mask is not None:
                with no_grad():  # what the mask takes out must not count in the length
                    layer.weight.mul_(layer.mask)
            out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
            weight_norm(layer, dim=out, data_dependent_init=True)
