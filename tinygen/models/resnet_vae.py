"""The ResNet VAE of the IAF paper for colour images, with bidirectional inference (Kingma et al.
2016, arXiv 1606.04934, section 6.2 and appendix A).

L layers, each with maps z_l of latents. The encoder goes up through all of them, without drawing
anything; generation and inference go down the same way, from a learned state at the top:

    prior       p(z_l | above) = N(pμ, e^{2 p log σ}), from the state on the way down
    posterior   q(z_l | x, above) = N(rμ + qμ, e^{2 (r log σ + q log σ)}), then an IAF step
                r from the way down, q from the way up, as the context of the flow is

Every layer adds a tenth of its result to the state. Pixels are discretised logistics around the
output, with one learned scale. In the authors' code the tenth is also the standard deviation that
outputs of convolutions start with; here they start with 1 and are multiplied by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .. import functional as F
from .. import nn, random
from ..autograd import no_grad
from ..distributions import DiscretizedLogistic, Normal, per_example
from ..random import Generator
from ..tensor import Tensor
from .iaf import SCALE, ImportanceSampled
from .iaf_networks import RESIDUAL_SCALE
from .vae import check_samples

__all__ = ["MaskedConvs", "ResNetVAE"]

LOWEST_LOG_SCALE = -7.0  # of the pixels: a narrower logistic is no better, and overflows


class MaskedConvs(nn.Module):
    """An autoregressive net for maps: (z (N, D, H, W), context (N, M, H, W)) -> (N, 2D, H, W).

    What m and s of a latent depend on are the pixels before its own in reading order (with
    `reverse`, after it) and the latents before it in its own. Masked 3 × 3 convolutions with
    hidden layers of M maps; the context is added before the first activation.
    """

    def __init__(self, latent_maps: int, hidden: Sequence[int], *, reverse: bool = False):
        super().__init__()
        if not hidden or any(n % latent_maps for n in hidden):
            raise ValueError(
                f"MaskedConvs: hidden={list(hidden)} must be one or more multiples of "
                f"{latent_maps} latent maps"
            )
        self.latent_maps, self.reverse = latent_maps, reverse
        sizes = [latent_maps, *hidden]
        self.hidden = nn.ModuleList(
            nn.MaskedConv2d(a, b, 3, mask="B", colours=latent_maps) for a, b in pairwise(sizes)
        )
        self.out = nn.MaskedConv2d(
            sizes[-1], 2 * latent_maps, 3, mask="A", colours=latent_maps, gates=2
        )

    def forward(self, z, context):
        if self.reverse:
            z, context = F.flip(z, 1, 2, 3), F.flip(context, 2, 3)
        h = F.elu(self.hidden[0](z) + context)
        for layer in list(self.hidden)[1:]:
            h = F.elu(layer(h))
        ms = self.out(h)
        if self.reverse:
            m, s = F.split(ms, self.latent_maps, 1)
            ms = F.cat([F.flip(m, 1, 2, 3), F.flip(s, 1, 2, 3)], 1)
        return ms


class Layer(nn.Module):
    """One layer of latents, on the way up and on the way down; `maps` of state, D of latents.

    At the `top` nothing goes further up. A layer that `halves` has latents and a state above of
    half the size: convolutions of stride 2, nearest neighbours for what goes past them.
    """

    def __init__(self, maps: int, latent_maps: int, hidden: int, *, top: bool, halves: bool):
        super().__init__()
        self.halves = halves
        self.up_parts = [latent_maps, latent_maps, maps, *([] if top else [maps])]
        self.up_in = nn.Conv2d(maps, sum(self.up_parts), 3, 2 if halves else 1, 1)
        self.up_out = None if top else nn.Conv2d(maps, maps, 3, padding=1)
        self.down_parts = 4 * [latent_maps] + 2 * [maps]
        self.down_in = nn.Conv2d(maps, sum(self.down_parts), 3, padding=1)
        if halves:
            self.down_out = nn.ConvTranspose2d(latent_maps + maps, maps, 3, 2, 1, 1)
        else:
            self.down_out = nn.Conv2d(latent_maps + maps, maps, 3, padding=1)
        self.flow = MaskedConvs(latent_maps, hidden * [maps]) if hidden else None

    def up(self, state):
        """The next state, and what the way down needs: qμ, q log σ, context."""
        found = F.split(self.up_in(F.elu(state)) * RESIDUAL_SCALE, self.up_parts, 1)
        if self.up_out is not None:
            shortcut = state[:, :, ::2, ::2] if self.halves else state
            state = shortcut + self.up_out(F.elu(found[3])) * RESIDUAL_SCALE
        return state, found[:3]

    def down(self, state, found=None, generator: Generator | None = None, z=None):
        """The next state, z, and the KL of each latent map (N, D).

        z is a sample of the posterior, after the flow; without `found`, from the way up, it is a
        draw from the prior, or what is given, and there is no KL.
        """
        p_mean, p_log_std, r_mean, r_log_std, context, h = F.split(
            self.down_in(F.elu(state)) * RESIDUAL_SCALE, self.down_parts, 1
        )
        prior, kl = Normal(p_mean, p_log_std), None
        if found is not None:
            q_mean, q_log_std, up_context = found
            q = Normal(r_mean + q_mean, r_log_std + q_log_std)
            z = q.sample(generator=generator)
            log_q = q.log_prob(z)
            if self.flow is not None:  # as `F.iaf_affine`, but with log q of each latent
                m, s = F.split(self.flow(z, context + up_context) * SCALE, z.shape[1], 1)
                z, log_q = (z - m) * F.exp(-s), log_q + s
            kl = F.sum(log_q - prior.log_prob(z), (2, 3))
        elif z is None:
            z = prior.sample(generator=generator)
        result = self.down_out(F.elu(F.cat([z, h], 1))) * RESIDUAL_SCALE
        shortcut = F.interpolate(state, scale_factor=2) if self.halves else state
        return shortcut + result, z, kl


class ResNetVAE(ImportanceSampled):
    """A VAE of images (N, C, H, W) with 256 levels from 0 to 1.

    `layers` layers of latents on each of `levels` levels, the first of half the images' size, each
    further one of half the size before it: H and W are divisible by 2 to the power of `levels`.
    `hidden` is the number of hidden layers of an IAF step's net; 0 leaves the posterior Gaussian.
    The paper's best for CIFAR-10: 20 layers on one level, 160 maps, 32 latent maps, 2 hidden
    layers.
    """

    binary = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        layers: int = 20,
        levels: int = 1,
        maps: int = 160,
        latent_maps: int = 32,
        hidden: int = 2,
    ):
        super().__init__()
        channels, *size = image_shape
        if min(layers, levels, maps, latent_maps) < 1 or hidden < 0:
            raise ValueError(
                f"ResNetVAE: layers={layers}, levels={levels}, maps={maps}, "
                f"latent_maps={latent_maps} must be at least 1 and hidden={hidden} at least 0"
            )
        if any(n % 2**levels for n in size):
            raise ValueError(
                f"ResNetVAE: images of {size[0]} × {size[1]} pixels can't be halved "
                f"{levels} times (levels={levels}): height and width must be divisible by "
                f"{2**levels}"
            )
        self.image_shape = tuple(image_shape)
        self.top_shape = maps, *(n // 2**levels for n in size)
        self.stem = nn.Conv2d(channels, maps, 5, 2, 2)
        total = layers * levels
        self.layers = nn.ModuleList(
            Layer(
                maps, latent_maps, hidden,
                top=i == total - 1, halves=i > 0 and i % layers == 0,
            )
            for i in range(total)
        )  # fmt: skip
        self.top = nn.Parameter(np.zeros((1, maps, 1, 1), np.float32))
        self.output = nn.ConvTranspose2d(maps, channels, 5, 2, 2, output_padding=1)
        # The authors begin at 0, all of the pixels' range: thousands of steps to where it ends.
        self.log_scale = nn.Parameter(np.full((1, 1, 1, 1), -2.0, np.float32))

    def _likelihood(self, state) -> DiscretizedLogistic:
        mean = F.clip(self.output(F.elu(state)) * SCALE + 0.5, 0.5 / 256, 255.5 / 256)
        log_scale = F.maximum(self.log_scale, LOWEST_LOG_SCALE)
        return DiscretizedLogistic(mean, log_scale, levels=256, low=0.0, high=1.0)

    def _infer(self, x, generator=None, top=None):
        """p(x|z), the z of each layer and its KL by maps (N, D), from the top down."""
        state, found = self.stem(x - 0.5), []
        for layer in self.layers:
            state, of_layer = layer.up(state)
            found.append(of_layer)
        state, latents, kls = self._top(len(x)) if top is None else top, [], []
        for layer, of_layer in zip(reversed(list(self.layers)), reversed(found), strict=True):
            state, z, kl = layer.down(state, of_layer, generator)
            latents.append(z)
            kls.append(kl)
        return self._likelihood(state), latents, kls

    def _generate(self, n: int, latents=None, generator: Generator | None = None):
        """p(x|z) for given latents, from the top down, or for draws from the prior."""
        state, layers = self._top(n), list(self.layers)
        for i, layer in enumerate(reversed(layers)):
            z = None if latents is None else latents[i]
            state, _, _ = layer.down(state, None, generator, z)
        return self._likelihood(state)

    def _top(self, n: int):
        return F.expand(self.top, (n, *self.top_shape))

    def start_from(self, x) -> None:
        """Set the scales of a model with `normalise_weights` by its first batch of images."""
        # The same state at the top for every image has no variance to set a scale by.
        varied = random.normal((len(x), *self.top_shape), device=x.device)
        with no_grad():
            self._infer(x, top=Tensor(varied))

    def log_weights(self, x, k: int = 1, *, generator: Generator | None = None):
        """log p(x|z) (k, N), and log q(z|x) - log p(z) of each latent map (k, N, layers · D)."""
        check_samples(k)
        n = len(x)
        x = F.reshape(F.expand(x, (k, *x.shape)), (k * n, *x.shape[1:])) if k > 1 else x
        pixels, _, kls = self._infer(x, generator)
        kl = F.reshape(F.cat(kls, 1), (k, n, -1))
        return F.reshape(per_example(pixels.log_prob(x)), (k, n)), kl

    def latents(self, x, *, generator: Generator | None = None) -> list[Tensor]:
        """A sample of the posterior of each image: maps (N, D, h, w) of each layer, from the top
        down."""
        return self._infer(x, generator)[1]

    def images(self, latents: list[Tensor]):
        """The means of the pixels (N, C, H, W) at such latents."""
        return self._generate(len(latents[0]), latents).mean

    def kl_by_latent(self, x, *, generator: Generator | None = None) -> np.ndarray:
        """Nats of each latent map, averaged over images: (layers, D), the top layer first."""
        with no_grad():
            kls = self._infer(x, generator)[2]
            return np.stack([F.mean(kl, 0).numpy() for kl in kls])

    def sample(self, n: int, *, generator: Generator | None = None):
        """n new images (n, C, H, W): the means of the pixels, at latents from the prior."""
        with no_grad():
            return self._generate(n, generator=generator).mean
