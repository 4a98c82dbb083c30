"""Watching operations: the NaN finder, the profiler and the memory report.

All three are `op_hook`s: contexts that see every operation of their thread while they are open.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import device
from .autograd import Op, op_hook
from .autograd.modes import caller, line_of, state
from .autograd.op import Leaf
from .tensor import Tensor

__all__ = ["detect_anomaly", "memory_report", "profile"]


class detect_anomaly(op_hook):
    """Inside, the first NaN or infinity that an operation makes is an error that names it.

    Raises FloatingPointError with the op, the phase (forward or backward) and the line of the
    forward call, also when the forward was fine and only the gradient is not. Every result is
    read once more, so switch it on to find a fault, not for whole trainings.

    >>> import tinygen
    >>> from tinygen.hooks import detect_anomaly
    >>> with detect_anomaly():  # doctest: +ELLIPSIS
    ...     tinygen.tensor([1.0, -1.0]).log()
    Traceback (most recent call last):
    FloatingPointError: Log: NaN in 1 of 2 values of its output; called at ...
    """

    def __init__(self):
        self._backwards = 0  # how many backward calls we are inside of

    def before(self, op: Op, phase: str) -> None:
        if not state.creating_graph:
            self._backwards = 0  # without a graph none nest: what is left over was interrupted
        if phase == "backward":
            self._backwards += 1

    def after(self, op: Op, phase: str, arrays: Sequence[Any]) -> None:
        if phase == "backward":
            self._backwards -= 1
        if self._backwards:
            return  # a step inside some op's backward: that op's line is the one to name
        for i, array in enumerate(arrays):
            fault = _fault(array)
            if fault is None:
                continue
            result = "its output" if len(arrays) == 1 else f"output {i}"
            if phase == "backward":
                result = f"the gradient of input {i} (its backward)"
            place = line_of(op.where or caller())
            raise FloatingPointError(f"{op.name}: {fault} of {result}; called at {place}")


def _fault(array: Any) -> str | None:
    """What is wrong with the values, in words."""
    array = array.data if isinstance(array, Tensor) else array
    if array is None or array.dtype.kind != "f":
        return None
    xp = device.array_module(array)
    finite = xp.isfinite(array)
    if finite.all():
        return None
    kind = "NaN" if xp.isnan(array).any() else "infinity"
    return f"{kind} in {array.size - int(finite.sum())} of {array.size} values"


@dataclass
class OpTimes:
    """What one kind of op has cost: calls and seconds by phase, and the bytes of its outputs."""

    name: str
    forward_calls: int = 0
    backward_calls: int = 0
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0
    output_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Forward and backward together."""
        return self.forward_seconds + self.backward_seconds


class profile(op_hook):
    """Times every operation; print it, or its `table()`, afterwards.

    An op that runs others inside its backward (`create_graph=True`) is charged only for its own
    time, so the shares add up to 1. The clock is the host's: on a GPU it sees launches.

    >>> import tinygen
    >>> from tinygen.hooks import profile
    >>> x = tinygen.tensor([1.0, 2.0], requires_grad=True)
    >>> with profile() as times:
    ...     x.exp().sum().backward()
    >>> sorted(times.ops)
    ['Exp', 'Sum']
    """

    def __init__(self):
        self.ops: dict[str, OpTimes] = {}
        self._open: list[list[float]] = []  # [start, seconds in ops inside it], innermost last

    def before(self, op: Op, phase: str) -> None:
        if not state.creating_graph:
            self._open.clear()  # without a graph none nest: what is left was interrupted
        self._open.append([time.perf_counter(), 0.0])

    def after(self, op: Op, phase: str, arrays: Sequence[Any]) -> None:
        now = time.perf_counter()
        start, inside = self._open.pop()
        if self._open:
            self._open[-1][1] += now - start
        times = self.ops.setdefault(op.name, OpTimes(op.name))
        if phase == "forward":
            times.forward_calls += 1
            times.forward_seconds += now - start - inside
            times.output_bytes += sum(array.nbytes for array in arrays)
        else:
            times.backward_calls += 1
            times.backward_seconds += now - start - inside

    def table(self) -> str:
        """One line per op, the most expensive first."""
        rows = sorted(self.ops.values(), key=lambda op: op.seconds, reverse=True)
        total = sum(op.seconds for op in rows)
        lines = [
            f"{'op':<24}{'calls':>8}{'forward µs':>12}{'per call':>10}"
            f"{'backward µs':>13}{'per call':>10}{'share':>8}{'output MB':>11}"
        ]
        for op in rows:
            lines.append(
                f"{op.name:<24}{op.forward_calls:>8}"
                f"{op.forward_seconds * 1e6:>12.1f}"
                f"{op.forward_seconds * 1e6 / max(op.forward_calls, 1):>10.1f}"
                f"{op.backward_seconds * 1e6:>13.1f}"
                f"{op.backward_seconds * 1e6 / max(op.backward_calls, 1):>10.1f}"
                f"{op.seconds / (total or 1):>8.1%}{op.output_bytes / 1e6:>11.3f}"
            )
        lines.append(f"{sum(op.forward_calls for op in rows)} calls, {total * 1e3:.3f} ms in ops")
        return "\n".join(lines)

    __str__ = table


class memory_report(op_hook):
    """What the tape holds for the backward pass, in bytes, now and at its peak.

    Counted is the memory of every array that the ops recorded inside keep, once, under the first
    op that kept it; a view counts as the whole array behind it. Not counted are the arrays of
    leaves, such as parameters, which live on without the tape.

    >>> import tinygen
    >>> from tinygen.hooks import memory_report
    >>> x = tinygen.tensor([1.0, 2.0], requires_grad=True)
    >>> with memory_report() as memory:
    ...     y = (x.exp() ** 2).sum()  # both keep the result of exp
    ...     y.backward()
    >>> memory.peak, memory.held
    (8, 0)
    """

    def __init__(self):
        self.peak = 0
        self.peak_by_op: dict[str, int] = {}
        self._held = 0
        self._by_op: dict[str, int] = {}
        self._watched: dict[int, tuple[weakref.ref, list[int]]] = {}  # id(op) -> its arrays' ids
        self._arrays: dict[int, _Kept] = {}
        self._finished = 0  # id of the op whose backward ended last

    @property
    def held(self) -> int:
        """Bytes held now."""
        self._settle()
        return self._held

    def table(self) -> str:
        """One line per op with its bytes at the peak, the largest first."""
        rows = sorted(self.peak_by_op.items(), key=lambda row: row[1], reverse=True)
        lines = [f"{'op':<24}{'bytes at peak':>16}{'share':>8}"]
        lines += [f"{op:<24}{n:>16,}{n / self.peak:>8.1%}" for op, n in rows if n]
        lines.append(f"peak {self.peak:,} bytes, now {self.held:,}")
        return "\n".join(lines)

    __str__ = table

    def before(self, op: Op, phase: str) -> None:
        self._settle()

    def after(self, op: Op, phase: str, arrays: Sequence[Any]) -> None:
        self._settle()
        if phase == "backward":
            self._finished = id(op)
        elif op.where is not None:  # recorded
            self._hold(op)

    def _settle(self) -> None:
        """Look again at the last op of a backward pass: the tape frees its arrays afterwards."""
        ref, _ = self._watched.get(self._finished, (lambda: None, ()))
        self._finished = 0
        op = ref()
        if op is not None and op._saved is None:
            self._release(id(op))
            self._hold(op)

    def _hold(self, op: Op) -> None:
        owners = {id(owner): owner for owner in map(_owner, _kept_arrays(op))}
        for leaf in op.parents:
            tensor = leaf.tensor() if isinstance(leaf, Leaf) else None
            if tensor is not None:
                owners.pop(id(_owner(tensor.data)), None)
        watched = id(op)
        ref = weakref.ref(op, lambda _: self._release(watched))
        self._watched[watched] = ref, list(owners)
        for key, owner in owners.items():
            if key not in self._arrays:
                self._arrays[key] = _Kept(op.name, owner.nbytes)
                self._count(op.name, owner.nbytes)
            self._arrays[key].holders += 1
        if self._held > self.peak:
            self.peak, self.peak_by_op = self._held, dict(self._by_op)

    def _release(self, key: int) -> None:
        _, keys = self._watched.pop(key)
        for key in keys:
            kept = self._arrays[key]
            kept.holders -= 1
            if not kept.holders:
                del self._arrays[key]
                self._count(kept.op, -kept.nbytes)

    def _count(self, op: str, nbytes: int) -> None:
        self._held += nbytes
        self._by_op[op] = self._by_op.get(op, 0) + nbytes


@dataclass
class _Kept:
    """An array that ops keep: the first one's name, the size, and how many of them there are."""

    op: str
    nbytes: int
    holders: int = 0


def _kept_arrays(op: Op) -> Iterator[Any]:
    """What an op holds: by `save`, for its composite, and as attributes of its own."""
    values = [array for array, *_ in (*(op._saved or ()), *op._inputs)]
    for value in vars(op).values():
        values += value if type(value) in (tuple, list) else [value]
    return (value for value in values if type(value) in device._modules)


def _owner(array: Any) -> Any:
    """The array that owns the memory of a view."""
    while type(array.base) is type(array):
        array = array.base
    return array
