"""Whole training steps against their PyTorch twins: images/s and peak memory.

    python benchmarks/models.py            # a few minutes on 2 cores
    python benchmarks/models.py --quick

A twin is the same network with the same batch, optimizers and schedule, built by the same lines
where that is possible (tinygen's `nn` has PyTorch's interface). DCGAN: D on a real and a generated
batch, then G. IAF: the sampled bound, weight norm, Adamax, averaged weights. PixelRNN: see
pixelrnn_twin.py. PyTorch runs eagerly
with its defaults (contiguous memory) and with channels-last memory; its Adam is the fastest it has
on the CPU (`fused=True`).
"""

from __future__ import annotations

import importlib
import resource
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from common import Worker, machine, parser, print_table, serve, time_call, write_json


@dataclass(frozen=True)
class DCGAN:
    """Sizes of one DCGAN: the CPU preset at 28 pixels, the usual one (table 2b) at 64."""

    image_size: int
    channels: int
    width: int
    hidden: int | None
    batch_size: int
    latent_dim: int = 100


@dataclass(frozen=True)
class IAF:
    """Sizes of a VAE with an inverse autoregressive flow: the CPU preset of examples/iaf.py."""

    batch_size: int = 100
    pixels: int = 784
    hidden: int = 300
    latent_dim: int = 32
    context: int = 64
    flow_steps: int = 2
    width: int = 320


@dataclass(frozen=True)
class VAE:
    """Sizes of a VAE of dense layers, and the importance samples of its bound."""

    hidden: tuple[int, ...]
    latent_dim: int
    k: int = 1
    batch_size: int = 100
    pixels: int = 784


@dataclass(frozen=True)
class PixelRNN:
    """A PixelRNN on binary images of 28 × 28, as examples/pixelrnn.py trains it."""

    kind: str
    layers: int
    hidden: int = 16
    batch_size: int = 16


CASES: dict[str, Any] = {
    "mlp 8-32-32-1, batch 32": (8, 32, 32, 1, 32),
    "mlp 8-256-256-1, batch 128": (8, 256, 256, 1, 128),
    "dcgan 28x28, batch 128": DCGAN(28, 1, 32, 256, 128),
    "dcgan 64x64, batch 64": DCGAN(64, 3, 64, None, 64),
    "vae 784-500-20, batch 100": VAE((500,), 20),
    "iwae 784-200-200-50, k 5, batch 100": VAE((200, 200), 50, k=5),
    "iaf 28x28, batch 100": IAF(),
    "pixelrnn diagonal, 1 layer, batch 16": PixelRNN("diagonal", 1),
    "pixelrnn row, 2 layers, batch 16": PixelRNN("row", 2),
}


def library(name: str):
    """(module, nn, optim, functional): tinygen and torch under the same four names."""
    if name == "tinygen":
        return tuple(map(importlib.import_module, (
            "tinygen", "tinygen.nn", "tinygen.optim", "tinygen.functional")))  # fmt: skip
    return tuple(map(importlib.import_module, (
        "torch", "torch.nn", "torch.optim", "torch.nn.functional")))  # fmt: skip


def generator(nn, c: DCGAN):
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
    layers, maps = [], 8 * c.width
    layers += [nn.Unflatten(1, (c.latent_dim, 1, 1))]
    layers += [nn.ConvTranspose2d(c.latent_dim, maps, 4, 1, 0, bias=False)]
    layers += [nn.BatchNorm2d(maps), nn.ReLU()]
    while maps > c.width:
        layers += [nn.ConvTranspose2d(maps, maps // 2, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(maps // 2), nn.ReLU()]
        maps //= 2
    layers += [nn.ConvTranspose2d(maps, c.channels, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)


def discriminator(nn, c: DCGAN):
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


def adam(name: str, optim, net, lr: float):
    options = {"fused": True} if name != "tinygen" else {}
    return optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999), **options)


def dcgan_step(name: str, c: DCGAN):
    """A function that does one training step, D then G, and returns the two losses."""
    lib, nn, optim, F = library(name.removesuffix(" channels-last"))
    lib.manual_seed(0)
    G, D = generator(nn, c), discriminator(nn, c)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (c.batch_size, c.channels, c.image_size, c.image_size))
    real = lib.tensor(images.astype(np.float32))
    if name.endswith("channels-last"):
        G, D = (net.to(memory_format=lib.channels_last) for net in (G, D))
        real = real.to(memory_format=lib.channels_last)
    optim_g, optim_d = adam(name, optim, G, 1e-3), adam(name, optim, D, 2e-4)

    def step():
        z = lib.rand(c.batch_size, c.latent_dim) * 2 - 1
        D.requires_grad_(True)
        fake = G(z)
        loss_d = F.softplus(-D(real)).mean() + F.softplus(D(fake.detach())).mean()
        optim_d.zero_grad()
        loss_d.backward()
        optim_d.step()
        D.requires_grad_(False)  # G's step needs no gradients of D's weights
        loss_g = F.softplus(-D(fake)).mean()
        optim_g.zero_grad()
        loss_g.backward()
        optim_g.step()
        return float(loss_d.item()), float(loss_g.item())

    return step


def mlp_step(name: str, sizes: tuple[int, ...]):
    """One regression step of a small network: what the overhead per operation costs."""
    lib, nn, optim, F = library(name)
    lib.manual_seed(0)
    *widths, batch = sizes
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    net = nn.Sequential(*layers[:-1])
    rng = np.random.default_rng(0)
    x = lib.tensor(rng.standard_normal((batch, widths[0])).astype(np.float32))
    y = lib.tensor(rng.standard_normal((batch, widths[-1])).astype(np.float32))
    optimizer = adam(name, optim, net, 1e-3)

    def step():
        loss = F.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def torch_vae(c: VAE):
    """The network and the loss of `tinygen.models.vae` in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def dense(*sizes):
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers[:-1])

    encoder = dense(c.pixels, *c.hidden, 2 * c.latent_dim)
    decoder = dense(c.latent_dim, *c.hidden[::-1], c.pixels)

    def loss(x):
        mean, log_std = encoder(x).chunk(2, 1)
        if c.k == 1:
            z = mean + log_std.exp() * torch.randn_like(mean)
            recon = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum()
            return (recon + kl) / len(x)
        noise = torch.randn(c.k, *mean.shape)
        z = mean + log_std.exp() * noise
        log_ratio = (0.5 * (z**2 - noise**2) - log_std).sum(2)
        x = x.expand(c.k, -1, -1)
        losses = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(2)
        return -torch.logsumexp(-losses - log_ratio, 0).mean() + np.log(c.k)

    return loss, nn.ModuleList([encoder, decoder])


def tinygen_vae(c: VAE):
    """The same, from the library."""
    from tinygen.models import vae

    net = vae.VAE((1, 1, c.pixels), c.latent_dim, hidden=c.hidden)
    shape = c.batch_size, 1, 1, c.pixels
    return lambda x: vae.objective(net, x.reshape(shape), k=c.k).loss, net


def vae_step(name: str, c: VAE):
    """One training step: pixels drawn anew, the bound, Adam."""
    lib, _, optim, _ = library(name)
    lib.manual_seed(0)
    loss_of, net = (tinygen_vae if name == "tinygen" else torch_vae)(c)
    optimizer = adam(name, optim, net, 1e-3)
    rng = np.random.default_rng(0)
    pixels = lib.tensor(rng.random((c.batch_size, c.pixels), dtype=np.float32))
    if name == "tinygen":
        from tinygen.distributions import binarize
    else:
        binarize = lib.bernoulli

    def step():
        loss = loss_of(binarize(pixels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def torch_iaf(c: IAF):
    """The network of `tinygen.models.iaf` in PyTorch, with its own weight norm: a function of
    binary images that returns log p(x|z) and the sampled KL, and its parameters."""
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

    encoder = dense(c.pixels, 2 * c.latent_dim + c.context)
    decoder = dense(c.latent_dim, c.pixels)
    flow = nn.ModuleList(made(t % 2 == 1) for t in range(c.flow_steps))
    net = nn.ModuleList([encoder, decoder, flow])
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            weight_norm(layer)

    def log_weights(x):
        mean, log_std, h = encoder(x).split([c.latent_dim, c.latent_dim, c.context], 1)
        noise = torch.randn_like(mean)
        z = mean + log_std.exp() * noise
        log_ratio = -(0.5 * noise**2 + log_std).sum(1)
        for step in flow:
            m, s = step(torch.cat([z, h], 1)).chunk(2, 1)
            keep = torch.sigmoid(s + 1.5)
            z = keep * z + (1 - keep) * m
            log_ratio = log_ratio - F.logsigmoid(s + 1.5).sum(1)
        losses = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none")
        return -losses.sum(1), log_ratio + (0.5 * z**2).sum(1)

    return log_weights, net


def tinygen_iaf(c: IAF):
    """The same, from the library."""
    from tinygen.models import iaf

    code = 2 * c.latent_dim + c.context
    networks = iaf.dense_networks((1, 1, c.pixels), code, c.latent_dim, hidden=c.hidden)
    flow = iaf.IAF(c.latent_dim, c.context, steps=c.flow_steps, width=c.width)
    net = iaf.FlowVAE(*networks, c.latent_dim, flow)
    iaf.normalise_weights(net)
    return lambda x: net.log_weights(x.reshape(len(x), 1, 1, c.pixels)), net


def iaf_step(name: str, c: IAF):
    """One training step: pixels drawn anew, the sampled bound, Adamax, averaged weights."""
    lib, _, optim, _ = library(name)
    lib.manual_seed(0)
    log_weights, net = (tinygen_iaf if name == "tinygen" else torch_iaf)(c)
    rng = np.random.default_rng(0)
    pixels = lib.tensor(rng.random((c.batch_size, c.pixels), dtype=np.float32))
    parameters = list(net.parameters())
    if name == "tinygen":
        from tinygen.distributions import binarize

        optimizer = optim.Adamax(parameters, lr=2e-3)
        update = optim.ExponentialMovingAverage(parameters, 0.999).update
    else:
        binarize = lib.bernoulli
        optimizer = optim.Adamax(parameters, lr=2e-3, foreach=True)
        averages = [p.detach().clone() for p in parameters]

        def update():
            lib._foreach_lerp_(averages, [p.detach() for p in parameters], 0.001)

    def step():
        log_px, kl = log_weights(binarize(pixels))
        loss = kl.mean() - log_px.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update()
        return float(loss.item())

    return step


def pixelrnn_step(name: str, c: PixelRNN):
    """One training step: the exact likelihood, clipped gradients, Adam, from the same weights."""
    lib, nn, optim, _ = library(name)
    import tinygen
    from tinygen.models.pixelrnn import PixelRNN as Model

    tinygen.manual_seed(0)
    net = Model(c.kind, layers=c.layers, hidden=c.hidden)
    if name == "tinygen":

        def loss_of(x):
            return net.nll(x).mean()

    else:
        from pixelrnn_twin import PixelRNN as Twin

        net = loss_of = Twin(net)
    optimizer = adam(name, optim, net, 3e-3)
    images = np.random.default_rng(0).integers(0, 2, (c.batch_size, 1, 28, 28))
    x = lib.tensor(images.astype(np.float32))

    def step():
        loss = loss_of(x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return float(loss.item())

    return step


STEPS = {DCGAN: dcgan_step, VAE: vae_step, IAF: iaf_step, tuple: mlp_step, PixelRNN: pixelrnn_step}


def answer(name: str, request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: time one case."""
    case = CASES[request["case"]]
    step = STEPS[type(case)](name, case)
    timing = time_call(step, seconds=request["seconds"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mb": peak / 1024, **timing}


def main() -> None:
    args = parser(__doc__.splitlines()[0]).parse_args()
    if args.worker:
        serve(lambda request: answer(args.worker, request))
        return
    seconds = 1.0 if args.quick else 15.0
    names = ["tinygen", "torch", "torch channels-last"]
    rows, results = [], {"machine": machine(), "cases": {}}
    for case, sizes in CASES.items():
        if args.only not in case:
            continue
        found = {}
        for name in names if isinstance(sizes, DCGAN) else names[:2]:
            worker = Worker(__file__, name, args.threads)  # a fresh one: peak memory is its own
            found[name] = worker.ask(case=case, seconds=seconds)
            worker.close()
        results["cases"][case] = found
        batch = sizes[-1] if isinstance(sizes, tuple) else sizes.batch_size
        torch = found["torch"]["median"]
        for name, r in found.items():
            rows.append([
                case, name, f"{1e3 * r['median']:.3g}",
                f"{1e3 * r['p20']:.3g}..{1e3 * r['p80']:.3g}",
                f"{1e3 * r['cpu']:.3g}", f"{batch / r['median']:,.0f}", f"{r['peak_mb']:.0f}",
                f"{torch / r['median']:.2f}",
            ])  # fmt: skip
        print(f"{case}: done", file=sys.stderr)
    print(f"{results['machine']}\n")
    print_table(
        ["case", "library", "ms/step", "20..80 %", "CPU ms", "images/s", "peak MB",
         "speed / torch"], rows,
    )  # fmt: skip
    write_json(args.json, results)


if __name__ == "__main__":
    main()
