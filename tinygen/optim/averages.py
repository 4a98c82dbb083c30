"""Averages of weights over training."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import device as _device
from .. import graph
from ..autograd import no_grad
from ..device import array_module, kernels
from ..tensor import Tensor
from .optimizer import array_of

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """Averages a ← d a + (1 - d) p of parameters p, which often sample better than p.

    d = min(decay, (1 + t) / (10 + t)) after t updates, as in TensorFlow's class of this name: an
    average begins with the parameters as they were drawn, and would hold much of them for a while.
    With `warmup=False` d = decay, and the average for decay=1 stays where it is; with the warm-up
    that is an average over all updates, later ones weighing more.

    >>> import tinygen as tg
    >>> net = tg.nn.Linear(2, 1)
    >>> ema = ExponentialMovingAverage(net.parameters(), decay=0.99)
    >>> ema.update()             # after each optimizer step
    >>> with ema.applied():      # the net computes with the averages in here
    ...     y = net(tg.ones(1, 2))
    """

    def __init__(self, params: Iterable[Tensor], decay: float, *, warmup: bool = True):
        if not 0 <= decay <= 1:
            raise ValueError(f"ExponentialMovingAverage: decay={decay} must lie in [0, 1]")
        self.params, self.decay, self.warmup = list(params), decay, warmup
        self.updates = 0
        self.averages = [_copy(p.data) for p in self.params]
        self._packed: list[int] = []
        self._packs: list = []

    def update(self) -> None:
        """Move the averages towards the parameters."""
        arrays = [p.data for p in self.params]
        if self._packed != list(map(id, arrays)):  # the packs keep the arrays alive
            self._packed, self._packs = list(map(id, arrays)), self._pack(arrays)
        captured = graph.active()
        if captured is None:
            self._step(self.updates)
        else:
            for _, pack in self._packs:
                captured.keep(pack)
            # A replay's kernels read the count on the device, and go on counting there.
            count = captured.count(id(self), lambda: self.updates, self._count)
            self._step(count)
            count += 1
        self._count()

    def _step(self, updates: Any) -> None:
        for rule, pack in self._packs:
            rule.ema_step(pack, self.decay, updates=updates if self.warmup else math.inf)

    def _count(self) -> None:
        self.updates += 1

    def _pack(self, arrays: list) -> list:
        """(kernels, their table of averages and parameters) for each dtype."""
        by_dtype: dict[np.dtype, list[int]] = {}
        for i, array in enumerate(arrays):
            by_dtype.setdefault(array.dtype, []).append(i)
        packs = []
        for places in by_dtype.values():
            rule = kernels("optim", arrays[places[0]])
            averages = [self.averages[i] for i in places]
            packs.append((rule, rule.pack(averages, [arrays[i] for i in places])))
        return packs

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold the averages."""
        current = [_copy(p.data) for p in self.params]
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(current)

    def _write(self, arrays: list) -> None:
        with no_grad():
            for p, array in zip(self.params, arrays, strict=True):
                p.copy_(array)

    def state_dict(self) -> dict[str, Any]:
        """{"updates": how many there were, "<number>": average}."""
        averages = {str(i): Tensor(a) for i, a in enumerate(self.averages)}
        return {"updates": self.updates, **averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from averages of the same parameters; ValueError, before anything is
        changed, for others."""
        saved = {name: value for name, value in state.items() if name != "updates"}
        shapes = {name: tuple(value.shape) for name, value in saved.items()}
        expected = {str(i): average.shape for i, average in enumerate(self.averages)}
        problems = [
            f"average {i} has shape {shapes.get(i)}, not {expected.get(i)}"
            for i in sorted(shapes.keys() | expected.keys())
            if shapes.get(i) != expected.get(i)
        ]
        if "updates" not in state:
            problems.append(
                "no count of updates, which says how far the warm-up is (averages of an older "
                "version: start the run anew)"
            )
        if problems:
            raise ValueError(f"ExponentialMovingAverage.load_state_dict: {'; '.join(problems)}")
        self.updates = int(state["updates"])
        for i, average in enumerate(self.averages):
            average[...] = _device.move(array_of(saved[str(i)]), _device.device_of(average))


def _copy(array):
    """A copy in the same memory order, which the fused steps rely on."""
    copy = array_module(array).empty_like(array)
    copy[...] = array
    return copy
