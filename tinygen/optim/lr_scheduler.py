"""Learning rates that change with the number of epochs, or of whatever `step` is called for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "ExponentialLR", "LambdaLR", "MultiStepLR", "StepLR"]


class LambdaLR:
    """Learning rate = its starting value · factor(n) after n calls of `step`."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]):
        self.optimizer = optimizer
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.factor = lr_lambda
        self.last_epoch = 0
        self._apply()

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * self.factor(self.last_epoch)

    def step(self) -> None:
        """Go on by one (epoch or step, whichever the schedule counts)."""
        self.last_epoch += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """The count and the starting values."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there."""
        self.last_epoch, self.base_lrs = state["last_epoch"], list(state["base_lrs"])
        self._apply()


class StepLR(LambdaLR):
    """Multiplied by gamma every `step_size` calls."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        super().__init__(optimizer, lambda n: gamma ** (n // step_size))


class MultiStepLR(LambdaLR):
    """Multiplied by gamma at each of the milestones."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1):
        super().__init__(optimizer, lambda n: gamma ** sum(n >= m for m in milestones))


class ExponentialLR(LambdaLR):
    """Multiplied by gamma at every call."""

    def __init__(self, optimizer: Optimizer, gamma: float):
        super().__init__(optimizer, lambda n: gamma**n)


class CosineAnnealingLR(LambdaLR):
    """From the starting value down to `eta_min` along half a cosine of T_max calls."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        self.eta_min = eta_min
        super().__init__(optimizer, lambda n: (1 + math.cos(math.pi * n / T_max)) / 2)

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.eta_min + (lr - self.eta_min) * self.factor(self.last_epoch)
