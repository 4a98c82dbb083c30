"""Cases bound by arithmetic: convolutions, masked ones, their gradients, matrix products.

FLOPs are the direct algorithm's, whatever is really computed: 2·N·OH·OW·O·C·KH·KW for each of the
three directions of a convolution, 2·M·N·K for a product. Bytes: each factor read once, the result
written once, as float32. A masked convolution counts its live taps only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from cases.products import masked_conv
from torch.nn import functional as F

from .cases import FLOAT, PRECISIONS, Case, elements, images, normal, shared

__all__ = ["cases"]


class Layer(NamedTuple):
    """A convolution of DCGAN's discriminator; the generator's are their input gradients."""

    n: int
    c: int
    size: int
    o: int
    kernel: int = 4
    stride: int = 2
    padding: int = 1

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1


LAYERS = [
    # 64 x 64, the paper's sizes; the last is the generator's first
    Layer(128, 3, 64, 64), Layer(128, 64, 32, 128), Layer(128, 128, 16, 256),
    Layer(128, 256, 8, 512), Layer(128, 512, 4, 1, stride=1, padding=0),
    Layer(128, 512, 4, 100, stride=1, padding=0),
    # 28 x 28
    Layer(128, 1, 28, 32), Layer(128, 32, 14, 64),
]  # fmt: skip
FEW_LAYERS = [Layer(2, 3, 8, 8), Layer(2, 5, 4, 1, stride=1, padding=0)]

MASKED = [(16, 64, 28, 64, 7), (16, 128, 32, 128, 3)]  # n, c, size, o, kernel
FEW_MASKED = [(2, 3, 5, 4, 3)]

PRODUCTS = [(128, 3136, 256), (4096, 512, 2048), (4096, 4096, 4096)]  # m, k, n
FEW_PRODUCTS = [(9, 20, 17)]


def cases(quick: bool = False) -> list[Case]:
    """The layers in every direction and precision; the products NN, NT and TN."""
    layers, masked, products = LAYERS, MASKED, PRODUCTS
    if quick:
        layers, masked, products = FEW_LAYERS, FEW_MASKED, FEW_PRODUCTS
    directions, forms = ("output", "input gradient", "weight gradient"), ("NN", "NT", "TN")
    return [
        *(_conv(layer, d, p) for p in PRECISIONS for layer in layers for d in directions),
        *(_masked(*sizes, d) for sizes in masked for d in directions),
        *(_matmul(*sizes, f, p) for p in PRECISIONS for sizes in products for f in forms),
    ]


def _conv(layer: Layer, direction: str, precision: str) -> Case:
    n, c, size, o, kernel, stride, padding = layer
    shapes = {
        "x": (n, c, size, size),
        "w": (o, c, kernel, kernel),
        "g": (n, o, layer.out_size, layer.out_size),
    }
    geometry = {
        "stride": (stride, stride),
        "padding": (padding, padding),
        "dilation": (1, 1),
        "groups": 1,
    }

    def ours(kernels, a):
        conv = kernels("conv")
        return {
            "output": lambda: conv.conv2d(a["x"], a["w"], **geometry),
            "input gradient": lambda: conv.conv2d_input_grad(
                a["g"], a["w"], input_size=(size, size), **geometry
            ),
            "weight gradient": lambda: conv.conv2d_weight_grad(
                a["x"], a["g"], kernel_size=(kernel, kernel), **geometry
            ),
        }[direction]

    def peer(memory):
        return lambda a: _torch_conv(_in_memory(memory, a), direction, layer)

    return Case(
        family="conv",
        name=f"{direction} n{n} c{c} hw{size} o{o}" + f" k{kernel}s{stride}" * (stride != 2),
        inputs={name: images(*shape) for name, shape in shapes.items()},
        ours=ours,
        peers={"NHWC": peer(torch.channels_last), "NCHW": peer(torch.contiguous_format)},
        bytes=FLOAT * elements(*shapes.values()),
        flops=2 * n * layer.out_size**2 * o * c * kernel**2,
        precision=precision,
    )


def _in_memory(memory: torch.memory_format, a: dict) -> dict:
    """The images in that memory."""
    return {k: t.contiguous(memory_format=memory) if t.ndim == 4 else t for k, t in a.items()}


def _torch_conv(a: dict, direction: str, layer: Layer):
    """PyTorch's call for one direction."""
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    if direction == "output":
        return lambda: F.conv2d(a["x"], a["w"], stride=stride, padding=padding)
    wanted = [direction == "input gradient", direction == "weight gradient", False]
    return lambda: torch.ops.aten.convolution_backward(
        a["g"], a["x"], a["w"], None, stride, padding, [1, 1], False, [0, 0], 1, wanted
    )[wanted.index(True)]


def _masked(n: int, c: int, size: int, o: int, kernel: int, direction: str) -> Case:
    case = masked_conv(n, c, size, o, kernel, "B", direction.replace("gradient", "grad"))

    def peer(memory):
        return lambda a: case.peer(_in_memory(memory, a))

    return shared(
        case,
        family="masked conv",
        name=f"{direction} n{n} c{c} hw{size} o{o} k{kernel}",
        peers={"NHWC": peer(torch.channels_last), "NCHW": peer(torch.contiguous_format)},
        precision="tf32",
    )


def _matmul(m: int, k: int, n: int, form: str, precision: str) -> Case:
    def factors(a):
        """A letter T means that the factor lies in memory the other way round."""
        left = a["a"].T if form[0] == "T" else a["a"]
        return left, a["b"].T if form[1] == "T" else a["b"]

    def ours(kernels, a):
        matmul = kernels("matmul").matmul
        left, right = factors(a)
        return lambda: matmul(left, right)

    def peer(a):
        left, right = factors(a)
        return lambda: left @ right

    return Case(
        family="matmul",
        name=f"{form} {m}x{k}x{n}",
        inputs={
            "a": normal(k, m) if form[0] == "T" else normal(m, k),
            "b": normal(n, k) if form[1] == "T" else normal(k, n),
        },
        ours=ours,
        peers={"cuBLAS": peer},
        bytes=FLOAT * elements((m, k), (k, n), (m, n)),
        flops=2 * m * n * k,
        precision=precision,
    )
