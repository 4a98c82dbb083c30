"""Averages of weights, and clipped gradients."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn, optim
from tinygen.nn.utils import clip_grad_norm_, clip_grad_value_

from .training import give, gradients, parameters, train


@pytest.mark.parametrize(
    ("warmup", "decays"),
    [(True, [1 / 10, 2 / 11, 3 / 12, 0.3]), (False, [0.3] * 4)],
)
def test_averages_equal_their_definition(warmup, decays):
    params = parameters(dtype=np.float32)
    ema = optim.ExponentialMovingAverage(params, decay=0.3, warmup=warmup)
    expected = [p.data.astype(np.float64) for p in params]
    optimizer = optim.SGD(params, lr=0.1)
    for step, decay in enumerate(decays):
        train(optimizer, params, [step])
        ema.update()
        expected = [
            decay * e + (1 - decay) * p.data.astype(np.float64)
            for e, p in zip(expected, params, strict=True)
        ]
    current = [p.data.copy() for p in params]
    with ema.applied():
        for p, e in zip(params, expected, strict=True):
            np.testing.assert_allclose(p.data, e, 1e-5, 1e-6)
    for p, c in zip(params, current, strict=True):
        np.testing.assert_array_equal(p.data, c)


def test_averages_come_back_after_an_error():
    p = nn.Parameter(np.ones(2))
    ema = optim.ExponentialMovingAverage([p], decay=0.5)
    p.data[...] = 3

    def fail():
        with ema.applied():
            assert p.data.tolist() == [1, 1]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert p.data.tolist() == [3, 3]


def test_averages_are_saved_and_loaded():
    params = parameters()
    ema = optim.ExponentialMovingAverage(params, decay=0.5)
    train(optim.SGD(params, lr=0.1), params, range(2))
    ema.update()
    saved = copy.deepcopy(ema.state_dict())
    others = parameters(seed=3)
    other = optim.ExponentialMovingAverage(others, decay=0.5)
    other.load_state_dict(saved)
    for p, q in zip(params, others, strict=True):
        q.data[...] = p.data
    for average in (ema, other):  # their warm-up goes on where it was
        average.update()
    for a, b in zip(ema.averages, other.averages, strict=True):
        np.testing.assert_array_equal(a, b)
    saved["1"] = tg.ones(1)
    saved["7"] = tg.ones(2)
    with pytest.raises(ValueError, match=r"average 1 has shape \(1,\), not \(4,\); average 7 has"):
        ema.load_state_dict(saved)
    without_count = {k: v for k, v in ema.state_dict().items() if k != "updates"}
    with pytest.raises(ValueError, match="load_state_dict: no count of updates"):
        ema.load_state_dict(without_count)
    with pytest.raises(ValueError, match=r"decay=1\.5 must lie in"):
        optim.ExponentialMovingAverage(params, decay=1.5)


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_by_norm_equals_torch(max_norm):
    torch = pytest.importorskip("torch")
    params = parameters()
    grads = gradients(5)
    give(params, grads)
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in params]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.tensor(g.copy())
    norm = clip_grad_norm_(iter(params), max_norm)
    other = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    np.testing.assert_allclose(norm, other)
    np.testing.assert_allclose(norm, math.sqrt(sum((g * g).sum() for g in gradients(5))))
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p.grad.data, q.grad, 1e-5)  # PyTorch adds 1e-6 to the norm
    joint = math.sqrt(sum((p.grad.data**2).sum() for p in params))
    np.testing.assert_allclose(joint, min(norm, max_norm))


def test_clipping_takes_one_tensor_and_leaves_what_is_not_finite():
    p = nn.Parameter(np.ones(4))
    assert clip_grad_norm_(p, 1.0) == 0
    give([p], [np.array([3.0, 4.0, 0.0, 0.0])])
    assert clip_grad_norm_(p, 1.0) == 5
    np.testing.assert_allclose(p.grad.data, [0.6, 0.8, 0, 0])
    give([p], [np.array([3.0, np.inf, 0.0, 0.0])])
    assert clip_grad_norm_([p], 1.0) == math.inf
    assert p.grad.tolist() == [3, math.inf, 0, 0]


def test_clipping_by_value():
    params = parameters()
    give(params, gradients(1))
    clip_grad_value_(params, 0.3)
    for p, g in zip(params, gradients(1), strict=True):
        if g is None:
            assert p.grad is None
        else:
            np.testing.assert_array_equal(p.grad.data, np.clip(g, -0.3, 0.3))
    p = nn.Parameter(np.ones(2))
    give([p], [np.array([-5.0, 0.1])])
    clip_grad_value_(p, 1.0)
    assert p.grad.tolist() == [-1, 0.1]
