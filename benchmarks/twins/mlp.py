"""Regression by a small network: what the overhead per operation costs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .common import Pair, Recipe, Step, Torch, copy_weights, tinygen_training, torch_training


@dataclass(frozen=True)
class MLP:
    """Widths from the input to the output, with tanh in between."""

    widths: tuple[int, ...]
    batch_size: int


CASES = {
    "mlp 8-32-32-1, batch 32": MLP((8, 32, 32, 1), 32),
    "mlp 8-256-256-1, batch 128": MLP((8, 256, 256, 1), 128),
}
SMALL = dict.fromkeys(CASES, MLP((3, 5, 4, 2), 6))
RECIPE = Recipe(lr=1e-3)


def network(nn, c: MLP):
    """The same lines for both libraries."""
    layers = [layer for a, b in pairwise(c.widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def batch(c: MLP) -> list[np.ndarray]:
    """Inputs and targets."""
    rng = np.random.default_rng(0)
    sizes = (c.batch_size, c.widths[0]), (c.batch_size, c.widths[-1])
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


def tinygen_step(c: MLP, device: str = "cpu") -> Step:
    from tinygen import Tensor, manual_seed, nn
    from tinygen import functional as F

    manual_seed(0)
    net = network(nn, c).to(device)
    x, y = (Tensor(a).to(device) for a in batch(c))
    return tinygen_training(net, lambda: F.mse_loss(net(x), y), RECIPE)


def torch_step(c: MLP, how: Torch) -> Step:
    import torch
    from torch.nn.functional import mse_loss

    torch.manual_seed(0)
    net = how.net(network(torch.nn, c))
    x, y = map(how.tensor, batch(c))
    return torch_training(net, lambda: mse_loss(net(x), y), RECIPE, how)


def pair(c: MLP) -> Pair:
    import torch

    from tinygen import Tensor, nn
    from tinygen import functional as F

    ours, theirs = network(nn, c), network(torch.nn, c)
    copy_weights(ours, theirs)
    x, y = batch(c)
    our_loss = F.mse_loss(ours(Tensor(x)), Tensor(y))
    their_loss = torch.nn.functional.mse_loss(theirs(torch.from_numpy(x)), torch.from_numpy(y))
    return Pair(ours, our_loss, theirs, their_loss)
