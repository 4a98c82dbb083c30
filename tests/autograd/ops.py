"""Ops to try the tape with, and what watches it."""

from __future__ import annotations

import numpy as np

from tinygen.autograd import Op, op_hook


class count_calls(op_hook):
    """Names of the ops whose forward and backward ran."""

    def __init__(self):
        self.forward: list[str] = []
        self.backward: list[str] = []

    def after(self, op, phase, arrays):
        getattr(self, phase).append(op.name)


class Both(Op):
    """(x, 2x), handing its first gradient on as it is."""

    def forward(self, x):
        return x.copy(), 2 * x

    def backward(self, first, second):
        if second is None:
            return first
        return 2 * second if first is None else first + 2 * second


class Cube(Op):
    """x³ with a backward that works on arrays only."""

    composite = staticmethod(lambda x: x * x * x)

    def forward(self, x):
        self.save(x)
        return x**3

    def backward(self, grad):
        (x,) = self.saved
        return np.multiply(grad, 3 * np.square(x))


def overwritten(op: str) -> str:
    """The error of a backward pass whose op, in one of these files, missed what it had saved."""
    line = r"autograd.test_\w+\.py:\d+"
    return rf"{op} at .*{line} needs an array .*overwritten .*{line}"
