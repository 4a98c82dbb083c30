"""The networks, losses and walks of DCGAN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygen
from tinygen import Tensor, random
from tinygen.models.dcgan import (
    Discriminator,
    Generator,
    discriminator_loss,
    generator_loss,
    interpolate,
    sample_codes,
)


def count(net):
    return sum(p.size for p in net.parameters())


@given(
    size=st.integers(8, 45) | st.just(128),
    channels=st.integers(1, 4),
    hidden=st.sampled_from([None, 5]),
)
@settings(max_examples=15)
def test_any_image_size_and_any_channels(size, channels, hidden):
    G = Generator(7, image_size=size, channels=channels, width=2, hidden=hidden)
    D = Discriminator(image_size=size, channels=channels, width=2, hidden=hidden)
    images = G(sample_codes(3, 7))
    assert images.shape == (3, channels, size, size)
    assert (abs(images.detach().numpy()) <= 1).all()
    assert D(images).shape == (3,)


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match="images of 7 pixels; at least 8"):
        Generator(image_size=7)


def test_the_sizes_of_the_published_networks():
    # pytorch/examples, 64 × 64: batch norm's gain and shift included
    assert count(Generator()) == 3_576_704
    assert count(Discriminator()) == 2_765_568
    # the small one for 28 × 28
    small = {"image_size": 28, "channels": 1, "width": 32, "hidden": 256}
    assert count(Generator(**small)) == 868_544
    assert count(Discriminator(**small)) == 836_992


def test_weights_start_as_the_paper_says():
    tinygen.manual_seed(0)
    for net in (Generator(image_size=32, width=16), Discriminator(image_size=32, hidden=64)):
        for name, p in net.named_parameters():
            values = p.detach().numpy()
            if name.endswith("bias"):  # only batch norm has one
                assert (values == 0).all()
            elif values.ndim == 1:
                assert abs(values.mean() - 1) < 0.02
            else:
                assert abs(values.mean()) < 0.004
            if name.endswith("weight") and values.size > 500:
                assert values.std() == pytest.approx(0.02, rel=0.15)


def test_no_batch_norm_at_the_image():
    names = [type(m).__name__ for m in Generator(image_size=16).net]
    assert names[-2:] == ["ConvTranspose2d", "Tanh"]
    names = [type(m).__name__ for m in Discriminator(image_size=16).net]
    assert names[:3] == ["Conv2d", "LeakyReLU", "Conv2d"]


def test_a_code_alone_gives_what_it_gives_among_others():
    G = Generator(5, image_size=8, width=2).eval()
    z = sample_codes(4, 5)
    with tinygen.no_grad():
        together, alone = G(z).numpy(), G(z[:1]).numpy()
    np.testing.assert_allclose(alone, together[:1], rtol=1e-4, atol=1e-8)
    assert abs(together).max() > 1e-6


def test_losses_where_they_are_known():
    zero = Tensor(np.zeros(6, np.float32))
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * np.log(2))
    assert generator_loss(zero).item() == pytest.approx(np.log(2))
    # D is sure, and right or wrong: no infinity, where log σ would give one
    far = Tensor(np.full(3, 200.0, np.float32))
    assert discriminator_loss(far, -far).item() == pytest.approx(0)
    assert discriminator_loss(-far, far).item() == pytest.approx(400)
    assert generator_loss(-far).item() == pytest.approx(200)


@given(seed=st.integers(0, 1000))
def test_losses_are_the_papers(seed):
    rng = np.random.default_rng(seed)
    real, fake = Tensor(rng.normal(0, 3, 8)), Tensor(rng.normal(0, 3, 8))

    def sigma(s):
        return 1 / (1 + np.exp(-s.numpy()))

    paper = -np.log(sigma(real)).mean() - np.log(1 - sigma(fake)).mean()
    assert discriminator_loss(real, fake).item() == pytest.approx(paper, rel=1e-9)
    assert generator_loss(fake).item() == pytest.approx(-np.log(sigma(fake)).mean(), rel=1e-9)


def test_codes_follow_their_prior_and_generator():
    uniform = sample_codes(2000, 10, "uniform", random.Generator(1)).numpy()
    assert -1 <= uniform.min() < -0.99
    assert 0.99 < uniform.max() < 1
    assert uniform.std() == pytest.approx(3**-0.5, rel=0.02)
    normal = sample_codes(2000, 10, "normal", random.Generator(1)).numpy()
    assert normal.std() == pytest.approx(1, rel=0.02)
    assert (normal == sample_codes(2000, 10, "normal", random.Generator(1)).numpy()).all()
    assert normal.dtype == np.float32
    with pytest.raises(ValueError, match="'cauchy'"):
        sample_codes(1, 1, "cauchy")


@given(seed=st.integers(0, 1000), steps=st.integers(2, 7))
def test_walks_lead_from_code_to_code(seed, steps):
    rng = np.random.default_rng(seed)
    start, end = rng.normal(size=(2, 20))
    line = interpolate(start, end, steps)
    arc = interpolate(start, end, steps, "normal")
    for walk in (line, arc):
        np.testing.assert_allclose(walk[[0, -1]], [start, end], atol=1e-12)
    np.testing.assert_allclose(np.diff(line, axis=0), [(end - start) / (steps - 1)] * (steps - 1))
    # The arc keeps the distance from the origin where both ends have it.
    end *= np.linalg.norm(start) / np.linalg.norm(end)
    lengths = np.linalg.norm(interpolate(start, end, steps, "normal"), axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(start))


def test_a_walk_between_parallel_codes():
    z = np.ones(4)
    np.testing.assert_allclose(interpolate(z, z, 3, "normal"), np.ones((3, 4)))
    assert np.isfinite(interpolate(z, -z, 3, "normal")).all()


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 28, "channels": 1, "width": 4, "hidden": 16},
        {"image_size": 21, "channels": 3, "width": 4},
    ],
)
def test_a_pytorch_twin_with_the_same_weights(options):
    """The same layers in PyTorch, loaded with our state dict: outputs, losses and gradients."""
    torch = pytest.importorskip("torch")
    tinygen.manual_seed(3)
    G, D = Generator(10, **options), Discriminator(**options)
    twin_g, twin_d = twin(torch, G), twin(torch, D)
    shape = (6, options["channels"], options["image_size"], options["image_size"])
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    z = sample_codes(6, 10)
    twin_g.load_state_dict({k: torch.tensor(v.numpy()) for k, v in G.net.state_dict().items()})
    twin_d.load_state_dict({k: torch.tensor(v.numpy()) for k, v in D.net.state_dict().items()})

    fake = G(z)
    loss = discriminator_loss(D(Tensor(x)), D(fake)) + 0.5 * generator_loss(D(fake))
    loss.backward()

    bce = torch.nn.functional.binary_cross_entropy_with_logits
    fake_t = twin_g(torch.tensor(z.numpy()))
    real_logits, fake_logits = twin_d(torch.tensor(x)).flatten(), twin_d(fake_t).flatten()
    again = twin_d(fake_t).flatten()
    loss_t = (
        bce(real_logits, torch.ones(6))
        + bce(fake_logits, torch.zeros(6))
        + 0.5 * bce(again, torch.ones(6))
    )
    loss_t.backward()

    np.testing.assert_allclose(
        fake.detach().numpy(), fake_t.detach().numpy(), rtol=1e-3, atol=1e-5
    )
    assert loss.item() == pytest.approx(loss_t.item(), rel=1e-5)
    for net, other in ((G, twin_g), (D, twin_d)):
        for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
            scale = abs(q.grad).max().item()
            np.testing.assert_allclose(
                p.grad.numpy(), q.grad.numpy(), rtol=2e-3, atol=2e-3 * scale, err_msg=name
            )
        for (name, b), c in zip(net.named_buffers(), other.buffers(), strict=True):
            np.testing.assert_allclose(b.numpy(), c.numpy(), rtol=1e-3, atol=1e-6, err_msg=name)


def twin(torch, net):
    """PyTorch's layers of the same names, with the options that ours have."""
    layers = []
    for ours in net.net:
        kind = getattr(torch.nn, type(ours).__name__)
        name = type(ours).__name__
        if "Conv" in name:
            extra = {"output_padding": ours.output_padding} if "Transpose" in name else {}
            layer = kind(
                ours.in_channels, ours.out_channels, ours.kernel_size,
                stride=ours.stride, padding=ours.padding, bias=False, **extra,
            )  # fmt: skip
        elif name == "Linear":
            layer = kind(*reversed(ours.weight.shape), bias=False)
        elif "BatchNorm" in name:
            layer = kind(ours.num_features)
        elif name == "LeakyReLU":
            layer = kind(ours.negative_slope)
        elif name == "Unflatten":
            layer = kind(1, tuple(ours.unflattened_size))
        else:
            layer = kind()
        layers.append(layer)
    return torch.nn.Sequential(*layers)
