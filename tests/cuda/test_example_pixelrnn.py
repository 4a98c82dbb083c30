"""PixelRNN on a GPU: its scans and masked convolutions on the tape, and the example's run."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import values
from scripts import files, load_script, metrics, run_on_both

import tinygen
from tinygen import Tensor
from tinygen.models.pixelrnn import KINDS, PixelRNN
from tinygen.models.pixelrnn_sampling import sample, sample_naive
from tinygen.random import Generator

TOY = ["--hidden", "3", "--head", "4", "--batch-size", "3", "--image-size", "5", "--no-score"]


@pytest.fixture(autouse=True)
def fp32(cuda_kernels):
    tinygen.device.check("cuda")
    with cuda_kernels("precision").precision("fp32"):
        yield


def model_on(device: str, kind: str, channels: int, levels: int) -> PixelRNN:
    tinygen.manual_seed(0)
    options = {"channels": channels, "levels": levels, "hidden": 4, "head": 5}
    return PixelRNN(kind, image_size=(3, 4), **options).double().to(device)


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (3, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_and_gradients_are_those_of_the_cpu(kind, channels, levels):
    x = np.floor(values((2, channels, 3, 4), 0, low=0, high=levels))
    results = []
    for device in ("cpu", "cuda"):
        model = model_on(device, kind, channels, levels)
        nll = model.nll(Tensor(x).to(device))
        nll.sum().backward()
        results.append([nll, *(parameter.grad for parameter in model.parameters())])
    for here, there in zip(*results, strict=True):
        np.testing.assert_allclose(
            there.detach().cpu().numpy(), here.detach().numpy(), 1e-9, 1e-11
        )


def test_models_on_a_gpu_are_drawn_from_as_on_the_cpu():
    here, there = (model_on(device, "diagonal", 3, 4) for device in ("cpu", "cuda"))
    pixels, _ = sample(here, 2, Generator(1))
    np.testing.assert_array_equal(sample(there, 2, Generator(1))[0], pixels)
    np.testing.assert_array_equal(sample_naive(there, 2, Generator(1))[0], pixels)


@pytest.fixture
def pixelrnn(tmp_path, monkeypatch):
    small = {"SHOWN": 2, "CURVE": 3, "COMPLETED": 2, "FIELD": 2, "FRAMES": 2}
    script = load_script("pixelrnn", tmp_path, monkeypatch, **small)
    monkeypatch.setitem(script.CADENCE, "log_every", 1)
    yield script
    tinygen.device.set_precision("tf32")


@pytest.mark.parametrize("flags", [["--levels", "2", "--skip", "--multi-scale"], ["--eager"]])
def test_the_example_trains_as_on_the_cpu(pixelrnn, flags):
    """Captured or not, in 2 levels drawn anew for each batch or in 4."""
    run_on_both(pixelrnn, "--steps", 5, *flags, *TOY)
    np.testing.assert_allclose(metrics("there"), metrics("here"), rtol=1e-4)
    assert files("here") == files("there")
