"""Each kernel at the shapes the models use: tinygen beside the NumPy reference and PyTorch.

    python benchmarks/kernels.py --json results.json
    python benchmarks/kernels.py --quick --only conv

Every library first computes the result, which must agree with the reference in float64, or no time
is printed. GFLOP/s and GB/s come from the formulas below, percentages from the machine's ceilings,
measured in the same run: a large float32 product, a large copy. FLOPs of a
convolution are the direct algorithm's, 2·N·OH·OW·O·C·KH·KW, whatever is really computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import (
    Worker,
    ceilings,
    machine,
    parser,
    print_table,
    relative_error,
    serve,
    time_call,
    write_json,
)


@dataclass(frozen=True)
class Case:
    """One kernel at one shape; `flops` or `bytes` of a call, whichever bounds it."""

    kernel: str
    shape: dict[str, Any]
    flops: float = 0.0
    bytes: float = 0.0
    arrays: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kernel} {' '.join(f'{k}{v}' for k, v in self.shape.items())}"


def conv_cases() -> list[Case]:
    cases = []
    for n, c, size, o in [(128, 1, 28, 32), (128, 32, 14, 64), (64, 3, 64, 64), (64, 64, 32, 128),
                          (64, 128, 16, 256), (64, 256, 8, 512)]:  # fmt: skip
        shape = {"n": n, "c": c, "hw": size, "o": o}
        arrays = {"x": (n, c, size, size), "w": (o, c, 4, 4), "g": (n, o, size // 2, size // 2)}
        flops = 2 * n * (size // 2) ** 2 * o * c * 16
        cases += [
            Case(kernel, shape, flops=flops, arrays=arrays)
            for kernel in ("conv output", "conv input grad", "conv weight grad")
        ]
    return cases


def other_cases() -> list[Case]:
    cases = []
    for n, c, size in [(128, 32, 14), (64, 64, 32), (64, 256, 8)]:
        total = n * c * size * size * 4
        arrays = {"x": (n, c, size, size), "g": (n, c, size, size), "w": (c,), "b": (c,)}
        shape = {"n": n, "c": c, "hw": size}
        cases += [
            # two reads (statistics; normalisation) and a write; four reads and a write
            Case("batch norm + leaky relu", shape, bytes=3 * total, arrays=arrays),
            Case("batch norm + leaky relu grad", shape, bytes=5 * total, arrays=arrays),
        ]
    for size in (1 << 14, 1 << 22):
        for kernel in ("tanh", "sigmoid", "gelu"):
            arrays = {"x": (size,)}
            cases.append(Case(kernel, {"n": size}, bytes=8 * size, arrays=arrays))
    for rows, classes in [(100352, 256), (4096, 1000)]:
        arrays, shape = {"x": (rows, classes)}, {"rows": rows, "classes": classes}
        total = rows * classes * 4
        cases += [
            Case("softmax", shape, bytes=2 * total, arrays=arrays),
            Case("cross entropy", shape, bytes=total, arrays=arrays),
        ]
    for t, n, i, h in [(28, 64, 28, 128), (64, 32, 128, 256)]:
        arrays = {
            "x": (t, n, i), "h": (n, h), "c": (n, h), "wi": (4 * h, i), "wh": (4 * h, h),
            "b": (4 * h,), "g": (t, n, h),
        }  # fmt: skip
        flops = 2 * t * n * 4 * h * (i + h)
        shape = {"t": t, "n": n, "i": i, "h": h}
        cases += [
            Case("lstm", shape, flops=flops, arrays=arrays),
            Case("lstm forward + grad", shape, flops=3 * flops, arrays=arrays),
        ]
    sizes = {"mlp": [(32, 8), (32,), (32, 32), (32,), (1, 32), (1,)],
             "dcgan": [(100, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4),
                       (64, 3, 4, 4), (512,), (256,), (128,), (64,)]}  # fmt: skip
    for net, shapes in sizes.items():
        total = sum(int(np.prod(s)) for s in shapes) * 4
        arrays = {f"p{i}": s for i, s in enumerate(shapes)}
        # reads p, g, m, v; writes p, m, v
        cases.append(Case("adam step", {"net": net}, bytes=7 * total, arrays=arrays))
    return cases


def density_cases() -> list[Case]:
    """The likelihood models': samples with their KL, binary images, levels of grey. Four bytes for
    each number that is read or written."""
    cases = []
    for n, d in [(100, 20), (8192, 64)]:
        arrays = {name: (n, d) for name in ("mean", "log_std", "noise", "g")}
        shape = {"n": n, "d": d}
        kernel = "gaussian sample + kl"
        cases += [
            Case(kernel, shape, bytes=16 * n * d, arrays=arrays),
            Case(f"{kernel} grad", shape, bytes=24 * n * d, arrays=arrays),
        ]
    for n, k in [(100, 1), (100, 50)]:
        shape, arrays = {"n": n, "k": k}, {"x": (n * k, 784), "y": (n, 784), "g": (n * k,)}
        total = n * k * 784
        cases += [
            Case("bernoulli", shape, bytes=4 * (total + n * 784), arrays=arrays),
            Case("bernoulli grad", shape, bytes=4 * (2 * total + n * 784), arrays=arrays),
        ]
    n = 64 * 3 * 32 * 32
    arrays = {name: (n,) for name in ("x", "mean", "log_scale", "g")}
    cases += [
        Case("discretized logistic", {"n": n}, bytes=16 * n, arrays=arrays),
        Case("discretized logistic grad", {"n": n}, bytes=24 * n, arrays=arrays),
    ]
    return cases


CASES = {case.name: case for case in conv_cases() + other_cases() + density_cases()}


def inputs(case: Case) -> dict[str, np.ndarray]:
    """The same float32 arrays in every process; images in channels-last memory."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in case.arrays.items():
        a = rng.standard_normal(shape, dtype=np.float32)
        if case.kernel.startswith("lstm") and name in ("wi", "wh"):
            a /= np.sqrt(shape[-1], dtype=np.float32)  # larger ones make the recurrence chaotic
        if len(shape) == 4 and case.kernel != "adam step":
            a = np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        found[name] = a
    if case.kernel.startswith("bernoulli"):
        found["y"] = (found["y"] > 0).astype(np.float32)
    if case.kernel.startswith("discretized"):
        found["x"] = np.rint(127.5 * (found["x"] + 1)).clip(0, 255) / np.float32(127.5) - 1
        found["log_scale"] -= 3
    return found


GEOMETRY = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}


def tinygen_call(case: Case, backend: str, a: dict[str, np.ndarray]) -> Callable[[], Any]:
    """The case through the kernels of one backend, `cpu` or `reference`."""
    import importlib

    def family(name):
        return importlib.import_module(f"tinygen_kernels.{backend}.{name}")

    kernel = case.kernel
    if kernel.startswith("conv"):
        conv = family("conv")
        return {
            "conv output": lambda: conv.conv2d(a["x"], a["w"], **GEOMETRY),
            "conv input grad": lambda: conv.conv2d_input_grad(
                a["g"], a["w"], input_size=a["x"].shape[2:], **GEOMETRY),
            "conv weight grad": lambda: conv.conv2d_weight_grad(
                a["x"], a["g"], kernel_size=(4, 4), **GEOMETRY),
        }[kernel]  # fmt: skip
    if kernel.startswith("batch norm"):
        norm = family("norm")
        options = {"eps": 1e-5, "activation": "leaky_relu", "param": 0.2}
        if not kernel.endswith("grad"):
            return lambda: norm.batch_norm(a["x"], a["w"], a["b"], **options)[0]
        _, mean, var = norm.batch_norm(a["x"], a["w"], a["b"], **options)
        return lambda: norm.batch_norm_grad(
            a["g"], a["x"], mean, var, a["w"], a["b"], **options)[0]  # fmt: skip
    if kernel in ("tanh", "sigmoid", "gelu"):
        elementwise = family("elementwise")
        return lambda: elementwise.activation(a["x"], kernel)
    if kernel in ("softmax", "cross entropy"):
        softmax = family("softmax")
        if kernel == "softmax":
            return lambda: softmax.softmax(a["x"])
        targets = np.arange(len(a["x"])) % a["x"].shape[1]
        return lambda: softmax.cross_entropy(a["x"], targets)[0]
    if kernel.startswith("lstm"):
        recurrent = family("recurrent")
        arguments = (a["x"], a["h"], a["c"], a["wi"], a["wh"])

        def forward():
            return recurrent.lstm(*arguments, a["b"])

        def both():
            output, _, _, saved = forward()
            zeros = np.zeros_like(a["h"])
            return recurrent.lstm_grad(a["g"], zeros, zeros, *arguments, output, saved)[3]

        return (lambda: forward()[0]) if kernel == "lstm" else both
    if case in density_cases():
        return density_call(family("density"), kernel, a)
    optim = family("optim")
    params = list(a.values())
    pack = optim.pack(params, *([np.zeros_like(p) for p in params] for _ in range(2)))
    grads = [p.copy() for p in params]

    def step():
        optim.adam_step(pack, grads, lr=1e-3, beta1=0.5, beta2=0.999, eps=1e-8, step=1)
        return params[0]

    return step


LEVELS = {"half": 1 / 255, "low": -1.0, "high": 1.0}


def density_call(density, kernel: str, a: dict[str, np.ndarray]) -> Callable[[], Any]:
    if kernel.startswith("gaussian"):
        normal = a["mean"], a["log_std"], a["noise"]
        ones = np.ones(len(a["g"]), a["g"].dtype)
        if kernel.endswith("grad"):
            return lambda: density.reparameterize_grad(a["g"], ones, *normal)[1]
        return lambda: density.reparameterize(*normal)[1]
    if kernel.startswith("bernoulli"):
        if kernel.endswith("grad"):
            return lambda: density.bernoulli_log_likelihood_grad(a["g"], a["x"], a["y"])
        return lambda: density.bernoulli_log_likelihood(a["x"], a["y"])
    logistic = a["x"], a["mean"], a["log_scale"]
    if kernel.endswith("grad"):
        return lambda: density.discretized_logistic_grad(a["g"], *logistic, **LEVELS)[1]
    return lambda: density.discretized_logistic(*logistic, **LEVELS)


def torch_density(kernel: str, t: dict[str, Any]) -> Callable[[], Any]:
    """The usual formulae; a gradient goes back through a graph that is kept."""
    import torch
    from torch.nn import functional as F

    mean = t["x" if kernel.startswith("bernoulli") else "mean"]
    mean.requires_grad_(kernel.endswith("grad"))
    if kernel.startswith("gaussian"):
        log_std = t["log_std"].requires_grad_(mean.requires_grad)

        def forward():
            z = mean + log_std.exp() * t["noise"]
            return z, 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)

        if not mean.requires_grad:
            return lambda: forward()[1]
        outputs, grads = forward(), (t["g"], torch.ones(len(t["g"])))
        wanted = [mean, log_std]
    elif kernel.startswith("bernoulli"):
        y = t["y"].expand(len(mean) // len(t["y"]), -1, -1)

        def forward():
            losses = F.binary_cross_entropy_with_logits(mean.view_as(y), y, reduction="none")
            return -losses.sum(2).flatten()

        if not mean.requires_grad:
            return forward
        outputs, grads, wanted = (forward(),), (t["g"],), [mean]
    else:
        log_scale = t["log_scale"].requires_grad_(mean.requires_grad)
        x, half = t["x"], LEVELS["half"]

        def forward():
            inverse = torch.exp(-log_scale)
            upper, lower = (x - mean + half) * inverse, (x - mean - half) * inverse
            below_top, above_bottom = F.logsigmoid(upper), F.logsigmoid(-lower)
            inner = below_top + above_bottom + torch.log(-torch.expm1(-2 * half * inverse))
            log_p = torch.where(x > 1 - half, above_bottom, inner)
            return torch.where(x < -1 + half, below_top, log_p)

        if not mean.requires_grad:
            return forward
        outputs, grads, wanted = (forward(),), (t["g"],), [mean, log_scale]
    return lambda: torch.autograd.grad(outputs, wanted, grads, retain_graph=True)[-1]


def torch_call(case: Case, a: dict[str, np.ndarray], layout: str) -> Callable[[], Any]:
    """The case through PyTorch, in contiguous or channels-last memory."""
    import torch
    from torch.nn import functional as F

    memory = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    t = {k: torch.tensor(v) for k, v in a.items()}
    t = {k: v.contiguous(memory_format=memory) if v.ndim == 4 else v for k, v in t.items()}
    kernel = case.kernel
    if kernel.startswith("conv"):

        def gradient(mask):
            return torch.ops.aten.convolution_backward(
                t["g"], t["x"], t["w"], None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1, mask
            )

        return {
            "conv output": lambda: F.conv2d(t["x"], t["w"], stride=2, padding=1),
            "conv input grad": lambda: gradient([True, False, False])[0],
            "conv weight grad": lambda: gradient([False, True, False])[1],
        }[kernel]  # fmt: skip
    if kernel.startswith("batch norm"):

        def forward(x):
            y = F.batch_norm(x, None, None, t["w"], t["b"], training=True)
            return F.leaky_relu(y, 0.2)

        if not kernel.endswith("grad"):
            return lambda: forward(t["x"])
        x = t["x"].requires_grad_()
        t["w"].requires_grad_()
        t["b"].requires_grad_()
        y = forward(x)
        return lambda: torch.autograd.grad(
            y, [x, t["w"], t["b"]], t["g"], retain_graph=True)[0]  # fmt: skip
    if kernel in ("tanh", "sigmoid", "gelu"):
        function = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "gelu": F.gelu}[kernel]
        return lambda: function(t["x"])
    if kernel == "softmax":
        return lambda: torch.softmax(t["x"], 1)
    if kernel == "cross entropy":
        targets = torch.arange(len(t["x"])) % t["x"].shape[1]
        return lambda: F.cross_entropy(t["x"], targets, reduction="none")
    if kernel.startswith("lstm"):
        net = torch.nn.LSTM(t["x"].shape[2], t["h"].shape[1])
        values = {"weight_ih_l0": t["wi"], "weight_hh_l0": t["wh"],
                  "bias_ih_l0": t["b"], "bias_hh_l0": 0 * t["b"]}  # fmt: skip
        net.load_state_dict(values)
        state = t["h"][None], t["c"][None]
        if kernel == "lstm":

            def forward():
                with torch.no_grad():
                    return net(t["x"], state)[0]

            return forward
        x = t["x"].requires_grad_()
        wanted = [x, *net.parameters()]
        return lambda: torch.autograd.grad(net(x, state)[0], wanted, t["g"])[1]
    if case in density_cases():
        return torch_density(kernel, t)
    params = [v.requires_grad_() for v in t.values()]
    for p in params:
        p.grad = p.detach().clone()
    optimizer = torch.optim.Adam(params, lr=1e-3, betas=(0.5, 0.999), fused=True)

    def step():
        optimizer.step()
        return params[0].detach()

    return step


def answer(library: str, request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: compute one case, compare with float64, time it."""
    case = CASES[request["case"]]
    a = inputs(case)
    wide = {k: v.astype(np.float64) for k, v in a.items()}
    expected = np.asarray(tinygen_call(case, "reference", wide)())
    if library.startswith("torch"):
        call = torch_call(case, a, library.partition(" ")[2])
    else:
        call = tinygen_call(case, "reference" if library == "reference" else "cpu", a)
    error = relative_error(np.asarray(call()), expected)
    if error > 2e-5 * max(1, (case.flops or 1) ** 0.1):
        return {"error": error}
    if library == "reference":  # plain NumPy takes seconds where kernels take milliseconds
        return {"error": error, **time_call(call, seconds=0, warm_up=0, least=1)}
    return {"error": error, **time_call(call, seconds=request["seconds"])}


def main() -> None:
    args = parser(__doc__.splitlines()[0]).parse_args()
    if args.worker:
        serve(lambda request: answer(args.worker, request))
        return
    top = ceilings()
    names = ["tinygen", "reference", "torch", "torch channels-last"]
    workers = {name: Worker(__file__, name, args.threads) for name in names}
    rows, results = [], {"machine": machine(), "ceilings": top, "cases": {}}
    for case in CASES.values():
        if args.only not in case.name:
            continue
        images = any(len(s) == 4 for s in case.arrays.values()) and case.kernel != "adam step"
        found = {}
        for name in names if images else names[:3]:
            seconds = 0.05 if args.quick else 1.0
            found[name] = workers[name].ask(case=case.name, seconds=seconds)
            if "median" not in found[name]:
                sys.exit(f"{case.name}: {name} is wrong by {found[name]['error']:.1e}")
        results["cases"][case.name] = found
        rows.append(_row(case, found, top))
        print(f"{case.name}: done", file=sys.stderr)
    for worker in workers.values():
        worker.close()
    print(f"{results['machine']}")
    print(f"ceilings: {top['gflops']:.0f} GFLOP/s, {top['gbps']:.1f} GB/s\n")
    print_table(
        ["kernel", "tinygen ms", "20..80 %", "rate", "of ceiling", "torch ms", "channels-last",
         "reference", "speed / torch"], rows,
    )  # fmt: skip
    write_json(args.json, results)


def _row(case: Case, found: dict[str, dict], top: dict[str, float]) -> list[str]:
    mine = found["tinygen"]
    rate, unit, ceiling = case.bytes / mine["median"] / 1e9, "GB/s", top["gbps"]
    if case.flops:
        rate, unit, ceiling = case.flops / mine["median"] / 1e9, "GFLOP/s", top["gflops"]
    ms = {name: f"{1e3 * r['median']:.3g}" for name, r in found.items()}
    return [
        case.name, ms["tinygen"], f"{1e3 * mine['p20']:.3g}..{1e3 * mine['p80']:.3g}",
        f"{rate:.3g} {unit}", f"{100 * rate / ceiling:.0f} %", ms["torch"],
        ms.get("torch channels-last", ""), ms["reference"],
        f"{found['torch']['median'] / mine['median']:.2f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
