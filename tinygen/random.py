"""Random numbers whose whole state is two integers, a seed and an offset.

Every number is a pure function of the seed and of its position in the stream, the same on every
device and for any number of threads (`tinygen_kernels.reference.random` has the equations), so
saving the randomness of a run means saving two integers.

    >>> import tinygen.random as random
    >>> generator = random.Generator(seed=1)
    >>> state = generator.state
    >>> first = generator.normal((2, 3))
    >>> generator.set_state(state)
    >>> bool((generator.normal((2, 3)) == first).all())
    True
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from . import graph
from .device import device_of, kernels_on

__all__ = [
    "Generator",
    "bernoulli",
    "default_generator",
    "get_state",
    "integers",
    "manual_seed",
    "normal",
    "permutation",
    "set_state",
    "uniform",
]

Shape = int | tuple[int, ...]


class Generator:
    """A stream of random numbers; equal seeds give equal streams, on every device.

    With `device="cuda"` they are drawn on the GPU, as a CuPy array.

    `seed` is an integer in [0, 2⁶⁴). Not to be shared between threads: give each its `fork`.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = _uint64("seed", seed)
        self.offset = 0

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed}, offset={self.offset})"

    @property
    def state(self) -> dict[str, int]:
        """The whole state, `{"seed": int, "offset": int}`."""
        return {"seed": self.seed, "offset": self.offset}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continue from a `state` taken earlier, here or in another run."""
        if set(state) != {"seed", "offset"}:
            raise ValueError(
                f"set_state: got the keys {sorted(state)}, expected 'seed' and 'offset'"
            )
        seed = _uint64("seed", state["seed"])
        self.offset = _uint64("offset", state["offset"])
        self.seed = seed

    def reserve(self, n: int) -> tuple[int, int]:
        """Claim the words of a draw of n elements: returns its (seed, offset) for a kernel."""
        start = self.offset
        self.offset += -(-n // 4)
        return self.seed, start

    def fork(self, name: str | int) -> Generator:
        """An independent generator that depends on the seed and `name` alone.

        It doesn't matter how much either has drawn: fork("loader").fork(epoch) gives epoch 3 its
        order even in a run that starts there.
        """
        if not isinstance(name, str):
            name = operator.index(name)
        # A hash of 64 bits: the chance that two of a million forks coincide is 3e-8.
        digest = hashlib.blake2b(f"{self.seed}/{name!r}".encode(), digest_size=8).digest()
        return Generator(int.from_bytes(digest, "little"))

    def uniform(
        self,
        shape: Shape = (),
        low: float = 0.0,
        high: float = 1.0,
        dtype: DTypeLike = np.float32,
        *,
        device: str = "cpu",
    ) -> np.ndarray:
        """Uniform on [low, high), float32 or float64."""
        shape, dtype = _shape(shape), _float_dtype("uniform", dtype)
        return self._draw(device, "uniform", shape, low, high, dtype)

    def normal(
        self,
        shape: Shape = (),
        mean: float = 0.0,
        std: float = 1.0,
        dtype: DTypeLike = np.float32,
        *,
        device: str = "cpu",
    ) -> np.ndarray:
        """Normal with the given mean and standard deviation, float32 or float64."""
        shape, dtype = _shape(shape), _float_dtype("normal", dtype)
        if not std >= 0:
            raise ValueError(f"normal: std is {std}, expected a number that is not negative")
        return self._draw(device, "normal", shape, mean, std, dtype)

    def bernoulli(
        self,
        shape: Shape,
        p: float | np.ndarray,
        dtype: DTypeLike = np.float32,
        *,
        device: str = "cpu",
    ) -> np.ndarray:
        """1 with probability p, else 0; p a number or an array that broadcasts to `shape`, on
        `device`. Probabilities on a GPU are not checked, which would take a wait for it."""
        shape = _shape(shape)
        try:
            np.broadcast_to(p, shape)
        except ValueError:
            message = f"bernoulli: p of shape {np.shape(p)} does not broadcast to {shape}"
            raise ValueError(message) from None
        if device_of(p) == "cpu" and not np.all((p >= 0) & (p <= 1)):
            raise ValueError("bernoulli: p has values outside [0, 1]")
        return self._draw(device, "bernoulli", shape, p, np.dtype(dtype))

    def permutation(self, n: int) -> np.ndarray:
        """The integers 0, ..., n - 1 in random order, int64 (n,)."""
        # The order of n random numbers of 64 bits; a tie has a chance below n² / 2⁶⁵.
        return np.argsort(self._words64(n), kind="stable")

    def integers(self, low: int, high: int, shape: Shape = ()) -> np.ndarray:
        """Integers uniform on low, ..., high - 1, int64.

        The remainder of 64 random bits: no probability is off by more than 2⁻⁶⁴.
        """
        low, high = operator.index(low), operator.index(high)
        if not low < high:
            raise ValueError(f"integers: the range [{low}, {high}) is empty")
        shape = _shape(shape)
        words = self._words64(math.prod(shape)) % np.uint64(high - low)
        return (words.astype(np.int64) + low).reshape(shape)

    def _draw(self, device: str, distribution: str, shape: tuple[int, ...], *arguments):
        draw = getattr(kernels_on("random", device), distribution)
        step = None if device == "cpu" else graph.active()
        if step is None:
            return draw(*self.reserve(math.prod(shape)), shape, *arguments)
        # A replay must draw new numbers: where the step starts is read from device memory.
        counter = step.live(id(self), lambda: self.offset, np.uint64)
        begin = step.begun(id(self), self.offset, lambda begin: self._end(step, counter, begin))
        _, offset = self.reserve(math.prod(shape))
        return draw(self.seed, (counter.array.reshape(1), offset - begin), shape, *arguments)

    def _end(self, step: graph.CapturedStep, counter: graph.Live, begin: int) -> None:
        """Move the counter on by what the step drew, and this offset at each replay."""
        n = counter.advance = self.offset - begin
        kernels_on("random", "cuda").advance_(counter.array.reshape(1), n)
        step.on_replay(lambda: self._skip(n))

    def _skip(self, n: int) -> None:
        self.offset += n

    def _words64(self, n: int) -> np.ndarray:
        return kernels_on("random", "cpu").bits(*self.reserve(2 * n), 2 * n).view(np.uint64)


def _uint64(name: str, value: int) -> int:
    value = operator.index(value)
    if not 0 <= value < 2**64:
        raise ValueError(f"{name} is {value}, expected an integer in [0, 2**64)")
    return value


def _shape(shape: Shape) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, int | np.integer) else tuple(shape)


def _float_dtype(name: str, dtype: DTypeLike) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: dtype is {dtype}, expected float32 or float64")
    return dtype


_default = Generator()


def default_generator() -> Generator:
    """The generator behind the functions of this module; its seed is 0 until `manual_seed`."""
    return _default


def manual_seed(seed: int) -> Generator:
    """Restart the default generator from `seed`, an integer in [0, 2⁶⁴); returns it."""
    _default.set_state({"seed": seed, "offset": 0})
    return _default


def get_state() -> dict[str, int]:
    """State of the default generator, `{"seed": int, "offset": int}`."""
    return _default.state


def set_state(state: Mapping[str, int]) -> None:
    """Continue the default generator from a state taken earlier."""
    _default.set_state(state)


uniform = _default.uniform
normal = _default.normal
bernoulli = _default.bernoulli
permutation = _default.permutation
integers = _default.integers
