"""Whole training steps against their PyTorch twins: images/s and peak memory.

    python benchmarks/models.py            # a few minutes on 2 cores
    python benchmarks/models.py --quick

A twin is the same network, built by the same lines (tinygen's `nn` has PyTorch's interface), with
the same batch, optimizers and schedule: D on a real and a generated batch, then G. PyTorch runs
eagerly with its defaults (contiguous memory) and with channels-last memory; its Adam is the
fastest it has on the CPU (`fused=True`).
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


CASES: dict[str, Any] = {
    "mlp 8-32-32-1, batch 32": (8, 32, 32, 1, 32),
    "mlp 8-256-256-1, batch 128": (8, 256, 256, 1, 128),
    "dcgan 28x28, batch 128": DCGAN(28, 1, 32, 256, 128),
    "dcgan 64x64, batch 64": DCGAN(64, 3, 64, None, 64),
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


def answer(name: str, request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: time one case."""
    case = CASES[request["case"]]
    step = dcgan_step(name, case) if isinstance(case, DCGAN) else mlp_step(name, case)
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
        batch = sizes.batch_size if isinstance(sizes, DCGAN) else sizes[-1]
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
