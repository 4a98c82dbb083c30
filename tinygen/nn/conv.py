"""Convolutions and transposed convolutions in one and two dimensions, pooling and resizing."""

from __future__ import annotations

import math

import numpy as np

from .. import functional as F
from ..functional.checks import Size, sizes
from . import init
from .module import Module, Parameter

__all__ = [
    "AvgPool2d", "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "MaxPool2d", "Upsample",
]  # fmt: skip


class _Conv(Module):
    """What the four have in common: options, parameters and their starting values."""

    axes: int
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: groups={groups} must divide in_channels={in_channels} "
                f"and out_channels={out_channels}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = sizes(
            type(self).__name__, "kernel_size", kernel_size, self.axes, least=1
        )
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        first, second = in_channels, out_channels
        if not self.transposed:
            first, second = second, first
        # Channels-last memory under the usual shape: the order in which the kernels read weights.
        memory = np.empty((first, *self.kernel_size, second // groups), np.float32)
        self.weight = Parameter(np.moveaxis(memory, -1, 1))
        self.register_parameter(
            "bias", Parameter(np.empty(out_channels, np.float32)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new starting values: uniform in ±1/√fan_in, as PyTorch does."""
        bound = 1 / math.sqrt(max(math.prod(self.weight.shape[1:]), 1))
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _options(self) -> dict:
        return {
            "stride": self.stride, "padding": self.padding,
            "dilation": self.dilation, "groups": self.groups,
        }  # fmt: skip

    def extra_repr(self) -> str:
        options = {"kernel_size": self.kernel_size, **self._options()}
        text = ", ".join(f"{key}={value}" for key, value in options.items())
        return f"{self.in_channels}, {self.out_channels}, {text}, bias={self.bias is not None}"


class _ConvTranspose(_Conv):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.output_padding = output_padding

    def _options(self) -> dict:
        return {**super()._options(), "output_padding": self.output_padding}


class Conv1d(_Conv):
    """(N, C_in, L) -> (N, C_out, L_out); weight (C_out, C_in/groups, K)."""

    axes = 1

    def forward(self, input):
        return F.conv1d(input, self.weight, self.bias, **self._options())


class Conv2d(_Conv):
    """(N, C_in, H, W) -> (N, C_out, H_out, W_out); weight (C_out, C_in/groups, KH, KW)."""

    axes = 2

    def forward(self, input):
        return F.conv2d(input, self.weight, self.bias, **self._options())


class ConvTranspose1d(_ConvTranspose):
    """(N, C_in, L) -> (N, C_out, L_out); weight (C_in, C_out/groups, K)."""

    axes = 1

    def forward(self, input):
        return F.conv_transpose1d(input, self.weight, self.bias, **self._options())


class ConvTranspose2d(_ConvTranspose):
    """(N, C_in, H, W) -> (N, C_out, H_out, W_out); weight (C_in, C_out/groups, KH, KW)."""

    axes = 2

    def forward(self, input):
        return F.conv_transpose2d(input, self.weight, self.bias, **self._options())


class MaxPool2d(Module):
    """Largest value in each window; see `F.max_pool2d`."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
                 dilation: Size = 1):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.padding, self.dilation = padding, dilation

    def forward(self, input):
        return F.max_pool2d(
            input, kernel_size=self.kernel_size, stride=self.stride,
            padding=self.padding, dilation=self.dilation,
        )  # fmt: skip


class AvgPool2d(Module):
    """Mean of each window; see `F.avg_pool2d`."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, *,
                 count_include_pad: bool = True):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.count_include_pad = count_include_pad

    def forward(self, input):
        return F.avg_pool2d(
            input, kernel_size=self.kernel_size, stride=self.stride, padding=self.padding,
            count_include_pad=self.count_include_pad,
        )  # fmt: skip


class Upsample(Module):
    """Nearest-neighbour enlargement; see `F.interpolate`."""

    def __init__(
        self, size: Size | None = None, scale_factor: float | None = None, mode: str = "nearest"
    ):
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode

    def forward(self, input):
        return F.interpolate(input, size=self.size, scale_factor=self.scale_factor, mode=self.mode)
