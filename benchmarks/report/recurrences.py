"""Cases bound by a chain of steps: LSTM, GRU, and PixelRNN's two-dimensional scans.

FLOPs: 2 for each weight in each step of each sequence, and twice as many more for the gradients.
Bytes: inputs and results once; a forward pass also writes the activated gates and the cells, which
the backward pass reads.
"""

from __future__ import annotations

import torch
from cases.recurrences import scan

from .cases import FLOAT, Case, normal, shared

__all__ = ["cases"]

SEQUENCES = [(64, 64, 128, 256), (64, 32, 512, 512), (28, 128, 28, 128)]  # t, n, inputs, hidden
MAPS = [(16, 64, 28, 28), (16, 128, 32, 32)]  # n, hidden, height, width
FEW_SEQUENCES, FEW_MAPS = [(3, 2, 5, 8)], [(2, 4, 3, 5)]


def cases(quick: bool = False) -> list[Case]:
    """Each forward, and forward with gradients."""
    sequences, maps = (FEW_SEQUENCES, FEW_MAPS) if quick else (SEQUENCES, MAPS)
    precisions, both = ("tf32", "fp32"), (False, True)
    return [
        *(_sequence("lstm", *s, grad, p) for p in precisions for s in sequences for grad in both),
        *(_sequence("gru", *s, grad, "tf32") for s in sequences[:1] for grad in both),
        *(_map(kind, *s, grad) for kind in ("row", "diagonal") for s in maps for grad in both),
    ]


def _sequence(kind: str, t: int, n: int, i: int, h: int, gradients: bool, precision: str) -> Case:
    gates = {"lstm": 4, "gru": 3}[kind]
    shapes = {"x": (t, n, i), "h": (n, h), "c": (n, h)}
    if kind == "gru":
        del shapes["c"]
    states = list(shapes)[1:]
    inputs = {name: normal(*shape) for name, shape in shapes.items()}
    scale = h**-0.5  # larger weights make the recurrence chaotic
    inputs |= {
        "wi": normal(gates * h, i, scale=scale),
        "wh": normal(gates * h, h, scale=scale),
        "b": normal(gates * h),
        "g": normal(t, n, h),
        **{f"g{s}": normal(n, h) for s in states},
    }

    def ours(kernels, a):
        recurrent = kernels("recurrent")
        scan, grad = getattr(recurrent, kind), getattr(recurrent, f"{kind}_grad")
        start = a["x"], *(a[s] for s in states), a["wi"], a["wh"]

        def forward():
            return scan(*start, a["b"])

        def both():
            output, *_, saved = forward()
            into = a["g"], *(a[f"g{s}"] for s in states)
            return grad(*into, *start, output, saved)[: len(start) + 1]

        return both if gradients else lambda: forward()[:-1]

    def peer(a):
        like = {"device": a["x"].device, "dtype": a["x"].dtype}
        net = getattr(torch.nn, kind.upper())(i, h, **like)
        values = a["wi"], a["wh"], a["b"], torch.zeros_like(a["b"])
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), values, strict=True):
                parameter.copy_(value)
        x, *first = (a[name].detach()[None].requires_grad_() for name in ("x", *states))
        state = tuple(first) if kind == "lstm" else first[0]

        def forward():
            output, last = net(x[0], state)
            return output, *(s[0] for s in (last if kind == "lstm" else (last,)))

        def only_forward():
            with torch.no_grad():
                return forward()

        def both():
            into = a["g"], *(a[f"g{s}"] for s in states)
            wanted = x, *first, *list(net.parameters())[:3]
            gx, *rest = torch.autograd.grad(forward(), wanted, into)
            return gx[0], *(r[0] for r in rest[: len(first)]), *rest[len(first) :]

        return both if gradients else only_forward

    def generic(a):
        """PyTorch's own path: a launch of the cell for every step."""
        call = peer(a)

        def without_cudnn():
            torch.backends.cudnn.enabled = False
            try:
                return call()
            finally:
                torch.backends.cudnn.enabled = True

        return without_cudnn

    saved = gates + 1
    per_step = i + h + saved * h + gradients * (2 * h + saved * h + i)
    return Case(
        family=kind,
        name=f"t{t} n{n} i{i} h{h}" + (" with gradients" * gradients),
        inputs=inputs,
        ours=ours,
        peers={"cuDNN": peer, "generic": generic},
        bytes=FLOAT * (t * n * per_step + (1 + gradients) * gates * h * (i + h)),
        flops=(3 if gradients else 1) * 2 * t * n * gates * h * (i + h),
        precision=precision,
    )


def _map(kind: str, n: int, h: int, height: int, width: int, gradients: bool) -> Case:
    case = scan(kind, n, h, height, width, gradients)
    return shared(
        case,
        family=f"{kind} LSTM",
        name=f"n{n} h{h} {height}x{width}" + (" with gradients" * gradients),
        peers={"a PyTorch loop": case.peer},
        precision="tf32",
    )
