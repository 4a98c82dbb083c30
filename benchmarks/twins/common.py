"""What the training steps have in common: how PyTorch is run, and what follows a loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Pair", "Recipe", "Step", "Torch", "copy_weights", "tinygen_training", "torch_training"]

Step = Callable[[], tuple]


class Pair(NamedTuple):
    """Both networks and their losses, each still on its tape."""

    ours: Any
    our_loss: Any
    theirs: Any
    their_loss: Any


@dataclass(frozen=True)
class Recipe:
    """What follows a loss: the optimizer, the largest norm of the gradient, and the decay of the
    moving average of the weights."""

    lr: float
    optimizer: str = "Adam"
    clip: float | None = None
    average: float | None = None  # from the first step on: a graph of PyTorch's can't count


@dataclass(frozen=True)
class Torch:
    """How PyTorch runs a step: what its users choose among."""

    device: str = "cpu"
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    graph: bool = False

    def net(self, net):
        """The network on the device."""
        import torch

        net = net.to(self.device)
        if self.channels_last:
            net = net.to(memory_format=torch.channels_last)
        return torch.compile(net) if self.compiled else net

    def images(self, x: np.ndarray):
        """A batch (N, C, H, W) on the device."""
        import torch

        memory = torch.channels_last if self.channels_last else torch.contiguous_format
        return self.tensor(x).contiguous(memory_format=memory)

    def tensor(self, x: np.ndarray):
        """Any array on the device."""
        import torch

        return torch.from_numpy(x).to(self.device)

    def autocast(self):
        """For the forward pass. A new one for each: its copies of the weights live as long."""
        import torch

        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()

    def optimizer(self, name: str, net, **options):
        """The fastest of PyTorch's implementations."""
        import torch

        fast = "fused" if name == "Adam" else "foreach"  # Adamax has no fused one
        options |= {fast: True, "capturable": self.graph}
        return getattr(torch.optim, name)(net.parameters(), **options)


def tinygen_training(net, loss: Callable[[], Any], recipe: Recipe, then=None) -> Step:
    """The step that computes `loss()`, updates the network, and does `then()` at its end."""
    from tinygen import nn, optim

    optimizer = getattr(optim, recipe.optimizer)(net.parameters(), lr=recipe.lr)
    after = [then] if then else []
    if recipe.average:
        average = optim.ExponentialMovingAverage(net.parameters(), recipe.average, warmup=False)
        after.append(average.update)
    return _training(nn.utils.clip_grad_norm_, net, loss, optimizer, recipe, after)


def torch_training(net, loss: Callable[[], Any], recipe: Recipe, how: Torch, then=None) -> Step:
    """The same in PyTorch."""
    import torch

    optimizer = how.optimizer(recipe.optimizer, net, lr=recipe.lr)
    after = [then] if then else []
    if recipe.average:
        parameters = [p.detach() for p in net.parameters()]
        averages = [p.clone() for p in parameters]
        weight = 1 - recipe.average
        after.append(lambda: torch._foreach_lerp_(averages, parameters, weight))

    def cast_loss():
        with how.autocast():
            return loss()

    return _training(torch.nn.utils.clip_grad_norm_, net, cast_loss, optimizer, recipe, after)


def _training(clip_grad_norm_, net, loss, optimizer, recipe: Recipe, after: list) -> Step:
    parameters = list(net.parameters())

    def step():
        value = loss()
        optimizer.zero_grad()
        value.backward()
        if recipe.clip:
            clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        for call in after:
            call()
        return (value.detach(),)

    return step


def copy_weights(ours, theirs) -> None:
    """Give a twin, whose parameters stand in the same order, the weights of a tinygen network.

    The live taps of a masked convolution (O, C, L) are the first of the kernel (O, C, KH, KW).
    """
    import torch

    for source, target in zip(ours.parameters(), theirs.parameters(), strict=True):
        value = torch.from_numpy(np.ascontiguousarray(source.detach().numpy()))
        with torch.no_grad():
            if value.shape == target.shape:
                target.copy_(value)
            else:
                target.zero_().flatten(2)[:, :, : value.shape[2]] = value
