"""What a case is, and how PyTorch's side of one is called.

PyTorch is imported when its side is asked for: a process that times our kernels must not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FLOAT", "Case", "Draw", "as_tuple", "both", "forward", "gradients", "images", "normal"]

FLOAT = 4  # bytes of a float32

Call = Callable[[], Any]
"""Computes once; returns an array or a tuple of them."""
Arrays = Mapping[str, Any]
Draw = Callable[[Callable[..., Any]], Any]
"""Makes an input out of `source(*shape)`, an array of numbers from N(0, 1) of either library."""
Kernels = Callable[[str], Any]
"""`kernels("conv")` is the module with that family's kernels."""


@dataclass(frozen=True)
class Case:
    """One kernel at one shape.

    `ours(kernels, arrays)` and `peer(arrays)` do what a program does once beforehand, and return
    the call that is timed. A call moves `bytes` through memory or does `flops`, whichever bounds
    it; the FLOPs are the direct algorithm's. `images` says that PyTorch's channels-last memory is
    worth a try.
    """

    kernel: str
    shape: Mapping[str, Any]
    inputs: Mapping[str, Draw]
    ours: Callable[[Kernels, Arrays], Call]
    peer: Callable[[Arrays], Call]
    bytes: float = 0.0
    flops: float = 0.0
    images: bool = False

    @property
    def name(self) -> str:
        return f"{self.kernel} {' '.join(f'{k}{v}' for k, v in self.shape.items())}"


def as_tuple(results: Any) -> tuple:
    """One result or several, as several."""
    return tuple(results) if isinstance(results, tuple | list) else (results,)


# --------------------------------------------------------------------------------------- inputs


def normal(*shape: int, scale: float = 1.0) -> Draw:
    """Numbers from N(0, scale²)."""
    return lambda source: source(*shape) * scale


def images(n: int, c: int, height: int, width: int) -> Draw:
    """Numbers from N(0, 1), (N, C, H, W) in channels-last memory."""
    return lambda source: source(n, height, width, c).swapaxes(2, 3).swapaxes(1, 2)


# -------------------------------------------------------------------------------- PyTorch's side


def forward(function: Callable[[Arrays], Any]):
    """The peer that computes `function(arrays)`."""

    def peer(a: Arrays) -> Call:
        import torch

        def call():
            with torch.no_grad():
                return function(a)

        return call

    return peer


def gradients(
    function: Callable[[Arrays], Any], names: Sequence[str], into: Sequence[str] = ("g",)
):
    """The peer that differentiates `function(arrays)`, computed once, with respect to the inputs
    `names`; `into` names the gradients of its results."""

    def peer(a: Arrays) -> Call:
        import torch

        wanted, results = _recorded(function, a, names)
        given = [a[name] for name in into]
        return lambda: torch.autograd.grad(results, wanted, given, retain_graph=True)

    return peer


def both(function: Callable[[Arrays], Any], names: Sequence[str], into: Sequence[str] = ("g",)):
    """The peer that computes `function(arrays)` and differentiates it."""

    def peer(a: Arrays) -> Call:
        import torch

        def call():
            wanted, results = _recorded(function, a, names)
            return torch.autograd.grad(results, wanted, [a[name] for name in into])

        return call

    return peer


def _recorded(function, a: Arrays, names: Sequence[str]) -> tuple[list, tuple]:
    wanted = [a[name].detach().requires_grad_() for name in names]
    return wanted, as_tuple(function({**a, **dict(zip(names, wanted, strict=True))}))
