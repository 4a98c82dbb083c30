"""What holds for all operations of a thread: whether they are recorded, and who watches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Sequence
from functools import wraps
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .op import Node, Op

__all__ = [
    "caller",
    "enable_grad",
    "is_grad_enabled",
    "line_of",
    "no_grad",
    "op_hook",
    "state",
]


class _State(threading.local):
    recording = True  # False inside no_grad
    creating_graph = False  # True while a backward pass records itself
    targets: set[Node] | None = None  # the nodes that lead to what `grad` was asked for
    shared: Collection[Node] = ()  # in a backward pass: what several operations read
    hooks: tuple = ()


state = _State()


class _Recording:
    """A context manager, and a decorator, that switches recording on or off."""

    value: bool

    def __init__(self) -> None:
        self._before: list[bool] = []  # a stack: one object may be entered inside itself

    def __enter__(self):
        self._before.append(state.recording)
        state.recording = self.value
        return self

    def __exit__(self, *_):
        state.recording = self._before.pop()

    def __call__(self, function: Callable) -> Callable:
        @wraps(function)
        def wrapped(*args, **kwargs):
            with type(self)():
                return function(*args, **kwargs)

        return wrapped


class no_grad(_Recording):
    """Inside, nothing is recorded: `with tinygen.no_grad(): ...`, or `@tinygen.no_grad()`."""

    value = False


class enable_grad(_Recording):
    """Inside, operations are recorded again, whatever stands around."""

    value = True


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return state.recording


class op_hook:
    """Base of everything that watches operations; entering it installs it for this thread.

    `before(op, phase)` and `after(op, phase, arrays)` are called around each `forward` and each
    `backward` on the tape; `phase` says which, `arrays` is what came out (None where nothing did).
    While one is open, the gradients of a weight that a loop uses are computed one by one.
    """

    def before(self, op: Op, phase: str) -> None: ...

    def after(self, op: Op, phase: str, arrays: Sequence) -> None: ...

    def __enter__(self):
        state.hooks = (*state.hooks, self)
        return self

    def __exit__(self, *_):
        state.hooks = tuple(hook for hook in state.hooks if hook is not self)


_PACKAGE = __name__.split(".")[0]
_is_internal: dict[str, bool] = {}  # module name -> whether it belongs to this package


def caller() -> tuple[CodeType, int]:
    """The code and the instruction of the innermost frame outside this package.

    Every recorded operation asks, so the line number is worked out only when a message needs it.
    """
    frame = sys._getframe(2)
    while True:
        module = frame.f_globals.get("__name__", "")
        internal = _is_internal.get(module)
        if internal is None:
            internal = _is_internal[module] = module.split(".")[0] == _PACKAGE
        if not internal or frame.f_back is None:
            return frame.f_code, frame.f_lasti
        frame = frame.f_back


def line_of(place: tuple[CodeType, int] | str | None) -> str:
    """`file:line` of a place that the tape noted."""
    if place is None or isinstance(place, str):
        return place or "an unknown line"
    code, instruction = place
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return f"{code.co_filename}:{line}"
    return f"{code.co_filename}:{code.co_firstlineno}"
