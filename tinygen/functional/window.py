"""DRAW's attention: windows of Gaussian filters that read from an image and write to it."""

from __future__ import annotations

from ..autograd import Op
from ..device import array_module, kernels
from .checks import check_floats
from .elementwise import exp
from .linear import matmul
from .shape import reshape, split, transpose
from .softmax import softmax

__all__ = ["read_window", "write_window"]


class ReadWindow(Op):
    """γ F_y X F_xᵀ: images (N, C, H, W), window (N, 5) -> patches (N, C, size, size)."""

    def __init__(self, size: int):
        self.size = size

    def forward(self, images, window):
        self.save(images, window)
        return kernels("window", images).read_window(images, window, self.size)

    def backward(self, grad):
        images, window = self.saved
        return kernels("window", images).read_window_grad(grad, images, window)

    def composite(self, images, window):
        rows, columns, log_gain = _filters(window, self.size, images.shape[2:])
        return matmul(matmul(rows, images), transpose(columns, -1, -2)) * exp(log_gain)


class WriteWindow(Op):
    """1/γ F_yᵀ P F_x: patches (N, C, n, n), window (N, 5) -> images (N, C, height, width)."""

    def __init__(self, height: int, width: int):
        self.pixels = height, width

    def forward(self, patches, window):
        self.save(patches, window)
        return kernels("window", patches).write_window(patches, window, *self.pixels)

    def backward(self, grad):
        patches, window = self.saved
        return kernels("window", patches).write_window_grad(grad, patches, window)

    def composite(self, patches, window):
        rows, columns, log_gain = _filters(window, patches.shape[2], self.pixels)
        return matmul(matmul(transpose(rows, -1, -2), patches * exp(-log_gain)), columns)


def _filters(window, size, pixels):
    """F_y (N, 1, n, H), F_x (N, 1, n, W) and log γ (N, 1, 1, 1) from single operations."""
    x, y, log_variance, log_stride, log_gain = split(reshape(window, -1, 5, 1, 1), 1, 1)
    xp = array_module(window.data)
    stride = exp(log_stride) * ((max(pixels) - 1) / max(size - 1, 1))
    offsets = xp.arange(size, dtype=window.dtype)[:, None] - (size - 1) / 2

    def along(place, length):
        means = (place + 1) * ((length + 1) / 2) - 1 + stride * offsets
        distance = xp.arange(length, dtype=window.dtype) - means
        return softmax(distance * distance * exp(-log_variance) * -0.5, -1)

    return along(y, pixels[0]), along(x, pixels[1]), log_gain


def read_window(images, window, size: int):
    """A patch of size × size from each image, seen through a grid of Gaussian filters.

    γ F_y X F_xᵀ with F[i, a] = exp(-(a - μ_i)²/2σ²) / Z_i and means μ_i that lie δ apart

    images (N, C, H, W); window (N, 5) holds (g̃x, g̃y, log σ², log δ̃, log γ): at g̃ = 0 the grid is
    centred, at δ̃ = 1 it spans the image; returns (N, C, size, size). (Gregor et al. 2015,
    arXiv 1502.04623, equations 19 to 27; filters beyond the edge see the edge.)
    """
    _check("read_window", images, window)
    if size < 1:
        raise ValueError(f"read_window: size={size}; expected at least 1")
    return ReadWindow(size)(images, window)


def write_window(patches, window, height: int, width: int):
    """Patches (N, C, n, n) spread over images (N, C, height, width): `read_window` transposed.

    1/γ F_yᵀ P F_x, with the filters and windows (N, 5) of `read_window` (equation 29).
    """
    _check("write_window", patches, window)
    if patches.shape[2] != patches.shape[3]:
        raise ValueError(f"write_window: patches {patches.shape} must be square")
    return WriteWindow(height, width)(patches, window)


def _check(op: str, images, window) -> None:
    if images.ndim != 4 or tuple(window.shape) != (images.shape[0], 5):
        raise ValueError(
            f"{op}: images or patches (N, C, rows, columns) need a window (N, 5), "
            f"got {images.shape} and {window.shape}"
        )
    check_floats(op, images=images, window=window)
