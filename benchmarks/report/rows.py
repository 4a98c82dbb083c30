"""Cases bound by memory that go row by row or channel by channel: norms, softmax, losses,
reductions, pooling, embedding.

Bytes: every array that an algorithm needs, as often as it can't help reading it. Batch norm reads
its input twice, for the statistics and to normalise; a row of layer norm or softmax stays on the
chip.
"""

from __future__ import annotations

import torch
from cases.common import forward, gradients
from cases.rows import weight_norm
from torch.nn import functional as F

from .cases import FLOAT, Case, elements, images, integers, normal, shared, uniform

__all__ = ["cases"]

EPS = 1e-5
SLOPE = 0.2


def cases(quick: bool = False) -> list[Case]:
    """Forward and backward of each."""
    maps = [(128, 64, 32, 32), (128, 256, 8, 8), (128, 32, 14, 14)]
    rows, classes, table, looked_up = (16384, 1024), (131072, 256), (256, 512), 65536
    weights = 4096, 4096
    if quick:
        weights = 5, 9
        maps, rows, classes, table, looked_up = [(2, 3, 4, 4)], (5, 33), (7, 256), (9, 8), 21
    both = False, True
    return [
        *(_batch_norm(shape, backward) for shape in maps for backward in both),
        *(_layer_norm(*rows, backward) for backward in both),
        *(_weight_norm(*weights, masked, b) for masked in both for b in both),
        *(_softmax(kind, *classes, b) for kind in ("softmax", "log_softmax") for b in both),
        *(_cross_entropy(*classes, backward) for backward in both),
        *(_reduction(*rows, kind, axes) for kind in ("sum", "max") for axes in (1, 0, None)),
        *(_pooling(kind, maps[0], b) for kind in ("max", "avg", "nearest") for b in both),
        *(_embedding(*table, looked_up, backward) for backward in both),
    ]


def _named(name: str, shape: tuple[int, ...], backward: bool) -> str:
    return f"{name}{' gradient' if backward else ''} {'x'.join(map(str, shape))}"


def _batch_norm(shape: tuple[int, ...], backward: bool) -> Case:
    options = {"eps": EPS, "activation": "leaky_relu", "param": SLOPE}

    def ours(kernels, a):
        norm, x = kernels("norm"), a["x"]
        if not backward:
            return lambda: norm.batch_norm(x, a["w"], a["b"], **options)[0]
        _, mean, var = norm.batch_norm(x, a["w"], a["b"], **options)
        return lambda: norm.batch_norm_grad(a["g"], x, mean, var, a["w"], a["b"], **options)

    def function(a):
        y = F.batch_norm(a["x"], None, None, a["w"], a["b"], training=True, eps=EPS)
        return F.leaky_relu(y, SLOPE)

    return Case(
        family="norm",
        name=_named("batch norm + leaky relu", shape, backward),
        inputs={"x": images(*shape), "g": images(*shape), "w": normal(shape[1]),
                "b": normal(shape[1])},
        ours=ours,
        peers={"cuDNN": gradients(function, ["x", "w", "b"]) if backward else forward(function)},
        # x, x, y; or x and g for the sums, again for the result, and the result
        bytes=FLOAT * elements(shape) * (5 if backward else 3),
    )  # fmt: skip


def _layer_norm(m: int, d: int, backward: bool) -> Case:
    def ours(kernels, a):
        norm, x = kernels("norm"), a["x"]
        if not backward:
            return lambda: norm.layer_norm(x, a["w"], a["b"], eps=EPS)[0]
        _, mean, rstd = norm.layer_norm(x, a["w"], a["b"], eps=EPS)
        return lambda: norm.layer_norm_grad(a["g"], x, mean, rstd, a["w"])

    def function(a):
        return F.layer_norm(a["x"], (d,), a["w"], a["b"], eps=EPS)

    return Case(
        family="norm",
        name=_named("layer norm", (m, d), backward),
        inputs={"x": normal(m, d), "g": normal(m, d), "w": normal(d), "b": normal(d)},
        ours=ours,
        peers={"torch": gradients(function, ["x", "w", "b"]) if backward else forward(function)},
        bytes=FLOAT * m * d * (3 if backward else 2),
    )


def _weight_norm(o: int, i: int, masked: bool, backward: bool) -> Case:
    case = weight_norm(o, i, masked, backward)
    name = f"{'masked ' * masked}weight norm"
    return shared(case, family="norm", name=_named(name, (o, i), backward))


def _softmax(kind: str, m: int, classes: int, backward: bool) -> Case:
    function = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}[kind]

    def ours(kernels, a):
        softmax = kernels("softmax")
        y = getattr(softmax, kind)(a["x"])
        if backward:
            return lambda: getattr(softmax, f"{kind}_grad")(a["g"], y)
        return lambda: getattr(softmax, kind)(a["x"])

    def peer(a):
        return function(a["x"], 1)

    return Case(
        family="softmax",
        name=_named(kind, (m, classes), backward),
        inputs={"x": normal(m, classes, scale=3), "g": normal(m, classes)},
        ours=ours,
        peers={"torch": gradients(peer, ["x"]) if backward else forward(peer)},
        bytes=FLOAT * m * classes * (3 if backward else 2),
    )


def _cross_entropy(m: int, classes: int, backward: bool) -> Case:
    def ours(kernels, a):
        softmax, x, targets = kernels("softmax"), a["x"], a["targets"]
        if not backward:
            return lambda: softmax.cross_entropy(x, targets)[0]
        _, lse = softmax.cross_entropy(x, targets)
        return lambda: softmax.cross_entropy_grad(a["g"], x, targets, lse)

    def peer(a):
        return F.cross_entropy(a["x"], a["targets"], reduction="none")

    return Case(
        family="softmax",
        name=_named("cross entropy", (m, classes), backward),
        inputs={"x": normal(m, classes, scale=3), "targets": integers(classes, m),
                "g": normal(m)},
        ours=ours,
        peers={"torch": gradients(peer, ["x"]) if backward else forward(peer)},
        bytes=FLOAT * m * classes * (2 if backward else 1) + 12 * m,  # a target is 8 bytes
    )  # fmt: skip


def _reduction(m: int, n: int, kind: str, axis: int | None) -> Case:
    def ours(kernels, a):
        reduce = getattr(kernels("reduce"), kind)
        axes = None if axis is None else (axis,)
        return lambda: reduce(a["x"], axes)

    def peer(a):
        function = {"sum": torch.sum, "max": torch.amax}[kind]
        axes = (0, 1) if axis is None else (axis,)
        return lambda: function(a["x"], axes)

    over = {0: "down columns", 1: "along rows", None: "of all"}[axis]
    return Case(
        family="reduce",
        name=f"{kind} {over} {m}x{n}",
        inputs={"x": uniform(m, n)},
        ours=ours,
        peers={"torch": peer},
        bytes=FLOAT * (m * n + {0: n, 1: m, None: 1}[axis]),
    )


def _pooling(kind: str, shape: tuple[int, ...], backward: bool) -> Case:
    """Windows of 2 x 2 without overlap, or the map doubled."""
    n, c, height, width = shape
    large, small = (height, width), (height // 2, width // 2)
    windows = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    source, result = (small, large) if kind == "nearest" else (large, small)

    def ours(kernels, a):
        pool, x, g = kernels("pool"), a["x"], a["g"]
        if kind == "max":
            indices = pool.max_pool2d(x, **windows)[1]
            if backward:
                return lambda: pool.max_pool2d_grad(g, indices, large)
            return lambda: pool.max_pool2d(x, **windows)[0]
        if kind == "avg":
            if backward:
                return lambda: pool.avg_pool2d_grad(g, large, **windows)
            return lambda: pool.avg_pool2d(x, **windows)
        if backward:
            return lambda: pool.interpolate_nearest_grad(g, small)
        return lambda: pool.interpolate_nearest(x, large)

    function = {
        "max": lambda a: F.max_pool2d(a["x"], 2),
        "avg": lambda a: F.avg_pool2d(a["x"], 2),
        "nearest": lambda a: F.interpolate(a["x"], large),
    }[kind]
    # The input and the result; the largest value's place too, an int32.
    places = n * c * small[0] * small[1] if kind == "max" else 0
    return Case(
        family="pool",
        name=_named({"nearest": "nearest resize"}.get(kind, f"{kind} pool"), shape, backward),
        inputs={"x": images(n, c, *source), "g": images(n, c, *result)},
        ours=ours,
        peers={"torch": gradients(function, ["x"]) if backward else forward(function)},
        bytes=FLOAT * (elements((n, c, *large), (n, c, *small)) + places),
    )


def _embedding(rows: int, columns: int, n: int, backward: bool) -> Case:
    def ours(kernels, a):
        index = kernels("index")
        if backward:
            return lambda: index.take_grad(a["g"], a["index"], rows)
        return lambda: index.take(a["table"], a["index"])

    def peer(a):
        if backward:
            grad = torch.ops.aten.embedding_dense_backward
            return lambda: grad(a["g"], a["index"], rows, -1, False)
        return lambda: F.embedding(a["index"], a["table"])

    return Case(
        family="embedding",
        name=_named(f"{n} of", (rows, columns), backward),
        inputs={"table": normal(rows, columns), "index": integers(rows, n),
                "g": normal(n, columns)},
        ours=ours,
        peers={"torch": peer},
        bytes=FLOAT * (n + rows) * columns + 8 * n,
    )  # fmt: skip
