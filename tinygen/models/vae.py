"""Variational autoencoder of binary images (Kingma & Welling 2013, arXiv 1312.6114).

A code z ~ p(z) = N(0, 1) becomes an image through p(x|z), Bernoulli pixels whose logits are the
decoder's output; the encoder's q(z|x) = N(mean, exp(log_std)²), independent in each latent, stands
in for the posterior p(z|x). Training raises a lower bound of log p(x):

    ELBO = E_q log p(x|z) - KL(q(z|x) ‖ p(z))              k = 1, the KL in closed form
    L_k  = E_q log 1/k Σ_i p(x, z_i) / q(z_i|x) >= ELBO    k > 1 (Burda et al. 2015, 1509.00519)

Log-probabilities are summed over the pixels and the latents and averaged over the images, in nats
per image. Images are zeros and ones (`distributions.binarize`); grey values in between would give
cross entropies, which are no likelihoods.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .. import functional as F
from .. import nn, random
from ..autograd import no_grad
from ..distributions import (
    Bernoulli,
    LogMeanExp,
    Normal,
    iwae_bound,
    kl_divergence,
)
from ..tensor import Tensor

__all__ = ["ACTIVATIONS", "NETS", "VAE", "Objective", "objective"]

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "softplus": nn.Softplus}
NETS = ("mlp", "conv")
INNERMOST = 4  # pixels of the smallest maps: 28 -> 14 -> 7, 32 -> 16 -> 8 -> 4


class VAE(nn.Module):
    """Encoder (N, C, H, W) -> (mean, log_std) of `latent_dim` latents, and a decoder back.

    `net` "mlp": dense layers of `hidden` units, the paper's is (500,). "conv": 4 × 4 convolutions
    with stride 2, `width` maps after the first and twice as many after each further one, then
    dense layers of `hidden` units. The decoder is the mirror image.

    >>> import tinygen
    >>> vae = VAE((1, 28, 28), latent_dim=20, hidden=(500,))
    >>> sum(p.size for p in vae.parameters())
    815824
    >>> vae.sample(5).shape
    (5, 1, 28, 28)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 20,
        *,
        net: str = "mlp",
        hidden: tuple[int, ...] = (500,),
        activation: str = "tanh",
        width: int = 32,
    ):
        super().__init__()
        self.image_shape, self.latent_dim = tuple(image_shape), latent_dim
        if net not in NETS or activation not in ACTIVATIONS:
            raise ValueError(
                f"VAE: net={net!r} must be one of {', '.join(NETS)}, "
                f"activation={activation!r} one of {', '.join(ACTIVATIONS)}"
            )
        if not hidden or min(*hidden, latent_dim, width) < 1:
            raise ValueError(
                f"VAE: hidden={hidden}, latent_dim={latent_dim}, width={width}: expected at least "
                "one hidden layer, and no size below 1"
            )
        act = ACTIVATIONS[activation]
        down, up, maps = [], [], self.image_shape
        if net == "conv":
            down, up, maps = _convolutions(self.image_shape, width, act)
        units = math.prod(maps)
        self.encoder = nn.Sequential(
            *down, nn.Flatten(), *_dense((units, *hidden), act),
            nn.Linear(hidden[-1], 2 * latent_dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            *_dense((latent_dim, *hidden[::-1]), act), nn.Linear(hidden[0], units),
            *([act()] if up else []), nn.Unflatten(1, maps), *up,
        )  # fmt: skip
        self._initialise()

    def _initialise(self) -> None:
        """Glorot's weights, biases 0; and an encoder that starts out close to the prior."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.encoder[-1].weight, gain=0.1)

    def start_from(self, pixel_means: np.ndarray) -> None:
        """Set the output's bias to the logits of the training set's pixel means (C, H, W).

        Otherwise the first hundreds of steps are spent on learning them.
        """
        output = [m for m in self.decoder if isinstance(m, nn.Linear | nn.ConvTranspose2d)][-1]
        if isinstance(output, nn.ConvTranspose2d):
            pixel_means = pixel_means.mean(axis=(1, 2))  # one bias for each channel
        p = np.clip(pixel_means, 0.001, 0.999).reshape(-1)
        bias = Tensor(np.log(p / (1 - p)).astype(np.float32)).to(output.bias.device)
        with no_grad():
            output.bias.copy_(bias)

    # ------------------------------------------------------------------- the two distributions

    def encode(self, x: Tensor) -> Normal:
        """q(z|x) of images (N, C, H, W): mean and log_std (N, latent_dim)."""
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"VAE: images of shape {tuple(x.shape)}, but this model was built for "
                f"(N, {', '.join(map(str, self.image_shape))})"
            )
        return Normal(*F.split(self.encoder(x), self.latent_dim, 1))

    def decode(self, z: Tensor) -> Bernoulli:
        """p(x|z) of codes (N, latent_dim); its `mean` are the images that one shows."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(
                f"VAE: codes of shape {tuple(z.shape)}, expected (N, {self.latent_dim})"
            )
        return Bernoulli(self.decoder(z))

    def elbo(
        self, x: Tensor, *, generator: random.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """log p(x|z) with one z ~ q(z|x), and KL(q(z|x) ‖ p(z)), both (N,): ELBO is the first
        minus the second."""
        q = self.encode(x)
        draw = (generator or random.default_generator()).normal
        noise = Tensor(draw(q.shape, dtype=x.dtype, device=x.device))
        z, kl = F.reparameterize(q.mean, q.log_std, noise)
        return F.bernoulli_log_likelihood(self.decode(z).logits, x), kl

    def log_weights(
        self, x: Tensor, k: int, *, generator: random.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log q(z|x) - log p(z) for k samples z ~ q(z|x), both (k, N).

        The first minus the second are the importance weights, as logarithms.
        """
        check_samples(k)
        return self._log_weights(self.encode(x), x, k, generator)

    def _log_weights(self, q: Normal, x, k, generator):
        z = q.sample((k,), generator=generator)
        codes = z.reshape(k * len(x), self.latent_dim)
        log_likelihood = F.bernoulli_log_likelihood(self.decode(codes).logits, x)
        log_ratio = (q.log_prob(z) - Normal().log_prob(z)).sum(axis=2)
        return log_likelihood.reshape(k, len(x)), log_ratio

    # ------------------------------------------------------------------------- what it is for

    def log_likelihood(
        self,
        x: Tensor,
        k: int = 5000,
        *,
        rows: int = 2000,
        generator: random.Generator | None = None,
    ) -> np.ndarray:
        """Estimates of log p(x) by k importance samples, (N,) float64, a lower bound on average.

        `rows` codes are decoded at a time; no more than that is in memory.
        """
        check_samples(k)
        estimates = []
        with no_grad():
            for part in x.split(rows):
                running, q = LogMeanExp(), self.encode(part)
                at_once = max(1, rows // len(part))
                for done in range(0, k, at_once):
                    n = min(at_once, k - done)
                    log_p, log_ratio = self._log_weights(q, part, n, generator)
                    running.add(log_p - log_ratio)
                estimates.append(running.value())
        return np.concatenate(estimates)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The pixels' probabilities at the mean of q(z|x), (N, C, H, W)."""
        with no_grad():
            return self.decode(self.encode(x).mean).mean

    def sample(self, n: int, *, generator: random.Generator | None = None) -> Tensor:
        """n new images (n, C, H, W): the pixels' probabilities, at codes from the prior."""
        device = next(self.parameters()).device
        draw = (generator or random.default_generator()).normal
        with no_grad():
            return self.decode(Tensor(draw((n, self.latent_dim), device=device))).mean

    def denoise(
        self,
        x: Tensor,
        flipped: float = 0.1,
        steps: int = 20,
        *,
        generator: random.Generator | None = None,
    ) -> Tensor:
        """The probabilities that pixels were ones, given that each of x was flipped by chance.

        `flipped` is that chance, between 0 and ½. See `restore`.
        """
        return self.restore(x, np.full(x.shape[1:], flipped), steps, generator=generator)

    def inpaint(
        self,
        x: Tensor,
        known: np.ndarray,
        steps: int = 20,
        *,
        generator: random.Generator | None = None,
    ) -> Tensor:
        """x with the pixels that are not `known` (a mask that broadcasts) as probabilities of 1.

        What x holds there is not looked at. See `restore`.
        """
        return self.restore(x, np.where(known, 0.0, 0.5), steps, generator=generator)

    def restore(
        self,
        x: Tensor,
        flipped: np.ndarray,
        steps: int = 20,
        *,
        generator: random.Generator | None = None,
    ) -> Tensor:
        """Images whose pixels were flipped with these probabilities: 0 is known, ½ is missing.

        A Markov chain towards p(image | x), in each of `steps` rounds z ~ q(z|image) and then
        image ~ p(image|z, x) ∝ p(image|z) p(x|image), which adds (2x - 1) log((1 - f) / f) to the
        logits. Returns the probabilities of its last round. (For missing pixels: Rezende et al.
        2014, arXiv 1401.4082, appendix F.)
        """
        if steps < 1 or not ((flipped >= 0) & (flipped <= 0.5)).all():
            raise ValueError(
                f"VAE: steps={steps}, flipped {flipped.min()} to {flipped.max()}: expected at "
                "least one step, and probabilities from 0 to 0.5"
            )
        with np.errstate(divide="ignore"):
            weight = Tensor(np.log((1 - flipped) / flipped).astype(x.dtype)).to(x.device)
        evidence = (x * 2 - 1) * weight
        with no_grad():
            pixels = Bernoulli(evidence)
            for _ in range(steps):
                z = self.encode(pixels.sample(generator=generator)).sample(generator=generator)
                pixels = Bernoulli(self.decode(z).logits + evidence)
            return pixels.mean

    def kl_by_latent(self, x: Tensor) -> np.ndarray:
        """KL(q(z|x) ‖ p(z)) of each latent, averaged over the images: (latent_dim,)."""
        with no_grad():
            return kl_divergence(self.encode(x), Normal()).mean(axis=0).cpu().numpy()

    def active_units(self, x: Tensor) -> int:
        """How many latents tell images apart: Var_x(E_q z) > 0.01 (Burda et al. 2015)."""
        with no_grad():
            return int((self.encode(x).mean.var(axis=0) > 0.01).cpu().numpy().sum())


class Objective(NamedTuple):
    """A training loss, and the two parts of the bound, averaged over images and samples."""

    loss: Tensor
    log_likelihood: Tensor
    kl: Tensor


def objective(vae: VAE, x: Tensor, *, beta: float = 1.0, k: int = 1) -> Objective:
    """-(E log p(x|z) - β KL) for k = 1 (Higgins et al. 2017 for β), -L_k for k > 1; per image."""
    check_samples(k)
    if k == 1:
        log_likelihood, kl = vae.elbo(x)
        log_likelihood, kl = log_likelihood.mean(), kl.mean()
        return Objective(kl * beta - log_likelihood, log_likelihood, kl)
    if beta != 1:
        raise ValueError(f"VAE: beta={beta} has no meaning for a bound of k={k} samples; use k=1")
    log_likelihood, log_ratio = vae.log_weights(x, k)
    loss = -iwae_bound(log_likelihood - log_ratio).mean()
    return Objective(loss, log_likelihood.mean(), log_ratio.mean())


def check_samples(k: int) -> None:
    """Raise ValueError unless k is a number of samples."""
    if k < 1:
        raise ValueError(f"VAE: k={k} importance samples; expected at least 1")


def _dense(sizes: tuple[int, ...], act: type[nn.Module]) -> list[nn.Module]:
    return [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), act())]


def _convolutions(image_shape: tuple[int, int, int], width: int, act: type[nn.Module]):
    """Layers that halve images down to INNERMOST pixels or a little more, those that undo it, and
    the shape in between."""
    channels, *size = image_shape
    if min(size) < 2 * INNERMOST:
        raise ValueError(
            f"VAE: images of {size[0]} × {size[1]} pixels; net='conv' needs at least "
            f"{2 * INNERMOST} × {2 * INNERMOST}"
        )
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    while min(size) >= 2 * INNERMOST:
        maps = 2 * channels if down else width
        # 4 × 4 with stride 2 and padding 1 gives ⌊n / 2⌋ pixels; back, an odd one is missing.
        odd = tuple(n % 2 for n in size)
        down += [nn.Conv2d(channels, maps, 4, stride=2, padding=1), act()]
        up[:0] = [
            nn.ConvTranspose2d(maps, channels, 4, stride=2, padding=1, output_padding=odd), act(),
        ]  # fmt: skip
        channels, size = maps, [n // 2 for n in size]
    return down, up[:-1], (channels, *size)
