"""Checkpoints: what is saved comes back bit for bit, and what can't be is said in one line."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinygen
from tinygen import nn, optim
from tinygen.train import CheckpointError, OutputError, checkpoint

CONFIG = {"width": 3, "channels": 1}


def make(width=3, seed=0):
    tinygen.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, bias=False), nn.BatchNorm2d(width), nn.Flatten()
    )
    return {"net": net, "adam": optim.Adam(net.parameters(), lr=0.1)}


def train(parts, steps):
    for _ in range(steps):
        parts["adam"].zero_grad()
        loss = (parts["net"](tinygen.randn(4, 1, 5, 5)) ** 2).mean() + tinygen.rand(1).sum()
        loss.backward()
        parts["adam"].step()


def save(path, parts, step, config=CONFIG):
    checkpoint.save(path, model="toy", config=config, step=step, parts=parts)


def load(path, parts, model="toy", config=CONFIG):
    return checkpoint.load(path, model=model, config=config, parts=parts)


@pytest.fixture
def path(tmp_path):
    """A checkpoint after two steps."""
    parts = make()
    train(parts, 2)
    save(tmp_path / "checkpoint.safetensors", parts, 2)
    return tmp_path / "checkpoint.safetensors"


def test_an_interrupted_run_ends_with_the_same_bytes(path, tmp_path):
    straight = make()
    train(straight, 5)
    save(tmp_path / "straight", straight, 5)

    resumed = make(seed=99)
    assert load(path, resumed) == 2
    train(resumed, 3)
    save(tmp_path / "resumed", resumed, 5)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "straight").read_bytes()
    assert path.read_bytes() != (tmp_path / "straight").read_bytes()


def test_before_the_first_step_there_is_nothing_special(tmp_path):
    straight = make()
    save(tmp_path / "start", straight, 0)
    train(straight, 2)
    resumed = make(seed=1)
    assert load(tmp_path / "start", resumed) == 0
    train(resumed, 2)
    for name, value in straight["net"].state_dict().items():
        assert (resumed["net"].state_dict()[name].numpy() == value.numpy()).all(), name


def test_other_readers_find_the_weights(path):
    tensors = load_file(path)
    assert tensors["net.0.weight"].shape == (3, 1, 3, 3)
    assert tensors["net.1.num_batches_tracked"] == 2
    assert "adam.state.exp_avg.0" in tensors


def test_one_part_alone(path):
    parts = make(seed=5)
    assert load(path, {"net": parts["net"]}) == 2
    assert not any(parts["adam"].steps)


def test_the_header_says_what_it_is(path):
    assert checkpoint.read_header(path) == ("toy", CONFIG, 2)


def test_another_model_or_another_build(path):
    with pytest.raises(CheckpointError, match="is a checkpoint of toy, not of vae"):
        load(path, make(), model="vae")
    with pytest.raises(CheckpointError, match=r"of a toy with width=3, not with width=8:"):
        load(path, make(), config={**CONFIG, "width": 8})
    with pytest.raises(
        CheckpointError, match=r"with deep=None, width=3, not with deep=1, width=8"
    ):
        load(path, make(), config={**CONFIG, "width": 8, "deep": 1})


def test_tensors_that_do_not_fit(path):
    with pytest.raises(CheckpointError, match=r"net: .*0\.weight has shape \(3, 1, 3, 3\), not"):
        load(path, {"net": make(width=4)["net"]})
    with pytest.raises(CheckpointError, match=r"missing 0\.bias"):
        load(path, {"net": nn.Sequential(nn.Conv2d(1, 3, kernel_size=3), nn.BatchNorm2d(3))})
    with pytest.raises(CheckpointError, match="holds adam, net, but no discriminator"):
        load(path, {"discriminator": make()["net"]})


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_file_that_is_cut_off(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        load(path, make())


def test_a_flipped_bit_among_the_weights(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        load(path, make())


def test_other_files(path, tmp_path):
    with pytest.raises(CheckpointError, match="can't be read: No such file"):
        load(tmp_path / "nowhere", make())
    with pytest.raises(CheckpointError, match="can't be read"):
        load(tmp_path, make())
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        load(tmp_path / "text", make())
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="no checkpoint of tinygen"):
        load(tmp_path / "theirs", make())


def test_saving_where_nothing_can_be_saved_keeps_the_old_one(path, tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*nowhere"):
        save(tmp_path / "nowhere" / "checkpoint.safetensors", make(), 1)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(path, make(), 3, config={"width": object()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_metadata_is_one_entry(path):
    """Several would be written in an order of their own in every process."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    assert list(json.loads(data[8 : 8 + size])["__metadata__"]) == ["tinygen"]
