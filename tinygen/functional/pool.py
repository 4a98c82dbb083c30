"""Pooling windows and nearest-neighbour resizing of images (N, C, H, W)."""

from __future__ import annotations

from ..autograd import Op
from ..device import array_module, kernels
from .checks import Size, sizes

__all__ = ["avg_pool2d", "interpolate", "max_pool2d"]

Factor = float | tuple[float, float]


class MaxPool2d(Op):
    def __init__(self, window: dict):
        self.window = window

    def forward(self, x):
        self.size = x.shape[2:]
        y, self.indices = kernels("pool", x).max_pool2d(x, **self.window)
        return y

    def backward(self, grad):
        return MaxPool2dGrad(self.indices, self.size)(grad)


class MaxPool2dGrad(Op):
    """Every gradient goes to the place where its window's maximum was."""

    def __init__(self, indices, size):
        self.indices, self.size = indices, size

    def forward(self, grad):
        return kernels("pool", grad).max_pool2d_grad(grad, self.indices, self.size)

    def backward(self, grad_x):
        return PickAt(self.indices, self.size)(grad_x)


class PickAt(Op):
    """The values at the places of the maxima: the adjoint of `MaxPool2dGrad`."""

    def __init__(self, indices, size):
        self.indices, self.size = indices, size

    def forward(self, x):
        n, c, height, width = x.shape
        _, _, out_height, out_width = self.indices.shape
        places = self.indices.reshape(n, c, out_height * out_width)
        picked = array_module(x).take_along_axis(x.reshape(n, c, height * width), places, 2)
        return picked.reshape(self.indices.shape)

    def backward(self, grad):
        return MaxPool2dGrad(self.indices, self.size)(grad)


class AvgPool2d(Op):
    def __init__(self, window: dict):
        self.window = window

    def forward(self, x):
        self.size = x.shape[2:]
        return kernels("pool", x).avg_pool2d(x, **self.window)

    def backward(self, grad):
        return AvgPool2dGrad(self.window, self.size)(grad)


class AvgPool2dGrad(Op):
    def __init__(self, window: dict, size):
        self.window, self.size = window, size

    def forward(self, grad):
        return kernels("pool", grad).avg_pool2d_grad(grad, self.size, **self.window)

    def backward(self, grad_x):
        return AvgPool2d(self.window)(grad_x)


class Nearest(Op):
    def __init__(self, size):
        self.size = size

    def forward(self, x):
        self.size_in = x.shape[2:]
        return kernels("pool", x).interpolate_nearest(x, self.size)

    def backward(self, grad):
        return NearestGrad(self.size_in)(grad)


class NearestGrad(Op):
    def __init__(self, size):
        self.size = size

    def forward(self, grad):
        self.size_out = grad.shape[2:]
        return kernels("pool", grad).interpolate_nearest_grad(grad, self.size)

    def backward(self, grad_x):
        return Nearest(self.size_out)(grad_x)


def _window(op: str, input, kernel_size, stride, padding, dilation=1) -> dict:
    if input.ndim != 4:
        raise ValueError(
            f"{op}: input {input.shape} must be (N, C, H, W); for one image use x[None]"
        )
    window = {
        "kernel_size": sizes(op, "kernel_size", kernel_size, 2, least=1),
        "stride": sizes(op, "stride", kernel_size if stride is None else stride, 2, least=1),
        "padding": sizes(op, "padding", padding, 2, least=0),
        "dilation": sizes(op, "dilation", dilation, 2, least=1),
    }
    for k, p in zip(window["kernel_size"], window["padding"], strict=True):
        if 2 * p > k:
            raise ValueError(f"{op}: padding {p} must be at most half of the kernel size {k}")
    for size, k, p, d in zip(
        input.shape[2:], *(window[key] for key in ("kernel_size", "padding", "dilation")),
        strict=True,
    ):  # fmt: skip
        if size + 2 * p < d * (k - 1) + 1:
            raise ValueError(
                f"{op}: input {input.shape} with padding {p} is smaller than the window "
                f"{d * (k - 1) + 1} (kernel_size={k}, dilation={d})"
            )
    return window


def max_pool2d(
    input, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1
):
    """Largest value in each window; padding counts as -inf, of equal values the first wins.

    input (N, C, H, W) -> (N, C, OH, OW), OH = floor((H + 2p - d(k - 1) - 1) / s) + 1; the stride
    is the kernel size unless given.
    """
    return MaxPool2d(_window("max_pool2d", input, kernel_size, stride, padding, dilation))(input)


def avg_pool2d(
    input,
    *,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    count_include_pad: bool = True,
):
    """Mean of each window; padding counts as zeros unless `count_include_pad` is False.

    input (N, C, H, W) -> (N, C, OH, OW), OH = floor((H + 2p - k) / s) + 1.
    """
    window = _window("avg_pool2d", input, kernel_size, stride, padding)
    del window["dilation"]
    return AvgPool2d({**window, "count_include_pad": count_include_pad})(input)


def interpolate(
    input, *, size: Size | None = None, scale_factor: Factor | None = None, mode: str = "nearest"
):
    """Resize images to `size`, or by `scale_factor` (one or two) to floor(H · scale_factor).

    Output pixel i is input pixel floor(i · H / OH): PyTorch's "nearest", with
    `recompute_scale_factor=True` if H · scale_factor is no integer.
    """
    if mode != "nearest":
        raise ValueError(f"interpolate: mode={mode!r}; only 'nearest' is known")
    if input.ndim != 4:
        raise ValueError(f"interpolate: input {input.shape} must be (N, C, H, W)")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    if size is None:
        factors = scale_factor if isinstance(scale_factor, tuple) else (scale_factor,) * 2
        size = tuple(int(n * f) for n, f in zip(input.shape[2:], factors, strict=True))
    return Nearest(sizes("interpolate", "size", size, 2, least=1))(input)
