"""Convolutions. Output, input gradient and weight gradient are three primitives closed under
differentiation: the derivative of each is made of the other two, so gradients of any order exist.
"""

from __future__ import annotations

from typing import NamedTuple

from ..autograd import Op
from ..device import kernels
from .reduce import sum
from .shape import getitem

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]

Size = int | tuple[int, ...]
Pair = tuple[int, int]


class Geometry(NamedTuple):
    """How a kernel moves over an image; each pair is (vertical, horizontal)."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def output_size(self, size: Pair, kernel_size: Pair) -> Pair:
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
    """x̄ = Wᵀ ∗ ȳ (+ b): the gradient of `Conv2d` for its input; also the transposed convolution."""

    def __init__(self, geometry: Geometry, input_size: Pair):
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
            Conv2d(self.geometry)(grad_x, weight, None) if self.needs_grad(0) else None,
            Conv2dWeightGrad(self.geometry, kernel_size)(grad_x, grad)
            if self.needs_grad(1)
            else None,
            sum(grad_x, (0, 2, 3)) if self.needs_grad(2) else None,
        )


class Conv2dWeightGrad(Op):
    """W̄ = ȳ ⋆ x: the gradient of `Conv2d` for its weight."""

    def __init__(self, geometry: Geometry, kernel_size: Pair):
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
            Conv2d(self.geometry)(x, grad_weight, None) if self.needs_grad(1) else None,
        )


def _sizes(value: Size, axes: int, name: str, least: int, op: str) -> tuple[int, ...]:
    """An option for every spatial axis, given as one number or as one per axis."""
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes or any(v < least for v in values):
        raise ValueError(f"{op}: {name}={value} must be {axes} number(s), each at least {least}")
    return values


def _check(op: str, input, weight, bias, axes: int, groups: int, channel_axis: int) -> None:
    """`channel_axis` of the weight, times groups or not, is what the input's channels must be."""
    shapes = f"input {input.shape}, weight {weight.shape}"
    if input.ndim != axes + 2 or weight.ndim != axes + 2:
        spatial = ", ".join("HW"[-axes:]) if axes == 2 else "L"
        raise ValueError(
            f"{op}: {shapes}: both need {axes + 2} axes, the input (N, C, {spatial}); "
            "for one image use x[None]"
        )
    c, o = input.shape[1], weight.shape[0]
    transposed = channel_axis == 0
    if groups < 1 or c % groups or (o % groups and not transposed):
        raise ValueError(f"{op}: groups={groups} must divide the channels: {shapes}")
    expected = o if transposed else weight.shape[1] * groups
    if c != expected:
        rule = "weight is (C_in, C_out/groups, ...)" if transposed else (
            "weight is (C_out, C_in/groups, ...)"
        )
        raise ValueError(
            f"{op}: {shapes}, groups={groups}: {rule}, so the input needs {expected} "
            f"channels, got {c}"
        )
    out_channels = weight.shape[1] * groups if transposed else o
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(f"{op}: bias {bias.shape} for {out_channels} output channels")


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
    _check("conv2d", input, weight, bias, 2, groups, channel_axis=1)
    geometry = Geometry(
        _sizes(stride, 2, "stride", 1, "conv2d"),
        _sizes(padding, 2, "padding", 0, "conv2d"),
        _sizes(dilation, 2, "dilation", 1, "conv2d"),
        groups,
    )
    size = geometry.output_size(input.shape[2:], weight.shape[2:])
    if min(size) < 1:
        raise ValueError(
            f"conv2d: input {input.shape}, kernel {tuple(weight.shape[2:])}, "
            f"stride={geometry.stride}, padding={geometry.padding}, dilation={geometry.dilation} "
            f"give an output of {size}; the padded input must be at least as large as the kernel"
        )
    return Conv2d(geometry)(input, weight, bias)


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
    op = "conv_transpose2d"
    _check(op, input, weight, bias, 2, groups, channel_axis=0)
    geometry = Geometry(
        _sizes(stride, 2, "stride", 1, op),
        _sizes(padding, 2, "padding", 0, op),
        _sizes(dilation, 2, "dilation", 1, op),
        groups,
    )
    extra = _sizes(output_padding, 2, "output_padding", 0, op)
    if any(e >= max(s, d) for e, s, d in zip(extra, geometry.stride, geometry.dilation, strict=True)):
        raise ValueError(
            f"{op}: output_padding={extra} must be smaller than the stride {geometry.stride} "
            f"or the dilation {geometry.dilation}"
        )
    size = tuple(
        (i - 1) * s - 2 * p + d * (k - 1) + e + 1
        for i, k, s, p, d, e in zip(
            input.shape[2:], weight.shape[2:], *geometry[:3], extra, strict=True
        )
    )
    if min(size) < 1:
        raise ValueError(
            f"{op}: input {input.shape}, kernel {tuple(weight.shape[2:])}, {geometry} "
            f"give an output of {size}; use less padding"
        )
    return Conv2dInputGrad(geometry, size)(input, weight, bias)


def _on_images(convolve, input, weight, bias, options: dict):
    """A one-dimensional convolution as a two-dimensional one over images of height 1."""
    name = convolve.__name__.replace("2d", "1d")
    _check(
        name, input, weight, bias, 1, options["groups"],
        channel_axis=0 if "transpose" in name else 1,
    )  # fmt: skip
    neutral = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
    for key, value in options.items():
        if key != "groups":
            (along,) = _sizes(value, 1, key, int(key in ("stride", "dilation")), name)
            options[key] = (neutral[key], along)
    one_row = (slice(None), slice(None), None)
    y = convolve(getitem(input, one_row), getitem(weight, one_row), bias, **options)
    return getitem(y, (slice(None), slice(None), 0))


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
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _on_images(conv2d, input, weight, bias, options)


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
    options = {
        "stride": stride, "padding": padding, "output_padding": output_padding,
        "groups": groups, "dilation": dilation,
    }  # fmt: skip
    return _on_images(conv_transpose2d, input, weight, bias, options)
