"""Convolutions, masked ones and their gradients: bound by arithmetic.

FLOPs are the direct algorithm's, 2·N·OH·OW·O·C·KH·KW in each direction, whatever is really
computed. A masked convolution counts its live taps only.
"""

from __future__ import annotations

from .common import FLOAT, Case, forward, gradients, images

LAYERS = [  # DCGAN's discriminator at 28 and at 64 pixels: n, c, size, o
    (128, 1, 28, 32), (128, 32, 14, 64), (64, 3, 64, 64), (64, 64, 32, 128), (64, 128, 16, 256),
    (64, 256, 8, 512),
]  # fmt: skip
# n, c, size, o, kernel, mask: the first layer of a PixelRNN, an inner one of a PixelCNN
MASKED = [
    (16, 1, 28, 32, 7, "A"), (16, 64, 28, 64, 3, "B"),
]  # fmt: skip
DIRECTIONS = ("output", "input grad", "weight grad")
GEOMETRY = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}


def conv(n: int, c: int, size: int, o: int, direction: str) -> Case:
    """4 × 4, stride 2."""

    def ours(kernels, a):
        family = kernels("conv")
        return {
            "output": lambda: family.conv2d(a["x"], a["w"], **GEOMETRY),
            "input grad": lambda: family.conv2d_input_grad(
                a["g"], a["w"], input_size=(size, size), **GEOMETRY
            ),
            "weight grad": lambda: family.conv2d_weight_grad(
                a["x"], a["g"], kernel_size=(4, 4), **GEOMETRY
            ),
        }[direction]

    def function(a):
        from torch.nn.functional import conv2d

        return conv2d(a["x"], a["w"], stride=2, padding=1)

    return Case(
        f"conv {direction}", {"n": n, "c": c, "hw": size, "o": o},
        {
            "x": images(n, c, size, size),
            "w": images(o, c, 4, 4),
            "g": images(n, o, size // 2, size // 2),
        },
        ours, _peer(function, direction),
        flops=2 * n * (size // 2) ** 2 * o * c * 16, images=True,
    )  # fmt: skip


def masked_conv(n: int, c: int, size: int, o: int, kernel: int, mask: str, direction: str) -> Case:
    """PyTorch's side leaves the rows below the centre out of its kernel; what is left of the
    centre's row to the right is zeros."""
    reach = kernel // 2
    taps = [divmod(tap, kernel) for tap in range(kernel * reach + reach + (mask == "B"))]
    geometry = {"taps": taps, "kernel_size": (kernel, kernel), "padding": (reach, reach)}

    def ours(kernels, a):
        family = kernels("masked_conv")
        return {
            "output": lambda: family.masked_conv2d(a["x"], a["w"], **geometry),
            "input grad": lambda: family.masked_conv2d_input_grad(
                a["g"], a["w"], input_size=(size, size), **geometry
            ),
            "weight grad": lambda: family.masked_conv2d_weight_grad(a["x"], a["g"], **geometry),
        }[direction]

    def function(a):
        from torch.nn.functional import conv2d, pad

        rows = pad(a["w"], (0, (reach + 1) * kernel - len(taps)))
        rows = rows.unflatten(2, (reach + 1, kernel))
        return conv2d(a["x"], rows, padding=reach)[:, :, :size]

    return Case(
        f"masked conv {direction}", {"n": n, "c": c, "hw": size, "o": o, "k": f"{kernel}{mask}"},
        {
            "x": images(n, c, size, size),
            "w": lambda source: source(o, len(taps), c).swapaxes(1, 2),
            "g": images(n, o, size, size),
        },
        ours, _peer(function, direction),
        bytes=FLOAT * (n * (c + o) * size**2 + o * c * len(taps)),
        flops=2 * n * size**2 * o * c * len(taps), images=True,
    )  # fmt: skip


def _peer(function, direction: str):
    if direction == "output":
        return forward(function)
    return gradients(function, [{"input grad": "x", "weight grad": "w"}[direction]])


CASES = [conv(*layer, direction) for layer in LAYERS for direction in DIRECTIONS]
CASES += [masked_conv(*layer, direction) for layer in MASKED for direction in DIRECTIONS]
