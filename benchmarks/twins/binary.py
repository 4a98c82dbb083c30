"""Steps of the models of binary images: pixels are drawn anew for every step, the loss is a bound
of -log p or -log p itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .common import Pair, Recipe, Step, Torch, copy_weights, tinygen_training, torch_training

__all__ = ["grey_images", "steps_of"]


def grey_images(c) -> np.ndarray:
    """Images (N, 1, size, size) in [0, 1), the probabilities of a 1."""
    shape = c.batch_size, 1, c.size, c.size
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def steps_of(
    network: Callable[[Any, str], tuple],
    twin: Callable[[Any], Any],
    recipe: Recipe,
    noise: Callable[[Any], tuple[int, ...]] | None = None,
):
    """The functions `tinygen_step`, `torch_step` and `pair` of a model.

    `network(c, device)` gives (network, its loss as a function of binary images), `twin(c)` a
    module whose output is the loss of binary images and, where `noise(c)` is its shape, of the
    noise in the codes, which it draws if there is none.
    """

    def tinygen_step(c, device: str = "cpu") -> Step:
        from tinygen import Tensor, manual_seed
        from tinygen.distributions import binarize

        manual_seed(0)
        net, loss = network(c, device)
        grey = Tensor(grey_images(c)).to(device)
        return tinygen_training(net, lambda: loss(binarize(grey)), recipe)

    def torch_step(c, how: Torch) -> Step:
        import torch

        torch.manual_seed(0)
        net = how.net(twin(c))
        grey = how.images(grey_images(c))
        return torch_training(net, lambda: net(torch.bernoulli(grey)), recipe, how)

    def pair(c) -> Pair:
        import torch

        from tinygen import Tensor, manual_seed, random

        manual_seed(0)
        ours, loss = network(c, "cpu")
        theirs = twin(c)
        copy_weights(ours, theirs)
        arrays = [np.rint(grey_images(c))]
        manual_seed(1)  # the noise is what the loss draws first
        if noise:
            arrays.append(random.normal(noise(c)))
            manual_seed(1)
        our_loss = loss(Tensor(arrays[0]))
        return Pair(ours, our_loss, theirs, theirs(*map(torch.from_numpy, arrays)))

    return tinygen_step, torch_step, pair
