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

import numpy as np

from .. import functional as F
from .. import nn, random
from ..autograd import no_grad
from ..distributions import Bernoulli, LogMeanExp, Normal, per_example
from ..nn.utils import weight_norm
from ..random import Generator
from ..tensor import Tensor
from .dcgan import interpolate
from .iaf_networks import conv_networks, dense_networks
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

    def log_scale(self, z, context=None):
        """log ∂f(z)_i / ∂z_i, of the shape of z: `forward` returns their sum."""
        _, s = F.split(self.net(z, context), z.shape[1], 1)
        return -F.softplus(-(s + FORGET_BIAS)) if self.gated else s * -SCALE

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
    or, in groups, (k, N, groups); with `latents(x)`, a list of Tensors (N, ...), samples of the
    posterior; and with `images(latents)`, what the decoder makes of such. `binary` says whether
    its pixels are 0 or 1."""

    binary = True

    def reconstruct(self, x, *, generator: Generator | None = None):
        """The mean of p(x|z) for one sample z of the posterior of each image, (N, C, H, W)."""
        with no_grad():
            return self.images(self.latents(x, generator=generator))

    def interpolate(self, start, end, steps: int, *, generator: Generator | None = None):
        """From each image of `start` to its partner in `end`, both (N, C, H, W), `steps` images:
        (N, steps, C, H, W). Samples of the posterior go along great circles, see
        `dcgan.interpolate`, those of all layers at once."""
        with no_grad():
            ends = (self.latents(x, generator=generator) for x in (start, end))
            paths = [
                Tensor(_paths(a.numpy(), b.numpy(), steps)).to(start.device)
                for a, b in zip(*ends, strict=True)
            ]
            return F.reshape(self.images(paths), (len(start), steps, *start.shape[1:]))

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
        z, log_q, context = self._base(x, k, generator)
        log_q = per_example(log_q)
        if self.flow is not None:
            z, log_det = self.flow(z, context)
            log_q = log_q - log_det
        return z, log_q

    def _base(self, x, k: int, generator: Generator | None):
        """z_0, log q of each of its numbers (both (k·N, D)), and the context."""
        check_samples(k)
        code = self.encoder(x)
        if k > 1:
            code = F.reshape(F.expand(code, (k, *code.shape)), (k * len(x), code.shape[1]))
        width = self.latent_dim
        mean, log_std, context = F.split(code, [width, width, code.shape[1] - 2 * width], 1)
        draw = (generator or random.default_generator()).normal
        noise = Tensor(draw(mean.shape, dtype=mean.dtype, device=mean.device))
        z = mean + F.exp(log_std) * noise
        return z, Normal().log_prob(noise) - log_std, context

    def latents(self, x, *, generator: Generator | None = None) -> list[Tensor]:
        """A sample of the posterior of each image, [(N, D)]."""
        return [self.posterior(x, generator=generator)[0]]

    def images(self, latents: list[Tensor]):
        """The pixels' probabilities (N, C, H, W) at codes [(N, D)]."""
        return self.decode(*latents).mean

    def kl_by_latent(self, x, *, generator: Generator | None = None) -> np.ndarray:
        """The share of each latent number in the KL, in nats, averaged over images: (D,).

        E[log N(ε_i) - log σ_i - Σ_t log ∂z_t,i / ∂z_t-1,i - log p(z_i)]: they add up to the KL.
        Without a flow each is a KL; with one the numbers depend on each other, and a share may
        even be negative.
        """
        with no_grad():
            z, nats, context = self._base(x, 1, generator)
            for step in () if self.flow is None else self.flow.steps:
                nats = nats - step.log_scale(z, context)
                z, _ = step(z, context)
            return F.mean(nats - Normal().log_prob(z), 0).numpy()

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

    def sample(self, n: int, *, generator: Generator | None = None):
        """n new images (n, C, H, W): the pixels' probabilities, at codes from the prior."""
        device = next(self.parameters()).device
        draw = (generator or random.default_generator()).normal
        with no_grad():
            return self.decode(Tensor(draw((n, self.latent_dim), device=device))).mean


def _paths(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """(N, ...) and (N, ...) -> (N · steps, ...)."""
    pairs = zip(start.reshape(len(start), -1), end.reshape(len(end), -1), strict=True)
    paths = np.concatenate([interpolate(a, b, steps, "normal") for a, b in pairs])
    return paths.reshape(-1, *start.shape[1:])


def _shrink(layer: nn.Module) -> None:
    layer.weight_g.mul_(0.1)
    layer.bias.mul_(0.1)


def free_bits(kl, least: float):
    """Σ_j max(λ, mean over the batch of KL_j): kl (N,) is one group, (N, groups) are several.

    A group below λ nats has no gradient, so that it costs nothing to use it: that keeps a model
    from giving up its latents early (equation 15). For training alone, never for a figure.
    """
    return F.sum(F.maximum(F.mean(kl, 0), least))


def normalise_weights(module: nn.Module) -> None:
    """Weight norm for every layer, whose outputs the first batch through it will set to mean 0
    and variance 1 (Salimans & Kingma 2016, section 3): `FlowVAE.start_from`."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.MaskedConv2d):
            out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
            weight_norm(layer, dim=out, data_dependent_init=True)
