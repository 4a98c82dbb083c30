"""The examples' way through `--device cuda`: the numbers of the CPU, and the errors of a GPU."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tinygen
from tinygen.train import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
TOY = ["--width", "2", "--batch-size", "4", "--latent-dim", "6", "--no-score"]


@pytest.fixture
def dcgan(cupy, tmp_path, monkeypatch):
    """The script as a module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["examples/dcgan.py"])
    spec = importlib.util.spec_from_file_location("dcgan_on_cuda", EXAMPLES / "dcgan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(module.CADENCE, "log_every", 1)
    monkeypatch.setattr(module, "SHOWN", 4)
    yield module
    tinygen.device.set_precision("tf32")


def run(script, *flags) -> int:
    return cli.command(script.main, [*flags, *TOY])


def metrics(folder: str) -> np.ndarray:
    with Path(folder, "metrics.csv").open() as file:
        return np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])


@pytest.mark.parametrize("how", ["captured", "eager"])
def test_dcgan_trains_as_on_the_cpu(dcgan, how):
    """The same codes, the same batches, the same updates; later steps amplify the rounding."""
    flags = ["--steps", "6"]
    assert run(dcgan, *flags, "--out", "here") == 0
    there = ["--device", "cuda", "--precision", "fp32", "--out", "there"]
    assert run(dcgan, *flags, *there, *(["--eager"] if how == "eager" else [])) == 0
    np.testing.assert_allclose(metrics("there"), metrics("here"), rtol=2e-3)
    here, there = (
        load_file("here/checkpoint.safetensors"),
        load_file("there/checkpoint.safetensors"),
    )
    assert here.keys() == there.keys()
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, rtol=0.02, atol=2e-3, err_msg=name)
    pictures = sorted(p.name for p in Path("here/samples").iterdir())
    assert pictures == sorted(p.name for p in Path("there/samples").iterdir())


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_dcgan_in_less_precision(dcgan, precision):
    assert run(dcgan, "--steps", "2", "--device", "cuda", "--precision", precision) == 0
    assert run(dcgan, "--steps", "2", "--out", "here") == 0
    tolerance = {"tf32": 0.01, "bf16": 0.05}[precision]
    found = metrics("runs/dcgan-fashion-small")
    np.testing.assert_allclose(found, metrics("here"), rtol=tolerance)
    assert not np.array_equal(found, metrics("here"))


def test_dcgan_goes_on_with_a_run_on_another_device(dcgan, capsys):
    assert run(dcgan, "--steps", "3", "--out", "a") == 0
    flags = ["--resume", "--out", "a", "--device", "cuda", "--precision", "fp32"]
    assert run(dcgan, *flags, "--steps", "5") == 0
    assert run(dcgan, "--resume", "--out", "a", "--device", "cpu", "--steps", "6") == 0
    assert run(dcgan, "--steps", "6", "--out", "b") == 0
    np.testing.assert_allclose(metrics("a"), metrics("b"), rtol=2e-3)


def test_errors_are_one_line(dcgan, cupy, capsys):
    for flags, message in [
        (["--device", "cuda:7"], "this machine has 1 GPU(s), 'cuda:0' to 'cuda:0'"),
        (["--device", "tpu"], "'tpu' is no device; use 'cpu', 'cuda' or 'cuda:<index>'"),
        (["--precision", "tf32"], "argument --precision: tf32 needs --device cuda"),
    ]:
        capsys.readouterr()
        try:
            code = run(dcgan, *flags)
        except SystemExit as stop:
            code = stop.code
        (line,) = capsys.readouterr().err.splitlines()
        assert code == 2
        assert message in line


def test_too_little_memory_is_one_line(dcgan, cupy, capsys):
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(pool.used_bytes() + 2**16)
    try:
        assert run(dcgan, "--device", "cuda", "--eager") == 2
    finally:
        pool.set_limit(0)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("dcgan.py: error: Out of memory allocating")
    assert "lower --batch-size" in line
