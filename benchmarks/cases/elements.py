"""Activations and the optimizer: bound by memory, each element by itself."""

from __future__ import annotations

import math

import numpy as np

from .common import FLOAT, Case, forward, normal

SIZES = (1 << 14, 1 << 22)
PARAMETERS = {
    "mlp": [(32, 8), (32,), (32, 32), (32,), (1, 32), (1,)],
    "dcgan": [
        (100, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 4, 4),
        (512,), (256,), (128,), (64,),
    ],
}  # fmt: skip


def activation(name: str, n: int) -> Case:
    def function(a):
        import torch

        functions = torch.tanh, torch.sigmoid, torch.nn.functional.gelu
        return dict(zip(("tanh", "sigmoid", "gelu"), functions, strict=True))[name](a["x"])

    return Case(
        name, {"n": n}, {"x": normal(n)},
        lambda kernels, a: lambda: kernels("elementwise").activation(a["x"], name),
        forward(function), bytes=2 * FLOAT * n,
    )  # fmt: skip


def adam(net: str) -> Case:
    """One step of all parameters; the gradients are the parameters before it."""
    shapes = PARAMETERS[net]

    def ours(kernels, a):
        optim, params = kernels("optim"), list(a.values())
        pack = optim.pack(params, *([np.zeros_like(p) for p in params] for _ in range(2)))
        grads = [p.copy() for p in params]

        def step():
            optim.adam_step(pack, grads, lr=1e-3, beta1=0.5, beta2=0.999, eps=1e-8, step=1)
            return params

        return step

    def peer(a):
        import torch

        params = list(a.values())
        for p in params:
            p.grad = p.detach().clone()
        optimizer = torch.optim.Adam(params, lr=1e-3, betas=(0.5, 0.999), fused=True)

        def step():
            optimizer.step()
            return params

        return step

    return Case(
        "adam step", {"net": net}, {f"p{i}": normal(*shape) for i, shape in enumerate(shapes)},
        ours, peer,
        bytes=7 * FLOAT * sum(map(math.prod, shapes)),  # reads p, g, m, v; writes p, m, v
    )  # fmt: skip


CASES = [activation(name, n) for n in SIZES for name in ("tanh", "sigmoid", "gelu")]
CASES += [adam(net) for net in PARAMETERS]
