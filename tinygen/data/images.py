"""Pictures to uint8 arrays of one colour mode and one size."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as in Pillow
_BLOCK = 1024  # images that `conform` holds in float32


def decode(data: bytes, image_size: int | None, channels: int) -> np.ndarray:
    """Decode a picture file to uint8 `(channels, H, W)`, turned upright as its EXIF data says.

    With an `image_size` the central square is cut out and resized to it. Transparent parts turn
    white; an animation gives its first frame. Raises what Pillow raises for a damaged file.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        if image_size is not None:
            # A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8 of its size, never
            # below twice the target, so that the filter has the last word.
            image.draft(None, (2 * image_size, 2 * image_size))
        ImageOps.exif_transpose(image, in_place=True)
        image = _plain(image, "L" if channels == 1 else "RGB")
        if image_size is not None:
            image = image.crop(_central_square(*image.size))
            # When it shrinks, Pillow widens the bilinear filter to cover every pixel: no aliasing.
            image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def conform(images: np.ndarray, image_size: int | None, channels: int | None) -> np.ndarray:
    """Bring uint8 `(N, C, H, W)` to the wanted size and channels; None keeps what is there.

    The same crop and filter as `decode`, as two matrix products for all images of a block: a set
    of 60,000 takes a second, not ten.
    """
    _, depth, height, width = images.shape
    if image_size is not None and (height, width) != (image_size, image_size):
        left, top, right, bottom = _central_square(width, height)
        filter_ = _bilinear(right - left, image_size)
        result = np.empty((len(images), depth, image_size, image_size), dtype=np.uint8)
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK, :, top:bottom, left:right].astype(np.float32)
            # Half a grey level, since the assignment to bytes cuts off the fraction.
            result[start : start + _BLOCK] = filter_ @ block @ filter_.T + np.float32(0.5)
        images = result
    if channels == 3 and depth == 1:
        return images.repeat(3, axis=1)
    if channels == 1 and depth == 3:
        grey = [np.rint(np.tensordot(image, _LUMA, axes=(0, 0))) for image in images]
        return np.array(grey, dtype=np.uint8).reshape(-1, 1, *images.shape[2:])
    return images


def _plain(image: Image, mode: str) -> Image:
    """Convert to 8-bit grey ("L") or RGB, transparent parts to white."""
    from PIL import Image

    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion would clip at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _central_square(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest square in the middle."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _bilinear(size: int, new_size: int) -> np.ndarray:
    """The matrix (new_size, size) that resamples a line with a triangle filter.

        w[i, j] ∝ max(0, 1 - |x_j - c_i| / s),  c_i = (i + 1/2) size / new_size,  x_j = j + 1/2

    with s = max(1, size / new_size): one pixel wide to enlarge, one new pixel wide to shrink.
    """
    scale = size / new_size
    centres = (np.arange(new_size) + 0.5) * scale
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(1.0, scale)
    weights = np.maximum(0, 1 - distances)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
