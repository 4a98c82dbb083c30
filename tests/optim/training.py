"""Parameters, gradients and optimizers that the tests share."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn, optim

# Our class, PyTorch's, and options under the names of both.
RULES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd with decay": ("SGD", {"lr": 0.1, "weight_decay": 0.3}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1}),
    "rmsprop with momentum": ("RMSprop", {"lr": 0.01, "momentum": 0.5, "eps": 1e-3}),
    "adam": ("Adam", {"lr": 0.01, "betas": (0.5, 0.99)}),
    "adam with decay": ("Adam", {"weight_decay": 0.1, "eps": 1e-2}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.5}),
    "adamw, defaults": ("AdamW", {}),
    "adamax": ("Adamax", {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1}),
}
rules = pytest.mark.parametrize("rule", RULES)
SHAPES = [(4, 3, 2, 2), (4,), (5, 3), (), (0, 2)]


def parameters(seed=0, dtype=np.float64):
    """The first is a convolution's weight: in channels-last memory."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    arrays[0] = np.moveaxis(np.moveaxis(arrays[0], 1, -1).copy(), -1, 1)
    return [nn.Parameter(np.asarray(a)) for a in arrays]


def gradients(step, dtype=np.float64):
    """In C order whatever the parameter's; some are missing now and then, one comes late."""
    rng = np.random.default_rng(step)
    grads = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    missing = {1: step % 3 == 1, 2: step < 4}
    return [None if missing.get(i) else np.asarray(g) for i, g in enumerate(grads)]


def give(params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else tg.Tensor(g)


def train(optimizer, params, steps):
    for step in steps:
        give(params, gradients(step, params[0].dtype))
        optimizer.step()


def make(rule, params):
    name, options = RULES[rule]
    return getattr(optim, name)(params, **options)
