"""Convolutions by their live taps. As in `conv`, output, input gradient and weight gradient are
three primitives closed under differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..autograd import Op
from ..device import kernels
from .checks import Size, check_floats, sizes
from .reduce import sum

__all__ = ["masked_conv2d"]

Pair = tuple[int, int]


class Mask(NamedTuple):
    """Which taps (row, column) of a kernel are alive, and how far it reaches over the border."""

    taps: tuple[Pair, ...]
    kernel_size: Pair
    padding: Pair


class MaskedConv2d(Op):
    """y = W ∗ x + b over the live taps, with x (N, C, H, W) and W (O, C, L)."""

    def __init__(self, mask: Mask):
        self.mask = mask

    def forward(self, x, weight, bias):
        self.save(x, weight)
        return kernels("masked_conv", x).masked_conv2d(x, weight, bias, **self.mask._asdict())

    def backward(self, grad):
        x, weight = self.saved
        return (
            MaskedConv2dInputGrad(self.mask, x.shape[2:])(grad, weight)
            if self.needs_grad(0)
            else None,
            MaskedConv2dWeightGrad(self.mask)(x, grad) if self.needs_grad(1) else None,
            sum(grad, (0, 2, 3)) if self.needs_grad(2) else None,
        )


class MaskedConv2dInputGrad(Op):
    """x̄ = Wᵀ ∗ ȳ."""

    def __init__(self, mask: Mask, input_size: Pair):
        self.mask, self.input_size = mask, input_size

    def forward(self, grad, weight):
        self.save(grad, weight)
        return kernels("masked_conv", grad).masked_conv2d_input_grad(
            grad, weight, input_size=self.input_size, **self.mask._asdict()
        )

    def backward(self, grad_x):
        grad, weight = self.saved
        return (
            MaskedConv2d(self.mask)(grad_x, weight, None) if self.needs_grad(0) else None,
            MaskedConv2dWeightGrad(self.mask)(grad_x, grad) if self.needs_grad(1) else None,
        )


class MaskedConv2dWeightGrad(Op):
    """W̄ = ȳ ⋆ x."""

    def __init__(self, mask: Mask):
        self.mask = mask

    def forward(self, x, grad):
        self.save(x, grad)
        return kernels("masked_conv", x).masked_conv2d_weight_grad(x, grad, **self.mask._asdict())

    def backward(self, grad_weight):
        x, grad = self.saved
        return (
            MaskedConv2dInputGrad(self.mask, x.shape[2:])(grad, grad_weight)
            if self.needs_grad(0)
            else None,
            MaskedConv2d(self.mask)(x, grad_weight, None) if self.needs_grad(1) else None,
        )


def masked_conv2d(
    input,
    weight,
    bias=None,
    *,
    taps: Sequence[Pair],
    kernel_size: Size,
    padding: Size = 0,
):
    """Two-dimensional cross-correlation with weights for the live taps of a kernel only.

    y[n,o,i,j] = b[o] + Σ_{c,l} x[n,c, i + kh_l - p, j + kw_l - p] W[o,c,l]

    over the L `taps` (kh_l, kw_l) of a kernel of KH × KW. input (N, C, H, W), weight (O, C, L),
    bias (O,); returns (N, O, H + 2p - KH + 1, W + 2p - KW + 1) in channels-last memory.
    """
    name = "masked_conv2d"
    size = sizes(name, "kernel_size", kernel_size, 2, least=1)
    mask = Mask(tuple(map(tuple, taps)), size, sizes(name, "padding", padding, 2, least=0))
    shapes = f"input {tuple(input.shape)}, weight {tuple(weight.shape)}, {len(taps)} taps"
    if not taps or not all(0 <= kh < size[0] and 0 <= kw < size[1] for kh, kw in mask.taps):
        raise ValueError(
            f"{name}: taps {list(mask.taps)} must be places (row, column), at least one, in a "
            f"kernel of {size}"
        )
    if input.ndim != 4 or tuple(weight.shape[1:]) != (input.shape[1], len(taps)):
        raise ValueError(f"{name}: {shapes}: they must be (N, C, H, W) and (O, C, taps)")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"{name}: {shapes}: bias {tuple(bias.shape)} must be (O,)")
    out_size = [
        i + 2 * p - k + 1 for i, p, k in zip(input.shape[2:], mask.padding, size, strict=True)
    ]
    if min(out_size) < 1:
        raise ValueError(
            f"{name}: {shapes}, kernel {size}, padding={mask.padding} give an output of "
            f"{tuple(out_size)}; the padded input must be at least as large as the kernel"
        )
    check_floats(name, input=input, weight=weight, bias=bias)
    return MaskedConv2d(mask)(input, weight, bias)
