"""The NaN finder, the profiler and the memory report."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import leaf

from tinygen import functional as F
from tinygen import grad, no_grad, tensor
from tinygen.autograd import Op
from tinygen.hooks import detect_anomaly, memory_report, profile


def line_of(mark: str) -> int:
    lines = Path(__file__).read_text().split("\n")
    return next(i for i, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))


@pytest.fixture
def clock(monkeypatch):
    """A clock for the profiler that stands still unless an op moves it."""
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("tinygen.hooks.time", clock)
    return clock


class Slow(Op):
    """Takes 20 ms forward and 40 ms backward."""

    def __init__(self, clock):
        self.clock = clock

    def forward(self, x):
        self.clock.now += 0.02
        return x.copy()

    def backward(self, grad):
        self.clock.now += 0.04
        return grad * 1.0


# ---------------------------------------------------------------------------------- detect_anomaly


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
class TestDetectAnomaly:
    def found(self, run) -> str:
        with pytest.raises(FloatingPointError) as error, detect_anomaly():
            run()
        return str(error.value)

    def test_forward(self):
        def run():
            x = leaf(1.0, -1.0, -2.0)
            y = x * 2
            y = y.log()  # made in the forward
            return y.exp()

        text = self.found(run)
        assert text.startswith("Log: NaN in 2 of 3 values of its output; called at ")
        assert text.endswith(f"test_hooks.py:{line_of('made in the forward')}")

    def test_forward_that_is_not_recorded(self):
        def run():
            with no_grad():
                tensor([1.0, 0.0]).log()  # made without a tape

        text = self.found(run)
        assert text.startswith("Log: infinity in 1 of 2 values of its output")
        assert text.endswith(f":{line_of('made without a tape')}")

    @pytest.mark.parametrize("create_graph", [False, True])
    def test_backward_names_the_forward_line(self, create_graph):
        def run():
            x = leaf(0.0, 4.0)
            y = x.sqrt()  # fine in the forward
            z = y * 3
            z.sum().backward(create_graph=create_graph)

        text = self.found(run)
        assert text.startswith("Sqrt: infinity in 1 of 2 values of the gradient of input 0 (its b")
        assert text.endswith(f":{line_of('fine in the forward')}")

    def test_backward_of_a_composite_names_the_fused_op(self):
        class Root(Op):
            composite = staticmethod(lambda x: x.sqrt() * 1)

            def forward(self, x):
                return np.sqrt(x)

        def run():
            x = leaf(0.0)
            y = Root()(x)  # fused
            grad(y, x, create_graph=True)

        text = self.found(run)
        assert text.startswith("Root: infinity in 1 of 1 values of the gradient of input 0")
        assert text.endswith(f":{line_of('fused')}")

    def test_which_of_several_inputs(self):
        text = self.found(lambda: (leaf(1.0) / leaf(1e-200)).sum().backward())
        assert text.startswith("Div: infinity in 1 of 1 values of the gradient of input 1")

    def test_which_of_several_outputs(self):
        class Two(Op):
            def forward(self, x):
                return x + 1, x * np.nan

        with no_grad():
            assert self.found(lambda: Two()(leaf(1.0))).startswith(
                "Two: NaN in 1 of 1 values of output 1"
            )
        assert self.found(lambda: Two()(leaf(1.0))).startswith("Two: NaN in 1 of 1 values of out")

    def test_all_fine_is_silent(self):
        with detect_anomaly():
            x = leaf(1.0, 2.0)
            loss = (F.where(x > 1, x.log(), 0.0) + x[[0, 0]]).sum()
            grad(grad(loss, x, create_graph=True).sum(), x).sum()
            tensor([1, 2]) / 3

    def test_it_works_on_after_an_error_inside(self):
        with detect_anomaly():
            for _ in range(2):
                with pytest.raises(FloatingPointError, match="Log"):
                    tensor([-1.0]).log()
                with pytest.raises(FloatingPointError, match="Sqrt"):
                    leaf(0.0).sqrt().backward()
            x = leaf(1.0)
            y = x * x
            y.backward()
            with pytest.raises(RuntimeError, match="freed"):
                y.backward()
            with pytest.raises(FloatingPointError, match="Log"):
                tensor([-1.0]).log()

    def test_nothing_is_checked_outside(self):
        with detect_anomaly():
            pass
        assert np.isnan(tensor([-1.0]).log().item())


# ----------------------------------------------------------------------------------------- profile


def test_profile_times_calls_and_bytes(clock):
    x = leaf(*np.ones(100))
    with profile() as times:
        y = Slow(clock)(Slow(clock)(x))
        (y * y).sum().backward()
    slow = times.ops["Slow"]
    assert (slow.forward_calls, slow.backward_calls) == (2, 2)
    assert slow.forward_seconds == pytest.approx(0.04)
    assert slow.backward_seconds == pytest.approx(0.08)
    assert slow.seconds == slow.forward_seconds + slow.backward_seconds
    assert (slow.output_bytes, times.ops["Sum"].output_bytes) == (1600, 8)
    assert times.ops["Mul"].seconds == 0
    assert set(times.ops) == {"Slow", "Mul", "Sum"}


def test_profile_charges_each_op_for_its_own_time_only(clock):
    class Outer(Op):
        def forward(self, x):
            return x.copy()

        def backward(self, grad):
            clock.now += 1
            return Slow(clock)(grad)

    with profile() as times:
        Outer()(leaf(1.0)).backward(create_graph=True)
    assert times.ops["Slow"].forward_seconds == pytest.approx(0.02)
    assert times.ops["Outer"].backward_seconds == pytest.approx(1)
    assert times.ops["Outer"].forward_seconds == 0


def test_profile_by_the_real_clock():
    x = leaf(*np.ones(10_000))
    with profile() as times:
        start = time.perf_counter()
        (x.exp() * x).sum().backward()
        elapsed = time.perf_counter() - start
    assert all(op.forward_seconds > 0 and op.backward_seconds > 0 for op in times.ops.values())
    assert sum(op.seconds for op in times.ops.values()) < elapsed


def test_profile_table(clock):
    x = leaf(1.0, 2.0)
    with profile() as times:
        Slow(clock)(x).exp().sum().backward()
    head, *rows, foot = str(times).split("\n")
    assert re.split(r"  +", head) == [
        "op", "calls", "forward µs", "per call", "backward µs", "per call", "share", "output MB",
    ]  # fmt: skip
    assert rows[0].split() == [
        "Slow",
        "1",
        "20000.0",
        "20000.0",
        "40000.0",
        "40000.0",
        "100.0%",
        "0.000",
    ]
    assert {row.split()[0] for row in rows} == {"Slow", "Exp", "Sum"}
    assert foot == "3 calls, 60.000 ms in ops"
    assert len({len(line) for line in [head, *rows]}) == 1
    assert profile().table().endswith("0 calls, 0.000 ms in ops")


def test_profile_survives_an_op_that_raises():
    with profile() as times:
        x = leaf(1.0, 2.0)
        with pytest.raises(ValueError, match="broadcast"):
            x + np.ones(3)
        (x * 1).sum().backward()
    assert (times.ops["Mul"].forward_calls, times.ops["Mul"].backward_calls) == (1, 1)
    assert "Add" not in times.ops


# ----------------------------------------------------------------------------------- memory_report


def test_memory_counts_each_array_once_and_no_leaves():
    x = leaf(*np.ones(100))  # 800 bytes
    with memory_report() as memory:
        h = x * x  # keeps the leaf only
        assert memory.held == 0
        y = h.exp()  # keeps its output
        assert memory.held == 800
        z = y * y  # keeps the same array again
        assert memory.held == 800
        v = y[:25] * h[:25]  # keeps a view of it, and h
        assert memory.held == 1600
        (z.sum() + v.sum()).backward()
        assert memory.held == 0
    assert (memory.peak, memory.held) == (1600, 0)
    assert {op: n for op, n in memory.peak_by_op.items() if n} == {"Exp": 800, "Mul": 800}


def test_memory_of_an_unused_graph_is_given_back():
    x = leaf(*np.ones(100))
    with memory_report() as memory:
        for _ in range(3):
            y = (x.exp() * x).sum()
            assert memory.held == 800
            del y
            assert memory.held == 0
    assert memory.peak == 800


def test_memory_with_retain_graph_and_after_the_context():
    x = leaf(*np.ones(100))
    with memory_report() as memory:
        y = x.exp().sum()
        y.backward(retain_graph=True)
        assert memory.held == 800
    assert memory.held == 800
    del y
    assert memory.held == 0


def test_memory_of_masks_and_of_what_is_not_recorded():
    x = leaf(*np.ones(100))
    with memory_report() as memory:
        with no_grad():
            x.exp().exp()
        assert memory.held == 0
        y = x.clip(0, 2)  # keeps a mask of booleans
        assert memory.held == 100
        z = y[np.arange(100)]  # keeps its index
        assert memory.held == 900
        z.sum().backward()
        del y, z
    assert (memory.held, memory.peak) == (0, 900)


def test_memory_of_a_composite_counts_its_inputs():
    class Cube(Op):
        composite = staticmethod(lambda x: x * x * x)

        def forward(self, x):
            return x**3

        def backward(self, grad):
            raise AssertionError("not run here")

    x = leaf(*np.ones(100))
    with memory_report() as memory:
        y = Cube()(x * 1)
        assert memory.held == 800
        grad(y.sum(), x, create_graph=True, retain_graph=False)
        assert memory.peak >= 800


def test_memory_table():
    x = leaf(*np.ones(1000))
    with memory_report() as memory:
        y = (x.exp() * x.clip(0, 2)).sum()
    head, *rows, foot = str(memory).split("\n")
    assert re.split(r"  +", head) == ["op", "bytes at peak", "share"]
    assert rows[0].split() == ["Exp", "8,000", "47.1%"]
    assert rows[1].split() == ["Mul", "8,000", "47.1%"]
    assert rows[2].split() == ["Clip", "1,000", "5.9%"]
    assert foot == "peak 17,000 bytes, now 17,000"
    del y
    assert str(memory).endswith("peak 17,000 bytes, now 0")


def test_all_three_at_once():
    x = leaf(1.0, 2.0)
    with profile() as times, memory_report() as memory, detect_anomaly():
        (x.exp() * x).sum().backward()
    assert times.ops["Exp"].forward_calls == 1
    assert memory.peak == 16
