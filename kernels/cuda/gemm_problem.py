"""What a matrix product of gathered operands is given to do: the structs of gemm_problem.cuh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["LARGEST", "MAX_PHASES", "MAX_TAPS", "Gather", "Phase", "Product"]

MAX_TAPS, MAX_PHASES = 256, 16
LARGEST = 2**30  # elements of an operand: offsets are 32 bits wide, also those of the padding

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
    """Pixels of the output that see the same taps (dh, dw, where the tap's weights begin).

    They lie `out_first` elements from the beginning of an image on, at the product's `out_steps`.
    """

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
        struct["channels"] = divisor(gather.channels)
        struct["other_step"], struct["out_size"] = other_step, out_size
        struct["a_aligned"], struct["b_aligned"] = aligned
        struct["m"], struct["n"] = self.m, n
        struct["out_image"], struct["out_line"], struct["out_pixel"] = out_steps
        struct["phases"], struct["most_pixels"] = len(phases), max(pixels)
        first = 0
        for i, phase in enumerate(phases):
            last = first + len(phase.taps)
            struct["taps"][first:last] = phase.taps
            image, line = divisor(phase.height * phase.width), divisor(phase.width)
            struct["phase"][i] = (pixels[i], first, last - first, phase.out_first, image, line)
            first = last
        self.struct = struct

    def key(self, arithmetic: str) -> tuple:
        """What a choice may depend on, of strings and numbers."""
        sizes = self.m, self.n, self.k, self.phases * self.batch
        return arithmetic, self.kind, *sizes, *map(int, self.aligned)


def divisor(d: int) -> tuple[int, int, int]:
    """Multiplier and shift with n // d = (n·multiplier >> 32) + n >> shift for n < 2³¹."""
    shift = (d - 1).bit_length()
    return d, ((1 << 32) * ((1 << shift) - d)) // d + 1, shift
