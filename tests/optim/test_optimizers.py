"""Optimizers: PyTorch and closed forms as oracles."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn, optim

from .training import RULES, SHAPES, give, gradients, make, parameters, rules, train


@rules
def test_equals_torch_over_ten_steps(rule):
    torch = pytest.importorskip("torch")
    name, options = RULES[rule]
    ours = parameters()
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in ours]
    optimizer = make(rule, ours)
    other = getattr(torch.optim, name)(theirs, **options)
    for step in range(10):
        grads = gradients(step)
        give(ours, grads)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        optimizer.step()
        other.step()
        for mine, p in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.data, p.detach(), 1e-12, 1e-14, err_msg=str(step))
    assert ours[0].data.transpose(0, 2, 3, 1).flags.c_contiguous  # in place, in its own memory


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam"])
def test_groups_equal_torch(name):
    """Options of a group of its own, momentum in one of them included."""
    torch = pytest.importorskip("torch")
    own = {"lr": 0.3, "weight_decay": 0.2}
    if name != "Adam":
        own["momentum"] = 0.8
    ours = parameters()
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in ours]
    groups = [[{"params": iter(p[:2])}, {"params": p[2:], **own}] for p in (ours, theirs)]
    optimizer = getattr(optim, name)(groups[0], lr=0.05)
    other = getattr(torch.optim, name)(groups[1], lr=0.05)
    for step in range(6):
        if step == 3:  # a schedule by hand
            for group in (*optimizer.param_groups, *other.param_groups):
                group["lr"] *= 0.5
        grads = gradients(step)
        give(ours, grads)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        optimizer.step()
        other.step()
    for mine, p in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.data, p.detach(), 1e-12, 1e-14)


def test_momentum_switched_on_later():
    p = nn.Parameter(np.zeros(3))
    optimizer = optim.SGD([p], lr=1.0)
    for momentum, expected in ((0.0, -1), (0.5, -2), (0.5, -3.5)):
        optimizer.param_groups[0]["momentum"] = momentum
        give([p], [np.ones(3)])
        optimizer.step()
        np.testing.assert_allclose(p.data, expected)


@pytest.mark.parametrize("inside", [False, True])
def test_eps_outside_and_inside_the_root_of_adam(inside):
    """With one gradient g throughout, m̂ = g and v̂ = g²: every step is lr g / denominator."""
    g, lr, eps = np.array([1e-3, -2.0, 0.0]), 0.1, 1e-2
    p = nn.Parameter(np.zeros(3))
    optimizer = optim.Adam([p], lr=lr, eps=eps, eps_inside_root=inside)
    denominator = np.sqrt(g * g + eps) if inside else np.abs(g) + eps
    for step in range(1, 5):
        give([p], [g])
        optimizer.step()
        np.testing.assert_allclose(p.data, -step * lr * g / denominator, 1e-10)


def test_eps_inside_the_root_of_rmsprop():
    p = nn.Parameter(np.zeros(1))
    optim_options = {"lr": 1.0, "alpha": 0.0, "eps": 3.0}
    optimizer = optim.RMSprop([p], **optim_options, eps_inside_root=True)
    give([p], [np.ones(1)])
    optimizer.step()
    np.testing.assert_allclose(p.data, -1 / math.sqrt(1 + 3))


@rules
def test_a_saved_and_loaded_run_goes_on_bit_for_bit(rule):
    straight = parameters(dtype=np.float32)
    train(make(rule, straight), straight, range(9))

    first = parameters(dtype=np.float32)
    optimizer = make(rule, first)
    train(optimizer, first, range(5))
    saved = optimizer.state_dict()
    copies = {k: tg.tensor(np.array(v.data)) for k, v in saved["state"].items()}
    saved = {**json.loads(json.dumps({**saved, "state": {}})), "state": copies}

    second = parameters(seed=1, dtype=np.float32)
    for p, q in zip(second, first, strict=True):
        p.data[...] = q.data
    resumed = make(rule, second)
    train(resumed, second, [0])  # what it had before is forgotten
    for p, q in zip(second, first, strict=True):
        p.data[...] = q.data
    resumed.load_state_dict(saved)
    train(optimizer, first, [100])  # the copy does not share memory with the first run
    train(resumed, second, range(5, 9))
    assert resumed.steps == optimizer_steps(range(9))
    for p, q in zip(second, straight, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_loading_replaces_the_state_in_use():
    p, q = (nn.Parameter(np.zeros(3)) for _ in range(2))
    used, fresh = optim.Adam([p], lr=0.1), optim.Adam([q], lr=0.1)
    for g in (1.0, 50.0):
        give([p], [np.full(3, g)])
        used.step()
    used.load_state_dict(fresh.state_dict())
    p.data[...] = 0
    for g in (-1.0, 2.0):
        give([p, q], [np.full(3, g)] * 2)
        used.step()
        fresh.step()
        np.testing.assert_array_equal(p.data, q.data)


def test_state_is_kept_only_where_the_rule_needs_it():
    p = nn.Parameter(np.zeros(3))
    for optimizer, names in (
        (optim.SGD([p], lr=0.1), set()),
        (optim.SGD([p], lr=0.1, momentum=0.9), {"velocity.0"}),
        (optim.RMSprop([p]), {"square_avg.0"}),
        (optim.RMSprop([p], momentum=0.9), {"square_avg.0", "velocity.0"}),
    ):
        give([p], [np.ones(3)])
        optimizer.step()
        assert set(optimizer.state_dict()["state"]) == names


def optimizer_steps(steps):
    return [sum(gradients(step)[i] is not None for step in steps) for i in range(len(SHAPES))]


def test_loading_what_does_not_fit_changes_nothing():
    params = parameters()
    optimizer = optim.Adam(params)
    train(optimizer, params, range(2))
    before = optimizer.state_dict()
    arrays = {k: v.data.copy() for k, v in before["state"].items()}
    bad = {
        "steps": [1] * len(params),
        "groups": [{"lr": 1.0}, {}],
        "state": {"velocity.0": tg.ones(2), "exp_avg.1": tg.ones(7)},
    }
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(bad)
    text = str(caught.value)
    for part in (
        "Adam.load_state_dict: 2 groups, not 1",
        "group 0 has the options lr",
        "unexpected velocity.0",
        "exp_avg.1 has shape (7,), not (4,)",
    ):
        assert part in text
    assert "\n" not in text
    after = optimizer.state_dict()
    assert after["steps"] == before["steps"]
    assert after["groups"] == before["groups"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(after["state"][name].data, array)


def test_a_parameter_without_gradient_stays():
    params = parameters()
    before = [p.data.copy() for p in params]
    optimizer = optim.AdamW(params, weight_decay=0.5)
    optimizer.step()
    give(params[:1], gradients(5)[:1])
    optimizer.step()
    assert optimizer.steps == [1, 0, 0, 0, 0]
    for p, array in list(zip(params, before, strict=True))[1:]:
        np.testing.assert_array_equal(p.data, array)
    assert set(optimizer.state_dict()["state"]) == {"exp_avg.0", "exp_avg_sq.0"}


def test_zero_grad():
    p = nn.Parameter(np.ones(2))
    optimizer = optim.SGD([p], lr=1.0)
    (p * p).sum().backward()
    optimizer.zero_grad()
    assert p.grad is None


def test_parameters_moved_to_another_dtype_before_the_first_step():
    net = nn.Linear(2, 1)
    optimizer = optim.Adam(net.parameters(), lr=1.0)
    net.to(np.float64)
    net(tg.ones(1, 2, dtype=np.float64)).sum().backward()
    before = net.bias.data.copy()
    optimizer.step()
    np.testing.assert_allclose(net.bias.data, before - 1)


def test_two_dtypes_in_one_optimizer():
    params = [nn.Parameter(np.ones(2, dtype)) for dtype in (np.float32, np.float64)]
    optimizer = optim.SGD(params, lr=0.5)
    give(params, [np.ones(2, np.float32), np.ones(2)])
    optimizer.step()
    for p in params:
        assert p.data.tolist() == [0.5, 0.5]


def test_a_graph_made_before_a_step_is_not_used_after_it():
    p = nn.Parameter(np.ones(3))
    loss = (p * p).sum()
    (p * 2).sum().backward()
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match=r"overwritten in place at SGD\.step"):
        loss.backward()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: optim.SGD([]), "SGD: got no parameters"),
        (lambda p: optim.Adam([p, p]), r"Adam: a parameter of \(2,\) appears twice"),
        (lambda p: optim.Adam([{"params": [p]}, {"params": [p]}]), "appears twice"),
        (lambda p: optim.Adam([p * 1]), "can only train leaves that require a gradient"),
        (lambda p: optim.Adam([p.detach()]), "can only train leaves that require a gradient"),
        (lambda p: optim.Adam([p.data]), "got ndarray"),
        (
            lambda p: optim.Adam([{"params": [p], "momentum": 1}]),
            r"unknown options \['momentum'\]",
        ),
        (lambda p: optim.Adam([p], lr=-1), "Adam: lr=-1 must be at least 0"),
        (lambda p: optim.Adam([p], lr=math.nan), "lr=nan must be at least 0"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\) must lie in \[0, 1\)"),
        (lambda p: optim.RMSprop([p], alpha=1.5), r"alpha=1.5 must lie in \[0, 1\)"),
        (lambda p: optim.SGD([p], nesterov=True), "nesterov=True needs a momentum above 0"),
        (lambda p: optim.SGD([{"params": [p], "lr": -2}], lr=1), "lr=-2 must be at least 0"),
    ],
)
def test_messages(call, text):
    with pytest.raises(ValueError, match=text):
        call(nn.Parameter(np.ones(2)))
