"""The twin that PixelRNN is timed against computes the same: its loss and its gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import tinygen
from tinygen.models.pixelrnn import PixelRNN

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("kind", ["row", "diagonal"])
def test_the_twin_has_the_same_loss_and_gradients(kind, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pixelrnn_twin

    tinygen.manual_seed(0)
    model = PixelRNN(kind, image_size=(5, 4), layers=2, hidden=3, head=4)
    for name, parameter in model.named_parameters():
        if name.endswith(("h0", "c0")):
            tinygen.nn.init.normal_(parameter)
    twin = pixelrnn_twin.PixelRNN(model)
    x = np.random.default_rng(0).integers(0, 2, (3, 1, 5, 4)).astype(np.float32)
    loss = model.nll(tinygen.Tensor(x)).mean()
    expected = twin(torch.tensor(x))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    norms = [
        sorted(float(np.linalg.norm(p.grad)) for p in parameters)
        for parameters in (
            [model.body.first.bias, *model.head[-1].parameters()],
            [twin.first.bias, *twin.head[-1].parameters()],
        )
    ]
    np.testing.assert_allclose(*norms, rtol=1e-4)
    sys.modules.pop("pixelrnn_twin")
