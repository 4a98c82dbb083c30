"""A twin that a training step is timed against computes the same: its loss and its gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tinygen_kernels.reference import scan

import tinygen

torch = pytest.importorskip("torch")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from models import MODELS  # noqa: E402
from twins import mlp, scans  # noqa: E402
from twins.common import Recipe, Torch, tinygen_training, torch_training  # noqa: E402

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


@pytest.mark.parametrize(
    "recipe", [Recipe(lr=0.1, clip=0.5), Recipe(lr=0.1, optimizer="Adamax", average=0.9)]
)
def test_both_follow_a_recipe(recipe):
    """By the losses of a few steps from the same weights, and the last gradient as it was cut."""
    c = mlp.SMALL["mlp 8-32-32-1, batch 32"]
    ours, _, theirs, _ = mlp.pair(c)
    x, y = ([wrap(a) for wrap in (tinygen.Tensor, torch.from_numpy)] for a in mlp.batch(c))
    steps = (
        tinygen_training(ours, lambda: ((ours(x[0]) - y[0]) ** 2).mean(), recipe),
        torch_training(theirs, lambda: ((theirs(x[1]) - y[1]) ** 2).mean(), recipe, Torch()),
    )
    losses = [[float(step()[0].item()) for _ in range(4)] for step in steps]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
    squares = [sum(float((p.grad**2).sum()) for p in net.parameters()) for net in (ours, theirs)]
    np.testing.assert_allclose(*squares, rtol=1e-3)


def test_the_scans_of_the_twin_are_those_of_the_reference():
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
