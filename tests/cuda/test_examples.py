"""The examples' way through `--device cuda`: the numbers of the CPU, and the errors of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from scripts import check_weights, error_of, files, load_script, metrics, run, run_on_both

import tinygen

TOY = ["--width", "2", "--batch-size", "4", "--latent-dim", "6", "--no-score"]


@pytest.fixture
def dcgan(cupy, tmp_path, monkeypatch):
    script = load_script("dcgan", tmp_path, monkeypatch, SHOWN=4)
    monkeypatch.setitem(script.CADENCE, "log_every", 1)
    yield script
    tinygen.device.set_precision("tf32")


@pytest.mark.parametrize("how", ["captured", "eager"])
def test_dcgan_trains_as_on_the_cpu(dcgan, how):
    """The same codes, the same batches, the same updates; later steps amplify the rounding."""
    run_on_both(dcgan, "--steps", 6, *TOY, *(["--eager"] if how == "eager" else []))
    np.testing.assert_allclose(metrics("there"), metrics("here"), rtol=2e-3)
    check_weights(rtol=0.02, atol=2e-3)
    assert files("here/samples") == files("there/samples")


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_dcgan_in_less_precision(dcgan, precision):
    assert run(dcgan, "--steps", 2, *TOY, "--device", "cuda", "--precision", precision) == 0
    assert run(dcgan, "--steps", 2, *TOY, "--out", "here") == 0
    tolerance = {"tf32": 0.01, "bf16": 0.05}[precision]
    found = metrics("runs/dcgan-fashion-small")
    np.testing.assert_allclose(found, metrics("here"), rtol=tolerance)
    assert not np.array_equal(found, metrics("here"))


def test_dcgan_goes_on_with_a_run_on_another_device(dcgan):
    assert run(dcgan, "--steps", 3, "--out", "a", *TOY) == 0
    flags = ["--resume", "--out", "a"]
    assert run(dcgan, *flags, "--steps", 5, "--device", "cuda", "--precision", "fp32") == 0
    assert run(dcgan, *flags, "--steps", 6, "--device", "cpu") == 0
    assert run(dcgan, "--steps", 6, "--out", "b", *TOY) == 0
    np.testing.assert_allclose(metrics("a"), metrics("b"), rtol=2e-3)


def test_errors_are_one_line(dcgan, capsys):
    for flags, message in [
        (["--device", "cuda:7"], "this machine has 1 GPU(s), 'cuda:0' to 'cuda:0'"),
        (["--device", "tpu"], "'tpu' is no device; use 'cpu', 'cuda' or 'cuda:<index>'"),
        (["--precision", "tf32"], "argument --precision: tf32 needs --device cuda"),
    ]:
        assert message in error_of(dcgan, capsys, *flags)


def test_too_little_memory_is_one_line(dcgan, cupy, capsys):
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(pool.used_bytes() + 2**16)
    try:
        assert run(dcgan, "--device", "cuda", "--eager", *TOY) == 2
    finally:
        pool.set_limit(0)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("dcgan.py: error: Out of memory allocating")
    assert "lower --batch-size" in line
