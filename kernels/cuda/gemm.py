"""Matrix products of gathered operands, the core of convolutions and plain products.

A `Product` says what is multiplied (see gemm_problem.cuh), a `Config` how: which arithmetic, which
tile, into how many parts k is split. `choose` finds the config by a model of the cost; what an
autotuner has measured, in TUNED, goes before it.

    multiply(product, out, a, b, bias)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cupy
import numpy as np

from . import precision
from .launch import Source, blocks

__all__ = ["TUNED", "Config", "Gather", "Product", "candidates", "choose", "multiply"]

ARITHMETIC = {"tf32": "Tf32", "bf16": "Bf16"}
ACTIVATIONS = {"identity": 0, "relu": 1, "leaky_relu": 2, "tanh": 3, "sigmoid": 4}
DEPTH = 16  # values of k in a step
MAX_TAPS, MAX_PHASES = 256, 16  # as in gemm_problem.cuh
LARGEST = 2**30  # elements of an operand: offsets are 32 bits wide, also those of the padding


class Tile(NamedTuple):
    """A block's part of the output."""

    threads: int
    stages: int
    speed: float  # multiplications per clock, in parts of the largest tile's


# (m, n) -> tile, as the constants in gemm_tiled.cu and gemm_tensor.cu.
FP32_TILES = {
    (128, 128): Tile(256, 3, 1.0),
    (64, 64): Tile(128, 2, 0.8),
    (128, 32): Tile(128, 2, 0.7),
}
TENSOR_TILES = {
    (128, 128): Tile(128, 4, 1.0),
    (128, 64): Tile(128, 4, 0.7),
    (64, 64): Tile(128, 4, 0.55),
    (128, 32): Tile(128, 4, 0.5),
}
TILED = Source("gemm_tiled.cu", variants=[{"TILE_M": m, "TILE_N": n} for m, n in FP32_TILES])
TENSOR = Source(
    "gemm_tensor.cu",
    variants=[
        {"TILE_M": m, "TILE_N": n, "ARITHMETIC": name}
        for m, n in TENSOR_TILES
        for name in ARITHMETIC.values()
    ],
)
SUM = Source("gemm_sum.cu")

# For the model of the cost, an H100's, roughly: multiplications per clock of a multiprocessor,
# bytes per clock of the whole GPU, clocks to begin and end a large tile, to launch once more, and
# to wait for one more split.
RATE = {"fp32": 128, "tf32": 600, "bf16": 660}
MEMORY_RATE = 1500
START, LAUNCH, WAIT = 2000, 4000, 16
LEAST_STEPS = 8  # of a split
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SUM_BLOCK = (32, 8)  # as in gemm_sum.cu
MOST_PARTS = 2**26  # elements that splits may write
MOST_SUMS = 2**16  # blocks of the second pass, which loop over the rest


class Config(NamedTuple):
    """How to compute: the arithmetic ("fp32", "tf32", "bf16"), the tile, the parts of k."""

    arithmetic: str
    m: int
    n: int
    splits: int = 1


TUNED: dict[tuple, Config] = {}  # Product.key(arithmetic) -> what was fastest on this device


# -------------------------------------------------------------------------------------- products

_DIVISOR = np.dtype([(name, "u4") for name in ("divisor", "multiplier", "shift")])
_TAP = np.dtype([("dh", "i2"), ("dw", "i2"), ("weight", "i4")])
_PHASE = np.dtype(
    [(name, "i4") for name in ("pixels", "first_tap", "taps", "out_first")]
    + [("image", _DIVISOR), ("line", _DIVISOR)]
)
_PROBLEM = np.dtype(
    [("out_size", "i8"), ("batch", "i4"), ("batch_inner", "i4")]
    + [(name, "i4") for name in ("a_outer", "a_inner", "b_outer", "b_inner")]
    + [(name, "i4") for name in ("height", "width", "image_step", "line_step", "pixel_step")]
    + [(name, "i4") for name in ("stride_h", "stride_w", "origin_h", "origin_w")]
    + [("channels", _DIVISOR)]
    + [(name, "i4") for name in ("other_step", "a_aligned", "b_aligned", "m", "n")]
    + [(name, "i4") for name in ("out_image", "out_line", "out_pixel", "phases", "most_pixels")]
    + [("taps", _TAP, MAX_TAPS), ("phase", _PHASE, MAX_PHASES)],
    align=True,
)


class Gather(NamedTuple):
    """The operand that is looked up in images: the fields of the same names in Problem."""

    height: int
    width: int
    channels: int
    image_step: int
    line_step: int
    pixel_step: int
    stride: tuple[int, int] = (1, 1)
    origin: tuple[int, int] = (0, 0)


class Phase(NamedTuple):
    """Output pixels h0 + i·step, and the taps (dh, dw, where the tap's weights begin) they see."""

    images: int
    height: int
    width: int
    taps: Sequence[tuple[int, int, int]]
    out_first: int = 0


class Product:
    """One of the three products, "output", "input_grad" or "weight_grad", on given sizes.

    `rows` is m of a weight gradient; the other two have the pixels of their phases as rows.
    `out_steps` are those from one image, line and pixel to the next, `batch` holds the steps of
    (a, b) along two axes of given sizes.
    """

    def __init__(
        self,
        kind: str,
        gather: Gather,
        phases: Sequence[Phase],
        *,
        n: int,
        other_step: int,
        out_size: int,
        out_steps: tuple[int, int, int],
        rows: int = 0,
        batch: tuple[int, int] = (1, 1),
        a_steps: tuple[int, int] = (0, 0),
        b_steps: tuple[int, int] = (0, 0),
        aligned: tuple[bool, bool] = (False, False),
    ) -> None:
        pixels = [p.images * p.height * p.width for p in phases]
        depths = [len(p.taps) * gather.channels for p in phases]
        is_weight_grad = kind == "weight_grad"
        self.kind, self.phases, self.aligned = kind, len(phases), aligned
        self.m, self.n = rows if is_weight_grad else max(pixels), n
        self.k = max(pixels) if is_weight_grad else max(depths)
        self.batch, self.out_size = batch[0] * batch[1], out_size
        struct = np.zeros((), _PROBLEM)
        struct["a_outer"], struct["a_inner"] = a_steps
        struct["b_outer"], struct["b_inner"] = b_steps
        struct["batch"], struct["batch_inner"] = self.batch, batch[1]
        for name in ("height", "width", "image_step", "line_step", "pixel_step"):
            struct[name] = getattr(gather, name)
        struct["stride_h"], struct["stride_w"] = gather.stride
        struct["origin_h"], struct["origin_w"] = gather.origin
        struct["channels"] = _divisor(gather.channels)
        struct["other_step"], struct["out_size"] = other_step, out_size
        struct["a_aligned"], struct["b_aligned"] = aligned
        struct["m"], struct["n"] = self.m, n
        struct["out_image"], struct["out_line"], struct["out_pixel"] = out_steps
        struct["phases"], struct["most_pixels"] = len(phases), max(pixels)
        first = 0
        for i, phase in enumerate(phases):
            last = first + len(phase.taps)
            struct["taps"][first:last] = phase.taps
            image, line = _divisor(phase.height * phase.width), _divisor(phase.width)
            struct["phase"][i] = (pixels[i], first, last - first, phase.out_first, image, line)
            first = last
        self.struct = struct

    def key(self, arithmetic: str) -> tuple:
        """What a choice may depend on, of strings and numbers."""
        sizes = self.m, self.n, self.k, self.phases, self.batch, *map(int, self.aligned)
        return arithmetic, self.kind, *sizes


def _divisor(d: int) -> tuple[int, int, int]:
    """Multiplier and shift with n // d = (n·multiplier >> 32) + n >> shift for n < 2³¹."""
    shift = (d - 1).bit_length()
    return d, ((1 << 32) * ((1 << shift) - d)) // d + 1, shift


# ---------------------------------------------------------------------------------------- choice


def choose(product: Product) -> Config:
    """What an autotuner found for the product on this device, else the model's best candidate."""
    arithmetic = precision.arithmetic()
    tuned = TUNED.get(product.key(arithmetic))
    if tuned is not None:
        return tuned
    device = cupy.cuda.Device().id
    return _cheapest(product.key(arithmetic), arithmetic, device, product.out_size)


@functools.lru_cache(maxsize=4096)
def _cheapest(key: tuple, arithmetic: str, device: int, out_size: int) -> Config:
    kind, m, n, k, phases, batch = key[1:7]
    processors, shared = _limits(device)
    found = _candidates(kind, m, n, k, phases, batch, arithmetic, shared)
    return min(found, key=lambda c: _clocks(c, m, n, k, phases * batch, processors))


def candidates(product: Product) -> list[Config]:
    """The configs worth measuring for this product, in the mode and on the device in force."""
    _, shared = _limits(cupy.cuda.Device().id)
    p = product
    arithmetic = precision.arithmetic()
    return _candidates(p.kind, p.m, p.n, p.k, p.phases, p.batch, arithmetic, shared)


def _candidates(kind, m, n, k, phases, batch, arithmetic, shared) -> list[Config]:
    tiles = [t for t in _tiles(arithmetic) if shared_bytes(kind, arithmetic, *t) <= shared]
    most = min(blocks(k, DEPTH) // LEAST_STEPS, MOST_PARTS // max(1, phases * batch * m * n))
    return [Config(arithmetic, *t, s) for t in tiles for s in SPLITS if s <= max(1, most)]


def _clocks(config: Config, m: int, n: int, k: int, products: int, processors: int) -> float:
    """Each multiprocessor works through its share of the tiles; parts are written and read."""
    tile = _tiles(config.arithmetic)[config.m, config.n]
    tiles = products * blocks(m, config.m) * blocks(n, config.n) * config.splits
    steps = blocks(blocks(k, DEPTH), config.splits)
    area = config.m * config.n
    multiply = steps * DEPTH * area / (RATE[config.arithmetic] * tile.speed)
    clocks = blocks(tiles, processors) * (multiply + START * area / 2**14) + START
    if config.splits > 1:
        clocks += LAUNCH + config.splits * (WAIT + 8 * products * m * n / MEMORY_RATE)
    return clocks


def _tiles(arithmetic: str) -> dict[tuple[int, int], Tile]:
    return FP32_TILES if arithmetic == "fp32" else TENSOR_TILES


def shared_bytes(kind: str, arithmetic: str, m: int, n: int) -> int:
    """Shared memory of a block: the pipeline's stages, later the tile of sums in their place."""
    k_major = {"output": (True, True), "input_grad": (True, False), "weight_grad": (False, False)}
    words = [
        rows * (DEPTH + 4) if is_k_major else DEPTH * (rows + 8)
        for rows, is_k_major in zip((m, n), k_major[kind], strict=True)
    ]
    stages = _tiles(arithmetic)[m, n].stages
    return 4 * max(stages * sum(words), m * (n + 4))


@functools.cache
def _limits(device: int) -> tuple[int, int]:
    """Multiprocessors, and bytes of shared memory that a block may have."""
    attributes = cupy.cuda.Device(device).attributes
    return attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"]


# ---------------------------------------------------------------------------------------- launch


def multiply(
    product: Product,
    out: cupy.ndarray,
    a: cupy.ndarray,
    b: cupy.ndarray,
    bias: cupy.ndarray | None = None,
    *,
    activation: str = "identity",
    slope: float = 0.0,
) -> None:
    """out = activation(a·b + bias), all float32; `slope` is leaky_relu's. Deterministic.

    Splits are summed by a second kernel, in a fixed order, so the result has the same bits every
    time.
    """
    config = choose(product)
    end = bias, ACTIVATIONS[activation], slope
    if config.splits == 1:
        _launch(product, config, out, a, b, *end)
        return
    size = product.batch * product.out_size
    parts = cupy.empty(config.splits * size, out.dtype)
    _launch(product, config, parts, a, b, None, ACTIVATIONS["identity"], 0.0)
    arguments = out, parts, bias, config.splits, size, product.n, *end[1:]
    SUM.kernel("sum_splits")(blocks(size, SUM_BLOCK[0], MOST_SUMS), SUM_BLOCK, arguments)


def _launch(product, config, out, a, b, bias, activation, slope) -> None:
    arithmetic, m, n, splits = config
    macros = {"TILE_M": m, "TILE_N": n}
    source = TILED
    if arithmetic != "fp32":
        source, macros["ARITHMETIC"] = TENSOR, ARITHMETIC[arithmetic]
    tiles = blocks(product.m, m) * blocks(product.n, n)
    source.kernel(product.kind, **macros)(
        tiles * product.phases * splits * product.batch,
        _tiles(arithmetic)[m, n].threads,
        (out, a, b, bias, product.struct, splits, activation, slope),
        shared=shared_bytes(product.kind, arithmetic, m, n),
    )
