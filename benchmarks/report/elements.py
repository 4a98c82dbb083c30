"""Cases bound by memory that treat each element alone: activations, chains, random numbers,
optimizers.

Bytes: every input read once, every result written once.
"""

from __future__ import annotations

import torch
from cases.common import forward, gradients
from tinygen_kernels.reference import random as reference_random
from tinygen_kernels.reference.elementwise import SAVED
from torch.nn import functional as F

from .cases import FLOAT, Case, elements, normal

__all__ = ["cases"]

ACTIVATIONS = {
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), 0.2),
    "tanh": (torch.tanh, 0.0),
    "sigmoid": (torch.sigmoid, 0.0),
    "softplus": (F.softplus, 0.0),
    "gelu": (F.gelu, 0.0),
}
DCGAN = [
    (100, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 4, 4),
    (512,), (512,), (256,), (256,), (128,), (128,), (64,), (64,),
]  # fmt: skip
ADAM = {"lr": 0.1, "beta1": 0.5, "beta2": 0.999, "eps": 1e-8}  # a rate that moves the parameters
STEP = 10


def cases(quick: bool = False) -> list[Case]:
    """Of the sizes that matter: memory well beyond the caches; DCGAN's parameters."""
    n = 37 if quick else 1 << 25
    parameters = [(4, 3, 2, 2), (5,)] if quick else DCGAN
    return [
        *(_activation(name, n, backward) for name in ACTIVATIONS for backward in (False, True)),
        _chain(n),
        *(_random(kind, n) for kind in ("normal", "uniform")),
        _adam(parameters),
        _global_norm(parameters),
        _average(parameters),
    ]


def _activation(name: str, n: int, backward: bool) -> Case:
    function, param = ACTIVATIONS[name]

    def ours(kernels, a):
        elementwise, x = kernels("elementwise"), a["x"]
        if not backward:
            return lambda: elementwise.activation(x, name, param)
        saved = x if SAVED[name] == "input" else elementwise.activation(x, name, param)
        return lambda: elementwise.activation_grad(a["g"], saved, name, param)

    def peer(a):
        return function(a["x"])

    return Case(
        family="elementwise",
        name=f"{name}{' gradient' if backward else ''} {n}",
        inputs={"x": normal(n), "g": normal(n)},
        ours=ours,
        peers={"torch": gradients(peer, ["x"]) if backward else forward(peer)},
        bytes=FLOAT * n * (3 if backward else 2),
    )


def _chain(n: int) -> Case:
    """A sample of a normal distribution with a learned mean and spread."""

    def ours(kernels, a):
        chain = kernels("elementwise").chain
        steps = [("exp",), ("mul", a["noise"]), ("add", a["mean"])]
        return lambda: chain(a["log_std"], steps)

    def peer(a):
        return a["mean"] + torch.exp(a["log_std"]) * a["noise"]

    return Case(
        family="elementwise",
        name=f"mean + exp(log_std) noise {n}",
        inputs={name: normal(n) for name in ("mean", "log_std", "noise")},
        ours=ours,
        peers={"torch": forward(peer)},
        bytes=4 * FLOAT * n,
    )


def _random(kind: str, n: int) -> Case:
    """Both draw by Philox; the reference says which numbers ours are. It is slow: both ends only.

    n and `ends` are multiples of 4, the numbers of a block, or the two ends are the whole.
    """
    seed, offset = 2**40 + 7, 11
    parameters = {"normal": (1.0, 2.0), "uniform": (-1.0, 1.0)}[kind]
    ends = min(n, 1 << 20)

    def ours(kernels, a):
        draw = getattr(kernels("random"), kind)

        def both_ends():
            out = draw(seed, offset, (n,), *parameters, "float32")
            return out[:ends], out[-ends:]

        return both_ends

    def peer(a):
        out = torch.empty_like(a["like"])
        return lambda: getattr(out, f"{kind}_")(*parameters)

    def expected(a):
        draw = getattr(reference_random, kind)
        starts = offset, offset + (n - ends) // 4
        parts = [draw(seed, start, (ends,), *parameters, "float64") for start in starts]
        return [torch.from_numpy(part).to(a["like"].device) for part in parts]

    return Case(
        family="random",
        name=f"{kind} {n}",
        inputs={"like": normal(n)},
        ours=ours,
        peers={"torch": peer},
        bytes=FLOAT * n,
        expected=expected,
    )


def _tensors(a: dict, name: str) -> list:
    return [value for key, value in a.items() if key.startswith(f"{name} ")]


def _of_each(name: str, shapes: list[tuple[int, ...]], draw=normal) -> dict:
    return {f"{name} {i}": draw(*shape) for i, shape in enumerate(shapes)}


def _squares(*shape: int):
    """Second moments: positive."""
    draw = normal(*shape)
    return lambda g: draw(g).square_()


def _adam(shapes: list[tuple[int, ...]]) -> Case:
    """All parameters in one launch; the results are parameters and both moments."""

    def ours(kernels, a):
        optim = kernels("optim")
        lists = [_tensors(a, name) for name in ("p", "m", "v")]
        pack, grads = optim.pack(*lists), _tensors(a, "g")

        def step():
            optim.adam_step(pack, grads, **ADAM, step=STEP)
            return [array for arrays in lists for array in arrays]

        return step

    def peer(a):
        params = _tensors(a, "p")
        on_gpu = params[0].is_cuda
        options = {"lr": ADAM["lr"], "betas": (ADAM["beta1"], ADAM["beta2"]), "eps": ADAM["eps"]}
        optimizer = torch.optim.Adam(params, **options, fused=True, capturable=on_gpu)
        moments = zip(_tensors(a, "g"), _tensors(a, "m"), _tensors(a, "v"), strict=True)
        for p, (g, m, v) in zip(params, moments, strict=True):
            p.grad = g
            done = torch.tensor(STEP - 1, dtype=torch.float32, device=p.device)
            optimizer.state[p] = {"step": done, "exp_avg": m, "exp_avg_sq": v}

        def step():
            optimizer.step()
            return [*params, *_tensors(a, "m"), *_tensors(a, "v")]

        return step

    lists = {"p": normal, "g": normal, "m": normal, "v": _squares}
    inputs = [_of_each(name, shapes, draw) for name, draw in lists.items()]
    return Case(
        family="optim",
        name=f"Adam, {elements(*shapes):,} parameters",
        inputs={key: draw for part in inputs for key, draw in part.items()},
        ours=ours,
        peers={"fused Adam": peer},
        bytes=7 * FLOAT * elements(*shapes),  # reads p, g, m, v; writes p, m, v
        in_place=True,
    )


def _global_norm(shapes: list[tuple[int, ...]]) -> Case:
    def ours(kernels, a):
        norm, grads = kernels("optim").global_norm, _tensors(a, "g")
        return lambda: norm(grads)

    def peer(a):
        grads = _tensors(a, "g")
        return lambda: torch.stack(torch._foreach_norm(grads)).norm()

    return Case(
        family="optim",
        name=f"global norm, {elements(*shapes):,} parameters",
        inputs=_of_each("g", shapes),
        ours=ours,
        peers={"foreach": peer},
        bytes=FLOAT * elements(*shapes),
    )


def _average(shapes: list[tuple[int, ...]]) -> Case:
    """The moving average of all parameters."""
    decay = 0.9

    def ours(kernels, a):
        optim, averages = kernels("optim"), _tensors(a, "a")
        pack = optim.pack(averages, _tensors(a, "p"))

        def step():
            optim.ema_step(pack, decay)
            return averages

        return step

    def peer(a):
        averages, params = _tensors(a, "a"), _tensors(a, "p")

        def step():
            torch._foreach_lerp_(averages, params, 1 - decay)
            return averages

        return step

    return Case(
        family="optim",
        name=f"moving average, {elements(*shapes):,} parameters",
        inputs=_of_each("a", shapes) | _of_each("p", shapes),
        ours=ours,
        peers={"foreach": peer},
        bytes=3 * FLOAT * elements(*shapes),
        in_place=True,
    )
