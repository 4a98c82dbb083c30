"""Networks travel between PyTorch and tinygen through safetensors files, both ways."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinygen as tg
from tinygen import functional as F
from tinygen import nn, optim
from tinygen.train import checkpoint

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

LATENT, WIDTH = 10, 4


def generator(nn):
    """DCGAN's for 64 × 64 images, narrow, written once for either library's `nn`."""
    layers, inputs = [], LATENT
    for outputs, stride, padding in (
        (8 * WIDTH, 1, 0), (4 * WIDTH, 2, 1), (2 * WIDTH, 2, 1), (WIDTH, 2, 1)
    ):  # fmt: skip
        layers += [
            nn.ConvTranspose2d(
                inputs, outputs, kernel_size=4, stride=stride, padding=padding, bias=False
            ),
            nn.BatchNorm2d(outputs),
            nn.ReLU(True),
        ]
        inputs = outputs
    last = nn.ConvTranspose2d(inputs, 3, kernel_size=4, stride=2, padding=1, bias=False)
    return nn.Sequential(*layers, last, nn.Tanh())


def discriminator(nn):
    first = nn.Conv2d(3, WIDTH, kernel_size=4, stride=2, padding=1, bias=False)
    layers = [first, nn.LeakyReLU(0.2, inplace=True)]
    for factor in (1, 2, 4):
        inputs, outputs = factor * WIDTH, 2 * factor * WIDTH
        layers += [
            nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(8 * WIDTH, 1, kernel_size=4, bias=False), nn.Flatten())


def dcgan(nn):
    """Both nets as one, so that one file holds them."""
    return nn.Sequential(generator(nn), discriminator(nn))


def lstm(nn):
    return nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)


def moved(net):
    """With weights of DCGAN's size and statistics that are not the starting ones."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.normal_(1 if value.ndim == 1 and name.endswith("weight") else 0, 0.1)
    return net


def numbers(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


NETS = {"dcgan": (dcgan, (3, LATENT, 1, 1)), "lstm": (lstm, (3, 7, 5))}
nets = pytest.mark.parametrize("name", NETS)


def save(net, path):
    """C order, because safetensors writes memory as it lies."""
    save_file({k: np.asarray(v, order="C") for k, v in net.state_dict().items()}, path)


def first(results):
    return results[0] if isinstance(results, tuple) else results


def check_equal(ours, theirs, shape, training):
    """Outputs, gradients of the input and of all parameters, running statistics."""
    ours.train(training)
    theirs.train(training)
    x = numbers(*shape)
    mine, other = tg.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, expected = first(ours(mine)), first(theirs(other))
    np.testing.assert_allclose(y.data, expected.detach(), 1e-4, 1e-5)
    y.mean().backward()
    expected.mean().backward()
    pairs = [(mine.grad.data, other.grad)]
    pairs += [
        (p.grad.data, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)
    ]
    pairs += [(b.data, c) for b, c in zip(ours.buffers(), theirs.buffers(), strict=True)]
    for a, b in pairs:
        scale = float(b.abs().max())
        np.testing.assert_allclose(a, b.numpy(), 1e-3, 1e-4 * scale)
        assert a.dtype == b.numpy().dtype


@nets
@pytest.mark.parametrize("training", [True, False])
def test_from_pytorch(name, training, tmp_path):
    build, shape = NETS[name]
    theirs = moved(build(torch.nn))
    safetensors_torch.save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    ours = build(nn)
    ours.load_state_dict(load_file(tmp_path / "net.safetensors"))
    check_equal(ours, theirs, shape, training)


@nets
def test_to_pytorch(name, tmp_path):
    build, shape = NETS[name]
    ours = build(nn)
    save(ours, tmp_path / "net.safetensors")
    theirs = build(torch.nn)
    theirs.load_state_dict(safetensors_torch.load_file(tmp_path / "net.safetensors"))
    check_equal(ours, theirs, shape, training=True)


def test_pytorch_reads_a_checkpoint(tmp_path):
    net = dcgan(nn)
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, model="dcgan", config={}, step=0, parts={"net": net})
    state = safetensors_torch.load_file(path)
    theirs = dcgan(torch.nn)
    theirs.load_state_dict({name.removeprefix("net."): v for name, v in state.items()})
    check_equal(net, theirs, (2, LATENT, 1, 1), training=False)


def test_there_and_back_again(tmp_path):
    """Every bit of every value."""
    theirs = moved(dcgan(torch.nn))
    safetensors_torch.save_file(theirs.state_dict(), tmp_path / "a")
    ours = dcgan(nn)
    ours.load_state_dict(load_file(tmp_path / "a"))
    save(ours, tmp_path / "b")
    back = safetensors_torch.load_file(tmp_path / "b")
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, back[name]), name
        assert value.dtype == back[name].dtype


def test_training_goes_the_same_way():
    """Three steps of both players in float64, with the code of a PyTorch user."""
    start = moved(dcgan(torch.nn)).state_dict()
    images, codes = numbers(3, 4, 3, 64, 64), numbers(3, 4, LATENT, 1, 1)

    def train(net, optim, F, tensor):
        G, D = net[0], net[1]
        adam_g = optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
        adam_d = optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
        bce, losses = F.binary_cross_entropy_with_logits, []
        for real, z in zip(images, codes, strict=True):
            fake = G(tensor(z))
            adam_d.zero_grad()
            on_real, on_fake = D(tensor(real)), D(fake.detach())
            loss_d = bce(on_real, on_real * 0 + 1) + bce(on_fake, on_fake * 0)
            loss_d.backward()
            adam_d.step()
            adam_g.zero_grad()
            on_fake = D(fake)
            loss_g = bce(on_fake, on_fake * 0 + 1)
            loss_g.backward()
            adam_g.step()
            losses += [loss_d.item(), loss_g.item()]
        return losses

    ours, theirs = dcgan(nn).to(np.float64), dcgan(torch.nn).double()
    theirs.load_state_dict(start)
    ours.load_state_dict({k: v.numpy() for k, v in start.items()})
    found = train(ours, optim, F, lambda x: tg.Tensor(x.astype(np.float64)))
    expected = train(theirs, torch.optim, torch.nn.functional, lambda x: torch.tensor(x).double())
    np.testing.assert_allclose(found, expected, 1e-8)
    assert len(set(found)) == 6
    for (name, value), other in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        np.testing.assert_allclose(value.data, other, 1e-6, 1e-8, err_msg=name)
