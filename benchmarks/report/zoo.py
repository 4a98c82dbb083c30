"""The models whose training steps are compared: an entry each.

An entry has sizes, those of a smoke run, and two functions that build a step from them: tinygen's,
and that of its PyTorch twin, the same networks, optimizers and schedule.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from models import DCGAN, discriminator, generator

from .steps import Model, Step, Twin

__all__ = ["MODELS"]

ROOT = Path(__file__).parents[2]
BETAS = (0.5, 0.999)
RATE = 2e-4


def dcgan(c: DCGAN, device: str) -> tuple[Callable, tuple]:
    """The step of examples/dcgan.py."""
    import tinygen
    from tinygen.models.dcgan import Discriminator, Generator

    tinygen.manual_seed(0)
    sizes = {n: getattr(c, n) for n in ("image_size", "channels", "width", "hidden")}
    G = Generator(c.latent_dim, **sizes).to(device)
    D = Discriminator(**sizes).to(device)
    optimizers = [tinygen.optim.Adam(net.parameters(), lr=RATE, betas=BETAS) for net in (G, D)]
    settings = {"latent_dim": c.latent_dim, "prior": "uniform", "device": device}
    images = tinygen.Tensor(_images(c)).to(device)
    return _example("dcgan").the_game(settings, G, D, *optimizers), (images,)


def dcgan_twin(c: DCGAN, twin: Twin) -> Step:
    """The same step in PyTorch."""
    import torch
    from torch.nn.functional import softplus

    torch.manual_seed(0)
    G, D = (twin.net(net(torch.nn, c)) for net in (generator, discriminator))
    optimizer_g, optimizer_d = (twin.adam(net, RATE, BETAS) for net in (G, D))
    x = twin.images(torch.from_numpy(_images(c)))

    def step():
        z = torch.rand(c.batch_size, c.latent_dim, device=x.device) * 2 - 1
        with twin.autocast():
            fake = G(z)
            real_logits, fake_logits = D(x), D(fake.detach())
            loss_d = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()

        D.requires_grad_(False)
        with twin.autocast():
            loss_g = softplus(-D(fake)).mean()
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        D.requires_grad_(True)

        beliefs = [logits.detach().sigmoid().mean() for logits in (real_logits, fake_logits)]
        return loss_d.detach(), loss_g.detach(), *beliefs

    return step


def _images(c: DCGAN) -> np.ndarray:
    shape = (c.batch_size, c.channels, c.image_size, c.image_size)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def _example(name: str) -> ModuleType:
    """An example as a module."""
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODELS: dict[str, Model] = {
    "DCGAN 64x64, batch 128": Model(
        DCGAN(64, 3, 64, None, 128), DCGAN(64, 1, 2, None, 4), dcgan, dcgan_twin
    ),
    "DCGAN 28x28, batch 128": Model(
        DCGAN(28, 1, 32, 256, 128), DCGAN(28, 1, 2, 8, 4), dcgan, dcgan_twin
    ),
}
