"""The VAE: its sizes, its bounds against an exact likelihood and a PyTorch twin, and misuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

import tinygen
from tinygen import Tensor, optim
from tinygen.distributions import Normal, binarize, kl_divergence, per_example
from tinygen.models.vae import VAE, objective
from tinygen.random import Generator

SHAPE = (1, 4, 4)


def images(n: int, shape=SHAPE, seed: int = 0) -> Tensor:
    """Zeros and ones."""
    return binarize(Tensor(np.full((n, *shape), 0.4, np.float32)), generator=Generator(seed))


def small(**options) -> VAE:
    tinygen.manual_seed(0)
    return VAE(SHAPE, 1, **{"hidden": (8,), **options})


def exact_log_likelihood(vae: VAE, x: Tensor) -> np.ndarray:
    """log ∫ p(x|z) p(z) dz over the one latent, on a grid."""
    z = np.linspace(-8, 8, 4001, dtype=np.float32)
    logits = vae.decode(Tensor(z[:, None])).logits.detach().numpy().astype(np.float64)
    logits, x = logits.reshape(len(z), 1, -1), x.numpy().reshape(1, len(x), -1)
    log_p = (x * logits - np.logaddexp(logits, 0)).sum(axis=2) - 0.5 * z[:, None] ** 2
    return special.logsumexp(log_p, axis=0) + math.log((z[1] - z[0]) / math.sqrt(2 * math.pi))


def test_sizes():
    count = lambda vae: sum(p.size for p in vae.parameters())  # noqa: E731
    assert count(VAE((1, 28, 28))) == 815_824
    iwae = VAE((1, 28, 28), 50, hidden=(200, 200))
    encoder = 784 * 200 + 200 + 200 * 200 + 200 + 200 * 100 + 100
    assert count(iwae) == encoder + 50 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784
    for shape in [(1, 28, 28), (3, 32, 32), (1, 9, 21), (3, 8, 8)]:
        vae = VAE(shape, 5, net="conv", hidden=(7,), width=2, activation="elu")
        assert vae.sample(2).shape == (2, *shape)
        assert vae.encode(images(3, shape)).mean.shape == (3, 5)


def test_training_finds_the_exact_likelihood_from_below():
    """One latent: there log p(x) is an integral that can be computed."""
    vae, x = small(), images(40)
    optimizer = optim.Adam(vae.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        objective(vae, x).loss.backward()
        optimizer.step()
    exact = exact_log_likelihood(vae, x)
    draw = Generator(4)
    elbos = [np.subtract(*(v.detach().numpy() for v in vae.elbo(x, generator=draw)))
             for _ in range(200)]  # fmt: skip
    estimate = vae.log_likelihood(x, 10_000, generator=draw)
    np.testing.assert_allclose(estimate, exact, atol=0.05)
    l5 = -objective(vae, x, k=5).loss.item()
    assert np.mean(elbos) < exact.mean() - 0.01
    assert np.mean(elbos) - 0.3 < l5 < exact.mean() + 0.3
    assert exact.mean() > 16 * math.log(0.5)


def test_log_likelihood_does_not_depend_on_how_it_is_cut():
    vae, x = small(), images(7)
    whole = vae.log_likelihood(x, 5000, rows=10**6, generator=Generator(1))
    assert whole.shape == (7,)
    assert whole.dtype == np.float64
    np.testing.assert_allclose(whole, exact_log_likelihood(vae, x), atol=0.1)
    for rows in (100, 2003):
        cut = vae.log_likelihood(x, 5000, rows=rows, generator=Generator(2))
        np.testing.assert_allclose(cut, whole, atol=0.15)
    # more images than rows: in parts of three, one sample at a time
    parts = vae.log_likelihood(x, 200, rows=3, generator=Generator(3))
    np.testing.assert_allclose(parts, whole, atol=0.6)


def test_objectives_are_their_formulae():
    vae, x = VAE(SHAPE, 3, hidden=(8,)), images(20)
    q = vae.encode(x)
    kl = per_example(kl_divergence(q, Normal())).mean().item()
    for beta in (0.0, 1.0, 4.0):
        found = objective(vae, x, beta=beta)
        assert found.kl.item() == pytest.approx(kl, rel=1e-4)
        expected = beta * found.kl.item() - found.log_likelihood.item()
        assert found.loss.item() == pytest.approx(expected, rel=1e-5)
    tinygen.manual_seed(5)
    loss = objective(vae, x, k=4).loss.item()
    tinygen.manual_seed(5)
    log_p, log_ratio = (v.detach().numpy().astype(float) for v in vae.log_weights(x, 4))
    expected = -(special.logsumexp(log_p - log_ratio, axis=0) - math.log(4)).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert log_ratio.shape == (4, 20)


def test_output_bias_starts_at_the_pixel_means():
    means = np.linspace(0, 1, 16).reshape(SHAPE)
    vae = small()
    vae.start_from(means)
    at_zero = vae.decode(Tensor(np.zeros((1, 1), np.float32))).mean.detach().numpy()[0]
    np.testing.assert_allclose(at_zero, means.clip(0.001, 0.999), rtol=1e-4)
    conv = VAE((3, 8, 8), 2, net="conv", hidden=(4,), width=2)
    conv.start_from(np.full((3, 8, 8), 0.25))
    np.testing.assert_allclose(conv.decoder[-1].bias.detach().numpy(), math.log(1 / 3), rtol=1e-5)


def model_of(picture: np.ndarray) -> VAE:
    """Whatever the code, it draws this picture, with each pixel at 0.001 or 0.999."""
    vae = small()
    vae.start_from(picture)
    with tinygen.no_grad():
        vae.decoder[-2].weight.copy_(0.0)
    return vae


def test_repairs_weigh_what_is_seen_against_what_is_expected():
    picture = (np.arange(16) % 3 == 0).astype(np.float32).reshape(SHAPE)
    vae, x = model_of(picture), images(6)
    known = np.zeros(SHAPE, bool)
    known[:, :2] = True
    filled = vae.inpaint(x, known, 3, generator=Generator(1)).numpy()
    np.testing.assert_array_equal(filled[:, :, :2], x.numpy()[:, :, :2])
    drawn = np.broadcast_to(picture.clip(0.001, 0.999), x.shape)
    np.testing.assert_allclose(filled[:, :, 2:], drawn[:, :, 2:], rtol=1e-3)

    # Bayes' rule for one pixel: prior odds of 999 against evidence of 9
    flipped = Tensor(np.abs(np.broadcast_to(picture, x.shape) - 1).astype(np.float32))
    p = vae.denoise(flipped, 0.1, 2).numpy()
    expected = np.where(picture == 1, 999 / (999 + 9), 9 / (999 + 9))
    np.testing.assert_allclose(p, np.broadcast_to(expected, x.shape), rtol=1e-3)


def test_what_is_missing_is_not_looked_at():
    vae = small()
    x, known = images(4), np.zeros(SHAPE, bool)
    known[:, 0] = True
    other = Tensor(np.where(known, x.numpy(), 1 - x.numpy()))
    first, second = (vae.inpaint(v, known, 4, generator=Generator(3)).numpy() for v in (x, other))
    np.testing.assert_array_equal(first, second)


def test_latents_that_say_nothing_are_not_active():
    vae, x = VAE(SHAPE, 3, hidden=(8,)), images(50)
    with tinygen.no_grad():
        vae.encoder[-1].weight[1::3].copy_(0.0)  # rows 1 and 4: the second latent's
        vae.encoder[-1].weight[0].copy_(1.0)
    kl = vae.kl_by_latent(x)
    assert kl[1] == 0
    assert kl[0] > 0.1
    assert vae.active_units(x) < 3


def test_the_same_generator_gives_the_same_samples():
    vae = small()
    first, second = (vae.sample(3, generator=Generator(7)).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert ((first > 0) & (first < 1)).all()


def test_misuse_says_what_is_wrong():
    vae = small()
    for call, message in [
        (lambda: objective(vae, images(2), k=0), "k=0 importance samples; expected at least 1"),
        (lambda: vae.log_likelihood(images(2), 0), "k=0"),
        (lambda: objective(vae, images(2), k=2, beta=2.0), "no meaning for a bound of k=2"),
        (lambda: vae.encode(images(2, (1, 5, 4))), r"built for \(N, 1, 4, 4\)"),
        (lambda: vae.decode(Tensor(np.zeros((2, 3)))), r"expected \(N, 1\)"),
        (lambda: vae.denoise(images(2), 0.7), "probabilities from 0 to 0.5"),
        (lambda: vae.inpaint(images(2), np.ones(SHAPE), 0), "steps=0"),
        (lambda: VAE(SHAPE, net="conv"), "images of 4 × 4 pixels; net='conv' needs at least 8"),
        (lambda: VAE(SHAPE, net="transformer"), "must be one of mlp, conv"),
        (lambda: VAE(SHAPE, hidden=()), "at least one hidden layer"),
        (lambda: VAE(SHAPE, 0), "no size below 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_a_pytorch_twin_with_the_same_weights(net, k):
    torch = pytest.importorskip("torch")
    tinygen.manual_seed(1)
    shape = (2, 9, 8)
    vae = VAE(shape, 3, net=net, hidden=(6, 5), width=2)
    x = images(4, shape)
    tinygen.manual_seed(2)
    loss = objective(vae, x, k=k).loss
    loss.backward()

    noise = torch.tensor(Generator(2).normal((4, 3) if k == 1 else (k, 4, 3)))
    weights = [torch.tensor(p.detach().numpy(), requires_grad=True) for p in vae.parameters()]
    mean, log_std, decode = torch_vae(torch, net, weights, torch.tensor(x.numpy()), shape)
    z = mean + log_std.exp() * noise
    logits = decode(z.reshape(-1, 3)).reshape(*z.shape[:-1], -1)
    pixels = torch.tensor(x.numpy()).flatten(1)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    log_p = -bce(logits, pixels.expand_as(logits), reduction="none").sum(-1)
    q = torch.distributions.Normal(mean, log_std.exp())
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    if k == 1:
        expected = -(log_p - torch.distributions.kl_divergence(q, prior).sum(-1)).mean()
    else:
        log_w = log_p + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
        expected = -(torch.logsumexp(log_w, 0) - math.log(k)).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, p), w in zip(vae.named_parameters(), weights, strict=True):
        np.testing.assert_allclose(
            p.grad.numpy(), w.grad.numpy(), rtol=1e-3, atol=1e-4, err_msg=name
        )


def torch_vae(torch, net, weights, x, shape):
    """The same layers as functions of PyTorch: mean, log_std, and the decoder."""
    F = torch.nn.functional
    params = iter(weights)

    def dense(h):
        return F.linear(h, next(params), next(params))

    h = x
    if net == "conv":
        h = torch.tanh(F.conv2d(h, next(params), next(params), stride=2, padding=1))
    h = torch.tanh(dense(torch.tanh(dense(h.flatten(1)))))
    mean, log_std = dense(h).chunk(2, dim=1)

    def decode(z):
        h = dense(torch.tanh(dense(torch.tanh(dense(z)))))
        if net == "mlp":
            return h
        h = torch.tanh(h).unflatten(1, (2, 4, 4))
        options = {"stride": 2, "padding": 1, "output_padding": (1, 0)}
        return F.conv_transpose2d(h, next(params), next(params), **options)

    return mean, log_std, decode
