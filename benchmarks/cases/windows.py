"""DRAW's windows: a grid of Gaussian filters laid on each image.

Bytes: each number once that is read or written.
FLOPs: those of F_y X F_xᵀ or F_yᵀ P F_x, and three times as many for the gradients of the factors.
"""

from __future__ import annotations

from .common import FLOAT, Case, forward, gradients, normal

SIZES = [(100, 2, 28, 5), (100, 2, 28, 12), (64, 3, 64, 16)]  # n, c, image, window


def window(n: int, c: int, size: int, filters: int, gradient: bool, *, writes: bool) -> Case:
    """A window of `filters` x `filters` Gaussians on each image, which it reads or writes."""
    small, large = (n, c, filters, filters), (n, c, size, size)
    seen, made = (small, large) if writes else (large, small)
    name = "write_window" if writes else "read_window"
    sizes = (size, size) if writes else (filters,)

    def ours(kernels, a):
        family = kernels("window")
        if gradient:
            back = getattr(family, f"{name}_grad")
            return lambda: back(a["g"], a["x"], a["window"])
        return lambda: getattr(family, name)(a["x"], a["window"], *sizes)

    def function(a):
        rows, columns, log_gain = _filters(a["window"], size, filters)
        if writes:
            return (rows.transpose(2, 3) @ a["x"] @ columns) * (-log_gain).exp()
        return (rows @ a["x"] @ columns.transpose(2, 3)) * log_gain.exp()

    numbers = size**2 + filters**2 + (seen[2] ** 2 if gradient else 0)
    return Case(
        name.replace("_", " ") + " grad" * gradient, {"n": n, "c": c, "hw": size, "w": filters},
        {"x": normal(*seen), "window": normal(n, 5, scale=0.3), "g": normal(*made)}, ours,
        gradients(function, ["x", "window"]) if gradient else forward(function),
        bytes=FLOAT * n * (c * numbers + (10 if gradient else 5)),
        flops=2 * n * c * filters * size * (size + filters) * (3 if gradient else 1),
    )  # fmt: skip


def _filters(window, size: int, count: int):
    """F_y and F_x, (N, 1, count, size) each, and log γ (N, 1, 1, 1)."""
    import torch

    x, y, log_variance, log_stride, log_gain = window.split(1, 1)
    offsets = torch.arange(count, device=window.device) - (count - 1) / 2
    pixels = torch.arange(float(size), device=window.device)
    stride = log_stride.exp() * ((size - 1) / max(count - 1, 1))
    centres = (torch.cat([y, x], 1) + 1) * ((size + 1) / 2) - 1
    means = centres[:, :, None] + (stride * offsets)[:, None]
    distance = pixels - means[..., None]
    sharpness = -0.5 * torch.exp(-log_variance)[:, :, None, None]
    rows, columns = (sharpness * distance**2).softmax(3).split(1, 1)
    return rows, columns, log_gain[:, :, None, None]


BOTH = False, True
CASES = [
    window(*sizes, gradient, writes=writes)
    for sizes in SIZES
    for writes in BOTH
    for gradient in BOTH
]
