"""Max and average pooling, nearest-neighbour resizing, and their gradients, on (N, C, H, W).

Sizes are pairs (height, width). Windows start every `stride` elements, `padding` before the first
element, and take `kernel_size` elements, `dilation` apart, of which those in the padding do not
count: out = floor((size + 2 · padding - dilation · (kernel_size - 1) - 1) / stride) + 1.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "avg_pool2d",
    "avg_pool2d_grad",
    "interpolate_nearest",
    "interpolate_nearest_grad",
    "max_pool2d",
    "max_pool2d_grad",
    "nearest",
    "windows",
]

Pair = tuple[int, int]
"""Height and width."""


def windows(
    size: int, *, kernel_size: int, stride: int, padding: int, dilation: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Pooling windows along an axis: window i reads x[first[i] : stop[i] : dilation].

    Raises ValueError for options that leave no window, or a window without an element.
    """
    reach = dilation * (kernel_size - 1) + 1
    given = (
        f"pooling: size {size} with kernel_size {kernel_size}, stride {stride}, "
        f"padding {padding}, dilation {dilation}"
    )
    if min(kernel_size, stride, dilation) < 1 or padding < 0:
        raise ValueError(f"{given}: all must be at least 1, padding at least 0")
    count = (size + 2 * padding - reach) // stride + 1
    if count < 1:
        raise ValueError(f"{given}: a window spans {reach} of {size + 2 * padding} elements")
    start = np.arange(count) * stride - padding
    first = np.where(start < 0, start % dilation, start)
    stop = np.minimum(start + reach, size)
    if (first >= stop).any():
        raise ValueError(f"{given}: a window lies in the padding only; take a smaller padding")
    return first, stop


def nearest(size: int, out: int) -> np.ndarray:
    """The elements that nearest-neighbour resizing takes: floor(i · size / out) for i < out.

    PyTorch takes size / out in float32, and so the element before for some sizes (2 to 82, say).
    """
    return np.arange(out) * size // out


def _window_pairs(size, kernel_size, stride, padding, dilation=(1, 1)):
    """(i, j) and the slices of the window there, for every output position."""
    spans = [
        windows(n, kernel_size=k, stride=s, padding=p, dilation=d)
        for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    ]
    slices = [
        [slice(a, b, d) for a, b in zip(*span, strict=True)]
        for span, d in zip(spans, dilation, strict=True)
    ]
    shape = (len(slices[0]), len(slices[1]))
    return shape, [((i, j), (slices[0][i], slices[1][j])) for i, j in np.ndindex(shape)]


def max_pool2d(
    x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Largest value of each window, and where it is: y and int32 indices h · W + w into the image.

    Of equal values the first counts; a NaN counts as the largest.
    """
    height, width = x.shape[2:]
    image = np.arange(height * width).reshape(height, width)
    shape, pairs = _window_pairs(x.shape[2:], kernel_size, stride, padding, dilation)
    y = np.empty((*x.shape[:2], *shape), x.dtype)
    indices = np.empty(y.shape, np.int32)
    for (i, j), (rows, columns) in pairs:
        part = x[:, :, rows, columns]
        window = part.reshape(*x.shape[:2], part.shape[2] * part.shape[3])
        best = window.argmax(-1)
        y[:, :, i, j] = np.take_along_axis(window, best[..., None], -1)[..., 0]
        indices[:, :, i, j] = image[rows, columns].ravel()[best]
    return y, indices


def max_pool2d_grad(grad: np.ndarray, indices: np.ndarray, size: Pair) -> np.ndarray:
    """Add each gradient to the element of its (H, W) = `size` image that `max_pool2d` took."""
    n, channels = grad.shape[:2]
    grad_x = np.zeros((n, channels, size[0] * size[1]), grad.dtype)
    image, channel = np.ogrid[:n, :channels]
    for i, j in np.ndindex(*grad.shape[2:]):
        grad_x[image, channel, indices[:, :, i, j]] += grad[:, :, i, j]
    return grad_x.reshape(n, channels, *size)


def avg_pool2d(
    x: np.ndarray,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Mean of each window; padding counts as zeros, or not at all without `count_include_pad`."""
    shape, pairs = _window_pairs(x.shape[2:], kernel_size, stride, padding)
    y = np.empty((*x.shape[:2], *shape), x.dtype)
    for (i, j), (rows, columns) in pairs:
        window = x[:, :, rows, columns]
        count = kernel_size[0] * kernel_size[1]
        if not count_include_pad:
            count = window.shape[2] * window.shape[3]
        y[:, :, i, j] = window.sum((2, 3)) / count
    return y


def avg_pool2d_grad(
    grad: np.ndarray,
    size: Pair,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Spread each gradient evenly over its window in an image of `size` (H, W)."""
    grad_x = np.zeros((*grad.shape[:2], *size), grad.dtype)
    for (i, j), (rows, columns) in _window_pairs(size, kernel_size, stride, padding)[1]:
        window = grad_x[:, :, rows, columns]
        count = kernel_size[0] * kernel_size[1]
        if not count_include_pad:
            count = window.shape[2] * window.shape[3]
        window += grad[:, :, i, j, None, None] / count
    return grad_x


def interpolate_nearest(x: np.ndarray, size: Pair) -> np.ndarray:
    """Resize to `size` (H, W): y[i, j] = x[floor(i · H_in / H), floor(j · W_in / W)]."""
    return x[:, :, nearest(x.shape[2], size[0])][:, :, :, nearest(x.shape[3], size[1])]


def interpolate_nearest_grad(grad: np.ndarray, size: Pair) -> np.ndarray:
    """Sum of the gradients of all copies of an element; `size` (H, W) is the input's."""
    grad_x = np.zeros((*grad.shape[:2], *size), grad.dtype)
    rows = nearest(size[0], grad.shape[2])
    columns = nearest(size[1], grad.shape[3])
    for i, j in np.ndindex(*grad.shape[2:]):
        grad_x[:, :, rows[i], columns[j]] += grad[:, :, i, j]
    return grad_x
