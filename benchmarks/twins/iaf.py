"""A VAE with an inverse autoregressive flow, as examples/iaf.py trains it: the sampled bound with
free bits, weight norm everywhere, Adamax, averaged weights."""

from __future__ import annotations

from dataclasses import dataclass

from .binary import grey_images, steps_of
from .common import Recipe


@dataclass(frozen=True)
class IAF:
    """Sizes: the CPU preset of examples/iaf.py."""

    batch_size: int = 100
    size: int = 28
    hidden: int = 300
    latent_dim: int = 32
    context: int = 64
    flow_steps: int = 2
    width: int = 320
    free_bits: float = 1.0


CASES = {"iaf 28x28, batch 100": IAF()}
SMALL = {"iaf 28x28, batch 100": IAF(4, size=4, hidden=5, latent_dim=3, context=2, width=6)}
RECIPE = Recipe(lr=2e-3, optimizer="Adamax", average=0.999)
FORGET_BIAS = 1.5


def network(c: IAF, device: str):
    from tinygen import Tensor
    from tinygen.models import iaf

    code, shape = 2 * c.latent_dim + c.context, (1, c.size, c.size)
    encoder, decoder = iaf.dense_networks(shape, code, c.latent_dim, hidden=c.hidden)
    flow = iaf.IAF(c.latent_dim, c.context, steps=c.flow_steps, width=c.width)
    net = iaf.FlowVAE(encoder, decoder, c.latent_dim, flow).to(device)
    iaf.normalise_weights(net)
    net.start_from(Tensor(grey_images(c)).to(device))

    def loss(x):
        log_px, kl = net.log_weights(x)
        return iaf.free_bits(kl[0], c.free_bits) - log_px.mean()

    return net, loss


def twin(c: IAF):
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.nn.utils.parametrizations import weight_norm

    class Masked(nn.Linear):
        def __init__(self, before, after, strict=False):
            super().__init__(len(before), len(after))
            low, high = before[None, :], after[:, None]
            self.register_buffer("mask", ((low < high) if strict else (low <= high)).float())
            self.weight.data.mul_(self.mask)

        def forward(self, x):
            return F.linear(x, self.weight * self.mask, self.bias)

    def dense(before, after):
        h = c.hidden
        inner = [nn.Linear(before, h), nn.ELU(), nn.Linear(h, h), nn.ELU(), nn.Linear(h, after)]
        return nn.Sequential(*inner)

    def made(reverse):
        own = torch.arange(1, c.latent_dim + 1)
        own = own.flip(0) if reverse else own
        inner = torch.arange(c.width) % c.latent_dim
        first = torch.cat([own, torch.zeros(c.context, dtype=int)])
        layers = [Masked(first, inner), nn.ELU(), Masked(inner, inner), nn.ELU()]
        return nn.Sequential(*layers, Masked(inner, own.repeat(2), strict=True))

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = dense(c.size**2, 2 * c.latent_dim + c.context)
            self.decoder = dense(c.latent_dim, c.size**2)
            self.flow = nn.ModuleList(made(t % 2 == 1) for t in range(c.flow_steps))
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    weight_norm(layer)

        def forward(self, x, noise=None):
            x = x.flatten(1)
            mean, log_std, h = self.encoder(x).split([c.latent_dim, c.latent_dim, c.context], 1)
            if noise is None:
                noise = torch.randn_like(mean)
            z = mean + log_std.exp() * noise
            log_ratio = -(0.5 * noise**2 + log_std).sum(1)
            for step in self.flow:
                m, s = step(torch.cat([z, h], 1)).chunk(2, 1)
                s = s + FORGET_BIAS
                z = torch.lerp(m, z, torch.sigmoid(s))
                log_ratio = log_ratio - F.logsigmoid(s).sum(1)
            kl = (log_ratio + (0.5 * z**2).sum(1)).mean()
            recon = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            return recon / len(x) + kl.clamp(min=c.free_bits)

    return Twin()


def noise(c: IAF) -> tuple[int, ...]:
    return c.batch_size, c.latent_dim


tinygen_step, torch_step, pair = steps_of(network, twin, RECIPE, noise)
