"""Schedules of the learning rate: PyTorch as the oracle."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinygen import optim

from .training import parameters

SCHEDULES = {
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}),
    "milestones": ("MultiStepLR", {"milestones": [2, 5, 5], "gamma": 0.1}),
    "exponential": ("ExponentialLR", {"gamma": 0.9}),
    "cosine": ("CosineAnnealingLR", {"T_max": 8, "eta_min": 0.01}),
    "lambda": ("LambdaLR", {"lr_lambda": lambda n: 1 / (1 + n)}),
}


def scheduled(name, params):
    kind, options = SCHEDULES[name]
    optimizer = optim.SGD([{"params": params[:1], "lr": 0.5}, {"params": params[1:]}], lr=0.1)
    return optimizer, getattr(optim, kind)(optimizer, **options)


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_torch(name):
    torch = pytest.importorskip("torch")
    optimizer, schedule = scheduled(name, parameters())
    kind, options = SCHEDULES[name]
    tensors = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    other = torch.optim.SGD([{"params": tensors[:1], "lr": 0.5}, {"params": tensors[1:]}], lr=0.1)
    theirs = getattr(torch.optim.lr_scheduler, kind)(other, **options)
    for _ in range(8):
        np.testing.assert_allclose(rates(optimizer), [g["lr"] for g in other.param_groups], 1e-9)
        other.step()
        schedule.step()
        theirs.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on_where_they_were(name):
    optimizer, schedule = scheduled(name, parameters())
    for _ in range(3):
        schedule.step()
    saved = json.loads(json.dumps(schedule.state_dict()))
    again, resumed = scheduled(name, parameters())
    again.param_groups[0]["lr"] = 123.0
    resumed.load_state_dict(saved)
    for _ in range(3):
        assert rates(again) == rates(optimizer)
        schedule.step()
        resumed.step()
