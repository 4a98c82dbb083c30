"""Matrix products of gathered operands, the core of convolutions and plain products.

A `Product` says what is multiplied (see gemm_problem.cuh), a `Config` how: which arithmetic, which
tile, into how many parts k is split. `choose` finds the config by a model of the cost; what has
been measured on the device goes before it (`tuning`).

    multiply(product, out, a, b, bias)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import cupy

from . import precision
from .gemm_problem import Product
from .launch import Source, blocks
from .tuning import Choices

__all__ = ["ACTIVATIONS", "MEASURED", "Config", "candidates", "choose", "multiply", "run"]

ARITHMETIC = {"tf32": "Tf32", "bf16": "Bf16"}
ACTIVATIONS = {"identity": 0, "relu": 1, "leaky_relu": 2, "tanh": 3, "sigmoid": 4}
DEPTH = 16  # values of k in a step


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
MEASURED_SPLITS = 3
SUM_BLOCK = (32, 8)  # as in gemm_sum.cu
MOST_PARTS = 2**26  # elements that splits may write
MOST_SUMS = 2**16  # blocks of the second pass, which loop over the rest


class Config(NamedTuple):
    """How to compute: the arithmetic ("fp32", "tf32", "bf16"), the tile, the parts of k."""

    arithmetic: str
    m: int
    n: int
    splits: int = 1


MEASURED = Choices(Config)  # Product.key(arithmetic) -> what was fastest on this device


def choose(product: Product, attempt: Callable[[Config], None] | None = None) -> Config:
    """What was measured for the product on this device, else the model's best candidate.

    `attempt` runs the product as a config says; with it a product that is new is measured now.
    """
    key = product.key(precision.arithmetic())
    found = MEASURED.get(key)
    if found is None and attempt is not None:
        found = MEASURED.find(key, lambda: candidates(product), attempt)
    return found or _cheapest(key, cupy.cuda.Device().id)


def candidates(product: Product) -> list[Config]:
    """The configs worth measuring for this product, in the mode and on the device in force.

    Every tile, with the few numbers of splits that the model thinks best for it.
    """
    ranked = _ranked(product.key(precision.arithmetic()), cupy.cuda.Device().id)
    tiles = dict.fromkeys((config.m, config.n) for config in ranked)
    of_tiles = ([config for config in ranked if config[1:3] == tile] for tile in tiles)
    return [config for of_tile in of_tiles for config in of_tile[:MEASURED_SPLITS]]


@functools.lru_cache(maxsize=4096)
def _cheapest(key: tuple, device: int) -> Config:
    return _ranked(key, device)[0]


def _ranked(key: tuple, device: int) -> list[Config]:
    """Every config that the device can run, the cheapest by the model first."""
    arithmetic, kind, m, n, k, products, *_ = key
    processors, shared = _limits(device)
    tiles = [t for t in _tiles(arithmetic) if shared_bytes(kind, arithmetic, *t) <= shared]
    most = min(blocks(k, DEPTH) // LEAST_STEPS, MOST_PARTS // (products * m * n))
    found = [Config(arithmetic, *t, s) for t in tiles for s in SPLITS if s <= max(1, most)]
    return sorted(found, key=lambda config: _clocks(config, key, processors))


def _clocks(config: Config, key: tuple, processors: int) -> float:
    """Each multiprocessor works through its share of the tiles; parts are written and read."""
    _, _, m, n, k, products, *_ = key
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
    arguments = product, out, a, b, bias, ACTIVATIONS[activation], slope
    run(choose(product, lambda config: run(config, *arguments)), *arguments)


def run(config: Config, product: Product, out, a, b, bias, activation: int, slope: float) -> None:
    """`multiply` as the config says."""
    if config.splits == 1:
        _launch(config, product, out, a, b, bias, activation, slope)
        return
    size = product.batch * product.out_size
    parts = cupy.empty(config.splits * size, out.dtype)
    _launch(config, product, parts, a, b, None, ACTIVATIONS["identity"], 0.0)
    grid = blocks(size, SUM_BLOCK[0], MOST_SUMS)
    arguments = out, parts, bias, config.splits, size, product.n, activation, slope
    SUM.kernel("sum_splits")(grid, SUM_BLOCK, arguments)


def _launch(config: Config, product: Product, out, a, b, bias, activation, slope) -> None:
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
