"""Convolutions. Output, input gradient and weight gradient are three primitives closed under
differentiation: the derivative of each is made of the other two, so gradients of any order exist.
"""

from __future__ import annotations

from typing import NamedTuple

from ..autograd import Op
from ..device import kernels
from .checks import Size, check_floats, sizes
from .index import getitem
from .reduce import sum
from .shape import squeeze, unsqueeze

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]

Sizes = tuple[int, ...]


class Geometry(NamedTuple):
    """How a kernel moves over an image: numbers for (vertical, horizontal), or for one axis."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int

    def of_rows(self) -> Geometry:
        """The geometry of one axis as that of images of height 1."""
        return Geometry((1, *self.stride), (0, *self.padding), (1, *self.dilation), self.groups)

    def output_size(self, size: Sizes, kernel_size: Sizes) -> Sizes:
        """floor((i + 2p - d(k - 1) - 1) / s) + 1."""
        return tuple(
            (i + 2 * p - d * (k - 1) - 1) // s + 1
            for i, k, s, p, d in zip(
                size, kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        )


class Conv2d(Op):
    """y = W ∗ x + b, with x (N, C, H, W) and W (O, C/groups, KH, KW)."""

    def __init__(self, geometry: Geometry):
        self.geometry = geometry

    def forward(self, x, weight, bias):
        self.save(x, weight)
        return kernels("conv", x).conv2d(x, weight, bias, **self.geometry._asdict())

    def backward(self, grad):
        x, weight = self.saved
        size, kernel_size = x.shape[2:], weight.shape[2:]
        return (
            Conv2dInputGrad(self.geometry, size)(grad, weight, None)
            if self.needs_grad(0)
            else None,
            Conv2dWeightGrad(self.geometry, kernel_size)(x, grad) if self.needs_grad(1) else None,
            sum(grad, (0, 2, 3)) if self.needs_grad(2) else None,
        )


class Conv2dInputGrad(Op):
    """x̄ = Wᵀ ∗ ȳ (+ b): `Conv2d`'s gradient for its input, and the transposed convolution."""

    def __init__(self, geometry: Geometry, input_size: Sizes):
        self.geometry, self.input_size = geometry, input_size

    def forward(self, grad, weight, bias):
        self.save(grad, weight)
        return kernels("conv", grad).conv2d_input_grad(
            grad, weight, bias, input_size=self.input_size, **self.geometry._asdict()
        )

    def backward(self, grad_x):
        grad, weight = self.saved
        kernel_size = weight.shape[2:]
        return (
            _conv2d_like(grad, self.geometry, grad_x, weight) if self.needs_grad(0) else None,
            Conv2dWeightGrad(self.geometry, kernel_size)(grad_x, grad)
            if self.needs_grad(1)
            else None,
            sum(grad_x, (0, 2, 3)) if self.needs_grad(2) else None,
        )


class Conv2dWeightGrad(Op):
    """W̄ = ȳ ⋆ x: the gradient of `Conv2d` for its weight."""

    def __init__(self, geometry: Geometry, kernel_size: Sizes):
        self.geometry, self.kernel_size = geometry, kernel_size

    def forward(self, x, grad):
        self.save(x, grad)
        return kernels("conv", x).conv2d_weight_grad(
            x, grad, kernel_size=self.kernel_size, **self.geometry._asdict()
        )

    def backward(self, grad_weight):
        x, grad = self.saved
        size = x.shape[2:]
        return (
            Conv2dInputGrad(self.geometry, size)(grad, grad_weight, None)
            if self.needs_grad(0)
            else None,
            _conv2d_like(grad, self.geometry, x, grad_weight) if self.needs_grad(1) else None,
        )


def _conv2d_like(grad, geometry: Geometry, x, weight):
    """`Conv2d` of x, as large as `grad`; there is room for more where a dilation let an output
    padding be as large as the stride."""
    y = Conv2d(geometry)(x, weight, None)
    height, width = grad.shape[2:]
    if y.shape[2:] == (height, width):
        return y
    return getitem(y, (slice(None), slice(None), slice(height), slice(width)))


def _check(op: str, input, weight, bias, axes: int, groups: int, transposed: bool) -> None:
    shapes = f"input {input.shape}, weight {weight.shape}"
    if input.ndim != axes + 2 or weight.ndim != axes + 2:
        one, spatial = ("image", "H, W") if axes == 2 else ("sequence", "L")
        raise ValueError(
            f"{op}: {shapes}: both need {axes + 2} axes, the input (N, C, {spatial}); "
            f"for one {one} use x[None]"
        )
    check_floats(op, input=input, weight=weight, bias=bias)
    channels, first, second = input.shape[1], *weight.shape[:2]
    if groups < 1 or channels % groups or first % groups:
        raise ValueError(f"{op}: groups={groups} must divide the channels: {shapes}")
    if transposed:
        rule, expected, out_channels = "(C_in, C_out/groups, ...)", first, second * groups
    else:
        rule, expected, out_channels = "(C_out, C_in/groups, ...)", second * groups, first
    if channels != expected:
        raise ValueError(
            f"{op}: {shapes}, groups={groups}: the weight is {rule}, so the input needs "
            f"{expected} channels, got {channels}"
        )
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(
            f"{op}: bias {tuple(bias.shape)} must have shape ({out_channels},), one value for "
            f"each output channel of weight {weight.shape}, groups={groups}"
        )


def _geometry(op: str, axes: int, stride, padding, dilation, groups: int) -> Geometry:
    return Geometry(
        sizes(op, "stride", stride, axes, least=1),
        sizes(op, "padding", padding, axes, least=0),
        sizes(op, "dilation", dilation, axes, least=1),
        groups,
    )


def _convolve(op: str, axes: int, input, weight, bias, stride, padding, dilation, groups: int):
    _check(op, input, weight, bias, axes, groups, transposed=False)
    geometry = _geometry(op, axes, stride, padding, dilation, groups)
    size = geometry.output_size(input.shape[2:], weight.shape[2:])
    if min(size) < 1:
        raise ValueError(
            f"{op}: input {input.shape}, kernel {weight.shape[2:]}, stride={geometry.stride}, "
            f"padding={geometry.padding}, dilation={geometry.dilation} give an output of {size}; "
            "the padded input must be at least as large as the kernel"
        )
    if axes == 2:
        return Conv2d(geometry)(input, weight, bias)
    return _of_rows(Conv2d(geometry.of_rows()), input, weight, bias)


def _convolve_transposed(
    op: str, axes: int, input, weight, bias, stride, padding, output_padding, groups: int, dilation
):
    _check(op, input, weight, bias, axes, groups, transposed=True)
    geometry = _geometry(op, axes, stride, padding, dilation, groups)
    extra = sizes(op, "output_padding", output_padding, axes, least=0)
    if any(e >= max(s, d) for e, s, _, d in zip(extra, *geometry[:3], strict=True)):
        raise ValueError(
            f"{op}: output_padding={extra} must be smaller than stride={geometry.stride} "
            f"or than dilation={geometry.dilation}"
        )
    size = tuple(
        (i - 1) * s - 2 * p + d * (k - 1) + e + 1
        for i, k, e, s, p, d in zip(
            input.shape[2:], weight.shape[2:], extra, *geometry[:3], strict=True
        )
    )
    if min(size) < 1:
        raise ValueError(
            f"{op}: input {input.shape}, kernel {weight.shape[2:]}, stride={geometry.stride}, "
            f"padding={geometry.padding}, output_padding={extra}, dilation={geometry.dilation} "
            f"give an output of {size}; use less padding"
        )
    if axes == 2:
        return Conv2dInputGrad(geometry, size)(input, weight, bias)
    return _of_rows(Conv2dInputGrad(geometry.of_rows(), (1, *size)), input, weight, bias)


def _of_rows(op: Op, input, weight, bias):
    """A one-dimensional convolution, by `op` over images of height 1."""
    return squeeze(op(unsqueeze(input, 2), unsqueeze(weight, 2), bias), 2)


def conv2d(
    input,
    weight,
    bias=None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
):
    """Two-dimensional cross-correlation.

    y[n,o,i,j] = b[o] + Σ_{c,kh,kw} x[n,c, i·s + kh·d - p, j·s + kw·d - p] W[o,c,kh,kw]

    input (N, C, H, W), weight (O, C/groups, KH, KW), bias (O,); returns (N, O, OH, OW) with
    OH = floor((H + 2p - d(KH - 1) - 1) / s) + 1, in channels-last memory.
    """
    return _convolve("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def conv1d(
    input,
    weight,
    bias=None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
):
    """`conv2d` in one dimension: input (N, C, L), weight (O, C/groups, K) -> (N, O, OL)."""
    return _convolve("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input,
    weight,
    bias=None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
):
    """The transpose of `conv2d` as a linear map; with stride s it enlarges s times.

    input (N, C, H, W), weight (C, O/groups, KH, KW), bias (O,); returns (N, O, OH, OW) with
    OH = (H - 1)s - 2p + d(KH - 1) + output_padding + 1, in channels-last memory.
    """
    return _convolve_transposed(
        "conv_transpose2d", 2, input, weight, bias,
        stride, padding, output_padding, groups, dilation,
    )  # fmt: skip


def conv_transpose1d(
    input,
    weight,
    bias=None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
):
    """`conv_transpose2d` in one dimension: input (N, C, L), weight (C, O/groups, K)."""
    return _convolve_transposed(
        "conv_transpose1d", 1, input, weight, bias,
        stride, padding, output_padding, groups, dilation,
    )  # fmt: skip
