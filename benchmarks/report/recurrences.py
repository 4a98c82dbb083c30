"""Cases bound by a chain of steps: LSTM, GRU, and PixelRNN's two-dimensional scans.

FLOPs: 2 for each weight in each step of each sequence, and twice as many more for the gradients.
Bytes: inputs and results once; a forward pass also writes the activated gates and the cells, which
the backward pass reads.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .cases import FLOAT, Case, normal

__all__ = ["cases", "diagonal_lstm", "row_lstm"]

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
    taps = {"row": 3, "diagonal": 2}[kind]
    loop = {"row": row_lstm, "diagonal": diagonal_lstm}[kind]

    def ours(kernels, a):
        scans = kernels("scan")
        scan, grad = getattr(scans, f"{kind}_lstm"), getattr(scans, f"{kind}_lstm_grad")

        def both():
            output, saved = scan(a["z"], a["w"])
            return grad(a["g"], a["w"], None, None, output, saved)[:2]

        return both if gradients else lambda: scan(a["z"], a["w"])[0]

    def peer(a):
        z, w = (a[name].detach().requires_grad_() for name in ("z", "w"))

        def forward():
            with torch.no_grad():
                return loop(z, w)

        return (lambda: torch.autograd.grad(loop(z, w), (z, w), a["g"])) if gradients else forward

    per_pixel = 10 * h + gradients * 11 * h
    return Case(
        family=f"{kind} LSTM",
        name=f"n{n} h{h} {height}x{width}" + (" with gradients" * gradients),
        inputs={
            "z": normal(n, 4 * h, height, width),
            "w": normal(4 * h, h, taps, scale=(taps * h) ** -0.5),
            "g": normal(n, h, height, width),
        },
        ours=ours,
        peers={"a PyTorch loop": peer},
        bytes=FLOAT * n * height * width * per_pixel,
        flops=(3 if gradients else 1) * 2 * n * height * width * 4 * h * h * taps,
        precision="tf32",
    )


def row_lstm(z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The Row LSTM as a PyTorch program: a convolution along the row for every row."""
    n, _, height, width = z.shape
    h = c = z.new_zeros(n, weight.shape[1], width)
    rows = []
    for i in range(height):
        h, c = _cell(z[:, :, i] + F.conv1d(h, weight, padding=weight.shape[2] // 2), c)
        rows.append(h)
    return torch.stack(rows, 2)


def diagonal_lstm(z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One direction of the Diagonal BiLSTM on the skewed map: row i begins i columns later."""
    n, gates, height, width = z.shape
    columns = width + height - 1
    skewed = F.pad(z, (0, height)).reshape(n, gates, -1)[:, :, : height * columns]
    skewed = skewed.reshape(n, gates, height, columns)
    h = c = z.new_zeros(n, weight.shape[1], height)
    begun = torch.ones(height, columns, device=z.device, dtype=z.dtype).triu()
    done = []
    for t in range(columns):
        h, c = _cell(skewed[..., t] + F.conv1d(F.pad(h, (1, 0)), weight), c)
        h, c = h * begun[:, t], c * begun[:, t]
        done.append(h)
    flat = F.pad(torch.stack(done, 3).flatten(2), (0, height))
    return flat.reshape(n, -1, height, columns + 1)[..., :width]


def _cell(a: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    i, f, g, o = a.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c
