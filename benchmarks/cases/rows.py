"""Norms, softmax, cross entropy: bound by memory, row by row or channel by channel.

Bytes: every array as often as the algorithm can't help reading it, each result once.
"""

from __future__ import annotations

import numpy as np

from .common import FLOAT, Case, forward, gradients, images, normal

MAPS = [(128, 32, 14), (64, 64, 32), (64, 256, 8)]  # n, c, size
WEIGHTS = [(300, 784, False), (1920, 1920, True)]  # outputs, inputs, masked: of VAEs with flows
# 256 levels of grey for the pixels of 128 MNIST images; a thousand classes
LOGITS = [(100352, 256), (4096, 1000)]


def batch_norm(n: int, c: int, size: int, gradient: bool) -> Case:
    """With the leaky ReLU behind it, as a Sequential runs the two."""
    options = {"eps": 1e-5, "activation": "leaky_relu", "param": 0.2}

    def ours(kernels, a):
        norm = kernels("norm")
        if not gradient:
            return lambda: norm.batch_norm(a["x"], a["w"], a["b"], **options)[0]
        _, mean, var = norm.batch_norm(a["x"], a["w"], a["b"], **options)
        return lambda: norm.batch_norm_grad(a["g"], a["x"], mean, var, a["w"], a["b"], **options)

    def function(a):
        from torch.nn import functional as F

        return F.leaky_relu(F.batch_norm(a["x"], None, None, a["w"], a["b"], training=True), 0.2)

    return Case(
        "batch norm + leaky relu" + " grad" * gradient, {"n": n, "c": c, "hw": size},
        {
            "x": images(n, c, size, size), "g": images(n, c, size, size),
            "w": normal(c), "b": normal(c),
        },
        ours, gradients(function, ["x", "w", "b"]) if gradient else forward(function),
        # two reads (statistics; normalisation) and a write; four reads and a write
        bytes=FLOAT * n * c * size**2 * (5 if gradient else 3), images=True,
    )  # fmt: skip


def weight_norm(o: int, i: int, masked: bool, gradient: bool) -> Case:
    """Each row of a matrix, of which a mask leaves a part."""

    def ours(kernels, a):
        family = kernels("weight_norm")
        v, g, mask = a["v"], a["length"], a["mask"] if masked else None
        if not gradient:
            return lambda: family.weight_norm(v, g, mask, dim=0)[0]
        _, norms = family.weight_norm(v, g, mask, dim=0)
        return lambda: family.weight_norm_grad(a["g"], v, g, norms, mask, dim=0)

    def function(a):
        import torch

        # What its parametrization calls.
        return torch._weight_norm(a["v"] * a["mask"] if masked else a["v"], a["length"], 0)

    return Case(
        f"{'masked ' * masked}weight norm" + " grad" * gradient, {"o": o, "i": i},
        {
            "v": normal(o, i), "length": normal(o, 1), "g": normal(o, i),
            "mask": lambda source: source(o, i) > 0,
        },
        ours, gradients(function, ["v", "length"]) if gradient else forward(function),
        bytes=FLOAT * o * i * (2 + masked + gradient),
    )  # fmt: skip


def softmax(rows: int, classes: int) -> Case:
    return Case(
        "softmax", {"rows": rows, "classes": classes}, {"x": normal(rows, classes)},
        lambda kernels, a: lambda: kernels("softmax").softmax(a["x"]),
        forward(lambda a: a["x"].softmax(1)),
        bytes=2 * FLOAT * rows * classes,
    )  # fmt: skip


def cross_entropy(rows: int, classes: int, gradient: bool) -> Case:
    targets = np.arange(rows) % classes

    def ours(kernels, a):
        family, x = kernels("softmax"), a["x"]
        if not gradient:
            return lambda: family.cross_entropy(x, targets)[0]
        _, lse = family.cross_entropy(x, targets)
        return lambda: family.cross_entropy_grad(a["g"], x, targets, lse)

    def function(a):
        import torch
        from torch.nn.functional import cross_entropy

        return cross_entropy(a["x"], torch.from_numpy(targets), reduction="none")

    return Case(
        "cross entropy" + " grad" * gradient, {"rows": rows, "classes": classes},
        {"x": normal(rows, classes), "g": normal(rows)},
        ours, gradients(function, ["x"]) if gradient else forward(function),
        bytes=FLOAT * rows * classes * (2 if gradient else 1),
    )  # fmt: skip


CASES = [batch_norm(*sizes, gradient) for sizes in MAPS for gradient in (False, True)]
CASES += [weight_norm(*sizes, gradient) for sizes in WEIGHTS for gradient in (False, True)]
for sizes in LOGITS:
    CASES += [softmax(*sizes), *(cross_entropy(*sizes, gradient) for gradient in (False, True))]
