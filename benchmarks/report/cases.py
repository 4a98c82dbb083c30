"""What a kernel case is: its inputs, our call, the peers' calls, bytes and FLOPs.

A case computes the same thing several times: through tinygen's CUDA kernels, through PyTorch in
every way worth comparing with, and through PyTorch in float64, which says what is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from cases import common

__all__ = [
    "FLOAT",
    "PRECISIONS",
    "Case",
    "as_tuple",
    "cast",
    "elements",
    "images",
    "integers",
    "normal",
    "shared",
    "uniform",
]

FLOAT = 4  # bytes of a float32
PRECISIONS = ("tf32", "fp32", "bf16")

Call = Callable[[], Any]
"""Computes once, on the current stream; returns an array or a tuple of them."""
Draw = Callable[[torch.Generator], torch.Tensor]
Kernels = Callable[[str], Any]
"""`kernels("conv")` is the module with that family's CUDA kernels."""


@dataclass(frozen=True)
class Case:
    """One kernel at one shape in one precision.

    `ours(kernels, arrays)` and each of `peers` (arrays) do what a program does once beforehand,
    and return the call that is timed. The first peer, in float64, is the reference, unless
    `expected(arrays)` gives the results. `bytes` are those that must move through the memory of
    the GPU, `flops` those of the direct algorithm. In `precision` "bf16" PyTorch's arrays are
    bfloat16; ours stay float32 and are rounded on the way to the tensor cores.
    """

    family: str
    name: str
    inputs: Mapping[str, Draw]
    ours: Callable[[Kernels, dict[str, Any]], Call]
    peers: Mapping[str, Callable[[dict[str, torch.Tensor]], Call]]
    bytes: float
    flops: float = 0.0
    precision: str = "fp32"
    expected: Callable[[dict[str, torch.Tensor]], Any] | None = None
    in_place: bool = False  # the results are the arguments, so a second call has others

    @property
    def key(self) -> str:
        """Names the case among all."""
        return f"{self.family}: {self.name}, {self.precision}"

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Fresh random inputs, on the generator's device."""
        return {name: draw(generator) for name, draw in self.inputs.items()}

    def reference(self, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The results in float64."""
        if self.expected is not None:
            return as_tuple(self.expected(dict(tensors)))
        peer = next(iter(self.peers.values()))
        return as_tuple(peer(cast(tensors, torch.float64))())


def shared(case: common.Case, family: str, *, name: str, peers=None, **options) -> Case:
    """A case of the CPU's benchmark as one of the report; its own peer is `torch`."""

    def drawn(draw: common.Draw) -> Draw:
        return lambda g: draw(normal_of(g)).float()

    def normal_of(g: torch.Generator):
        return lambda *shape: torch.randn(shape, generator=g, device=g.device)

    return Case(
        family=family,
        name=name,
        inputs={key: drawn(draw) for key, draw in case.inputs.items()},
        ours=case.ours,
        peers=peers or {"torch": case.peer},
        bytes=case.bytes,
        flops=case.flops,
        **options,
    )


def cast(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copies of the tensors, floats in that dtype, each in its own memory order."""
    return {
        name: t.to(dtype, copy=True) if t.is_floating_point() else t.clone()
        for name, t in tensors.items()
    }


def as_tuple(results: Any) -> tuple:
    """One result or several, as several."""
    return tuple(results) if isinstance(results, tuple | list) else (results,)


# --------------------------------------------------------------------------------------- inputs


def normal(*shape: int, scale: float = 1.0) -> Draw:
    """Numbers from N(0, scale²)."""
    return lambda g: scale * torch.randn(shape, generator=g, device=g.device)


def images(*shape: int, scale: float = 1.0) -> Draw:
    """Numbers from N(0, scale²) in channels-last memory."""
    draw = normal(*shape, scale=scale)
    return lambda g: draw(g).contiguous(memory_format=torch.channels_last)


def uniform(*shape: int) -> Draw:
    """Numbers in [0, 1): their sum is far from 0, so that its relative error means something."""
    return lambda g: torch.rand(shape, generator=g, device=g.device)


def integers(high: int, *shape: int) -> Draw:
    """Integers 0, ..., high - 1."""
    return lambda g: torch.randint(high, shape, generator=g, device=g.device)


def elements(*shapes: tuple[int, ...]) -> int:
    """Of arrays of these shapes."""
    return sum(map(math.prod, shapes))
