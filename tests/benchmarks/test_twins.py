"""A twin that a training step is timed against computes the same: its loss and its gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from models import MODELS
from twins.common import Torch

SMALL = [(model, name) for model in MODELS for name in model.SMALL]


def of_each_case(test):
    ids = [name for _, name in SMALL]
    return pytest.mark.parametrize(("model", "name"), SMALL, ids=ids)(test)


@of_each_case
def test_the_twin_has_the_same_loss_and_gradients(model, name):
    ours, our_loss, theirs, their_loss = model.pair(model.SMALL[name])
    assert our_loss.item() == pytest.approx(their_loss.item(), rel=1e-5)
    our_loss.backward()
    their_loss.backward()
    norms = [
        [float(np.linalg.norm(p.grad.numpy())) for p in net.parameters()] for net in (ours, theirs)
    ]
    np.testing.assert_allclose(*norms, rtol=1e-3, atol=1e-6)


@of_each_case
def test_both_steps_run(model, name):
    c = model.SMALL[name]
    for step in (model.tinygen_step(c), model.torch_step(c, Torch())):
        losses = [float(loss.item()) for _ in range(2) for loss in step()]
        assert np.isfinite(losses).all()
        assert len(set(losses)) == len(losses)


def test_the_scans_of_the_twin_are_those_of_the_reference():
    import torch
    from tinygen_kernels.reference import scan
    from twins import scans

    rng = np.random.default_rng(0)
    z, w = rng.standard_normal((2, 12, 4, 5)), rng.standard_normal((12, 3, 3))
    h0, c0 = rng.standard_normal((2, 3, 5))
    expected = scan.row_lstm(z, w, h0, c0)[0]
    found = scans.row_lstm(*map(torch.from_numpy, (z, w, h0, c0)))
    np.testing.assert_allclose(found, expected, rtol=1e-10)

    w, (h0, c0) = w[..., :2].copy(), rng.standard_normal((2, 3, 4))
    expected = scan.diagonal_lstm(z, w, h0, c0)[0]
    found = scans.diagonal_lstm(*(torch.from_numpy(a)[None] for a in (z, w, h0, c0)))
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)


def test_cases_have_names_of_their_own():
    names = [name for model in MODELS for name in model.CASES]
    assert len(set(names)) == len(names)
    assert all(model.SMALL.keys() == model.CASES.keys() for model in MODELS)
