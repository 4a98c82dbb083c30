"""The likelihood models' own: samples with their KL, pixels' log-probabilities, steps of flows.

Bytes: each number once that is read or written.
"""

from __future__ import annotations

from .common import FLOAT, Case, both, forward, gradients, normal

LATENTS = [(100, 20), (8192, 64)]  # n, d
BINARY = [(100, 1), (100, 50)]  # n, samples of each
GREY = [64 * 3 * 32 * 32]  # pixels and colours of a batch
FLOWS = [(100, 32), (8192, 64)]  # n, d
PIXELS = 784
LEVELS = {"half": 1 / 255, "low": -1.0, "high": 1.0}
FORGET_BIAS = 1.5


def gaussian(n: int, d: int, gradient: bool) -> Case:
    def ours(kernels, a):
        family, q = kernels("density"), (a["mean"], a["log_std"], a["noise"])
        if gradient:
            return lambda: family.reparameterize_grad(a["g"], a["g_kl"], *q)
        return lambda: family.reparameterize(*q)

    def function(a):
        mean, log_std = a["mean"], a["log_std"]
        kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
        return mean + log_std.exp() * a["noise"], kl

    back = gradients(function, ["mean", "log_std"], ["g", "g_kl"])
    arrays = {name: normal(n, d) for name in ("mean", "log_std", "noise", "g")}
    return Case(
        "gaussian sample + kl" + " grad" * gradient, {"n": n, "d": d},
        arrays | {"g_kl": normal(n)}, ours, back if gradient else forward(function),
        bytes=FLOAT * n * d * (6 if gradient else 4),
    )  # fmt: skip


def bernoulli(n: int, k: int, gradient: bool) -> Case:
    """k samples of the logits for each image."""

    def ours(kernels, a):
        family = kernels("density")
        if gradient:
            return lambda: family.bernoulli_log_likelihood_grad(a["g"], a["x"], a["y"])
        return lambda: family.bernoulli_log_likelihood(a["x"], a["y"])

    def function(a):
        from torch.nn.functional import binary_cross_entropy_with_logits

        y = a["y"].expand(k, -1, -1)
        losses = binary_cross_entropy_with_logits(a["x"].view_as(y), y, reduction="none")
        return -losses.sum(2).flatten()

    return Case(
        "bernoulli" + " grad" * gradient, {"n": n, "k": k},
        {
            "x": normal(n * k, PIXELS),
            "y": lambda source: source(n, PIXELS) > 0,
            "g": normal(n * k),
        },
        ours, gradients(function, ["x"]) if gradient else forward(function),
        bytes=FLOAT * n * PIXELS * ((2 if gradient else 1) * k + 1),
    )  # fmt: skip


def discretized_logistic(n: int, gradient: bool) -> Case:
    """Levels from -1 to 1, 256 of them."""

    def ours(kernels, a):
        family, arguments = kernels("density"), (a["x"], a["mean"], a["log_scale"])
        if gradient:
            return lambda: family.discretized_logistic_grad(a["g"], *arguments, **LEVELS)
        return lambda: family.discretized_logistic(*arguments, **LEVELS)

    def function(a):
        import torch
        from torch.nn.functional import logsigmoid

        half, centred, inverse = LEVELS["half"], a["x"] - a["mean"], torch.exp(-a["log_scale"])
        below_top = logsigmoid((centred + half) * inverse)
        above_bottom = logsigmoid((half - centred) * inverse)
        inner = below_top + above_bottom + torch.log(-torch.expm1(-2 * half * inverse))
        log_p = torch.where(a["x"] > 1 - half, above_bottom, inner)
        return torch.where(a["x"] < -1 + half, below_top, log_p)

    return Case(
        "discretized logistic" + " grad" * gradient, {"n": n},
        {
            "x": lambda source: (127.5 * source(n) + 127.5).round().clip(0, 255) / 127.5 - 1,
            "mean": normal(n), "log_scale": lambda source: source(n) - 3, "g": normal(n),
        },
        ours, gradients(function, ["mean", "log_scale"]) if gradient else forward(function),
        bytes=FLOAT * n * (6 if gradient else 4),
    )  # fmt: skip


def iaf_gate(n: int, d: int, gradient: bool) -> Case:
    def ours(kernels, a):
        family = kernels("flow")
        if gradient:
            return lambda: family.iaf_gate_grad(
                a["g"], a["g_log_det"], a["z"], a["ms"], bias=FORGET_BIAS
            )
        return lambda: family.iaf_gate(a["z"], a["ms"], bias=FORGET_BIAS)

    def function(a):
        import torch

        m, s = a["ms"].chunk(2, 1)
        s = s + FORGET_BIAS
        log_det = torch.nn.functional.logsigmoid(s).sum(1)
        return torch.lerp(m, a["z"], torch.sigmoid(s)), log_det

    back = gradients(function, ["z", "ms"], ["g", "g_log_det"])
    return Case(
        "iaf gate" + " grad" * gradient, {"n": n, "d": d}, _flow_inputs(n, d),
        ours, back if gradient else forward(function),
        bytes=FLOAT * n * d * (7 if gradient else 4),
    )  # fmt: skip


def iaf_affine(n: int, d: int, gradient: bool) -> Case:
    """The other kind of step has no kernel of its own: it is built of `tinygen.functional`."""

    def ours(kernels, a):
        from tinygen import Tensor, functional, grad

        z, ms = (Tensor(a[name], requires_grad=gradient) for name in ("z", "ms"))
        given = [Tensor(a[name]) for name in ("g", "g_log_det")]

        def compute():
            results = functional.iaf_affine(z, ms)
            found = grad(results, [z, ms], given) if gradient else results
            return tuple(value.data for value in found)

        return compute

    def function(a):
        m, s = (0.1 * a["ms"]).chunk(2, 1)
        return (a["z"] - m) * (-s).exp(), -s.sum(1)

    back = both(function, ["z", "ms"], ["g", "g_log_det"])
    return Case(
        "iaf affine step" + " forward + grad" * gradient, {"n": n, "d": d}, _flow_inputs(n, d),
        ours, back if gradient else forward(function),
        bytes=FLOAT * n * d * (4 + gradient * 7),
    )  # fmt: skip


def _flow_inputs(n: int, d: int) -> dict:
    return {"z": normal(n, d), "ms": normal(n, 2 * d), "g": normal(n, d), "g_log_det": normal(n)}


DIRECTIONS = False, True
CASES = [gaussian(*sizes, gradient) for sizes in LATENTS for gradient in DIRECTIONS]
CASES += [bernoulli(*sizes, gradient) for sizes in BINARY for gradient in DIRECTIONS]
CASES += [discretized_logistic(n, gradient) for n in GREY for gradient in DIRECTIONS]
CASES += [iaf_gate(*sizes, gradient) for sizes in FLOWS for gradient in DIRECTIONS]
CASES += [iaf_affine(*sizes, gradient) for sizes in FLOWS for gradient in DIRECTIONS]
