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

    At the `top` nothing goes further up.
    """

    def __init__(self, maps: int, latent_maps: int, hidden: int, top: bool):
        super().__init__()
        self.up_parts = [latent_maps, latent_maps, maps, *([] if top else [maps])]
        self.up_in = nn.Conv2d(maps, sum(self.up_parts), 3, padding=1)
        self.up_out = None if top else nn.Conv2d(maps, maps, 3, padding=1)
        self.down_parts = 4 * [latent_maps] + 2 * [maps]
        self.down_in = nn.Conv2d(maps, sum(self.down_parts), 3, padding=1)
        self.down_out = nn.Conv2d(latent_maps + maps, maps, 3, padding=1)
        self.flow = MaskedConvs(latent_maps, hidden * [maps]) if hidden else None

    def up(self, state):
        """The next state, and what the way down needs: qμ, q log σ, context."""
        found = F.split(self.up_in(F.elu(state)) * SCALE, self.up_parts, 1)
        if self.up_out is not None:
            state = state + self.up_out(F.elu(found[3])) * SCALE
        return state, found[:3]

    def down(self, state, found=None, generator: Generator | None = None):
        """The next state and the KL of each latent map (N, D), None for a draw from the prior."""
        p_mean, p_log_std, r_mean, r_log_std, context, h = F.split(
            self.down_in(F.elu(state)) * SCALE, self.down_parts, 1
        )
        prior, kl = Normal(p_mean, p_log_std), None
        if found is None:
            z = prior.sample(generator=generator)
        else:
            q_mean, q_log_std, up_context = found
            q = Normal(r_mean + q_mean, r_log_std + q_log_std)
            z = q.sample(generator=generator)
            log_q = q.log_prob(z)
            if self.flow is not None:  # as `F.iaf_affine`, but with log q of each latent
                m, s = F.split(self.flow(z, context + up_context) * SCALE, z.shape[1], 1)
                z, log_q = (z - m) * F.exp(-s), log_q + s
            kl = F.sum(log_q - prior.log_prob(z), (2, 3))
        return state + self.down_out(F.elu(F.cat([z, h], 1))) * SCALE, kl


class ResNetVAE(ImportanceSampled):
    """A VAE of images (N, C, H, W) with 256 levels from 0 to 1, H and W even.

    `hidden` is the number of hidden layers of an IAF step's net; 0 leaves the posterior Gaussian.
    The paper's best for CIFAR-10: 20 layers, 160 maps, 32 latent maps, 2 hidden layers.
    """

    binary = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        layers: int = 20,
        maps: int = 160,
        latent_maps: int = 32,
        hidden: int = 2,
    ):
        super().__init__()
        channels, height, width = image_shape
        if height % 2 or width % 2 or min(layers, maps, latent_maps) < 1 or hidden < 0:
            raise ValueError(
                f"ResNetVAE: images of {height} × {width} pixels, layers={layers}, maps={maps}, "
                f"latent_maps={latent_maps}, hidden={hidden}: height and width must be even, "
                "and the sizes at least 1 (hidden at least 0)"
            )
        self.image_shape, self.state_shape = tuple(image_shape), (maps, height // 2, width // 2)
        self.stem = nn.Conv2d(channels, maps, 5, 2, 2)
        self.layers = nn.ModuleList(
            Layer(maps, latent_maps, hidden, top=i == layers - 1) for i in range(layers)
        )
        self.top = nn.Parameter(np.zeros((1, maps, 1, 1), np.float32))
        self.output = nn.ConvTranspose2d(maps, channels, 5, 2, 2, output_padding=1)
        # The authors begin at 0, all of the pixels' range: thousands of steps to where it ends.
        self.log_scale = nn.Parameter(np.full((1, 1, 1, 1), -2.0, np.float32))

    def _likelihood(self, state) -> DiscretizedLogistic:
        mean = F.clip(self.output(F.elu(state)) * SCALE + 0.5, 0.5 / 256, 255.5 / 256)
        log_scale = F.maximum(self.log_scale, LOWEST_LOG_SCALE)
        return DiscretizedLogistic(mean, log_scale, levels=256, low=0.0, high=1.0)

    def _infer(self, x, generator=None, top=None):
        state, found = self.stem(x - 0.5), []
        for layer in self.layers:
            state, of_layer = layer.up(state)
            found.append(of_layer)
        state, kls = self._top(len(x)) if top is None else top, []
        for layer, of_layer in zip(reversed(list(self.layers)), reversed(found), strict=True):
            state, kl = layer.down(state, of_layer, generator)
            kls.append(kl)
        return self._likelihood(state), F.cat(kls, 1)

    def _top(self, n: int):
        return F.expand(self.top, (n, *self.state_shape))

    def start_from(self, x) -> None:
        """Set the scales of a model with `normalise_weights` by its first batch of images."""
        # The same state at the top for every image has no variance to set a scale by.
        varied = random.normal((len(x), *self.state_shape), device=x.device)
        with no_grad():
            self._infer(x, top=Tensor(varied))

    def log_weights(self, x, k: int = 1, *, generator: Generator | None = None):
        """log p(x|z) (k, N), and log q(z|x) - log p(z) of each latent map (k, N, layers · D)."""
        check_samples(k)
        n = len(x)
        x = F.reshape(F.expand(x, (k, *x.shape)), (k * n, *x.shape[1:])) if k > 1 else x
        pixels, kl = self._infer(x, generator)
        return F.reshape(per_example(pixels.log_prob(x)), (k, n)), F.reshape(kl, (k, n, -1))

    def reconstruct(self, x, *, generator: Generator | None = None):
        """The means of the pixels for one sample of the posterior, (N, C, H, W)."""
        with no_grad():
            return self._infer(x, generator)[0].mean

    def sample(self, n: int, *, generator: Generator | None = None):
        """n new images (n, C, H, W): the means of the pixels, at latents from the prior."""
        with no_grad():
            state = self._top(n)
            for layer in reversed(list(self.layers)):
                state, _ = layer.down(state, None, generator)
            return self._likelihood(state).mean
