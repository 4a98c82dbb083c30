"""IAF: log-determinants against Jacobians, inverses, bounds, free bits, networks, messages."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor, grad, nn
from tinygen import functional as F
from tinygen.models.iaf import (
    IAF,
    FlowVAE,
    IAFStep,
    conv_networks,
    dense_networks,
    free_bits,
    normalise_weights,
)
from tinygen.models.iaf_networks import ResidualBlock

D, H = 5, 3
gates = pytest.mark.parametrize("gated", [True, False])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def jacobian(flow, z, h):
    """∂f(z)_i / ∂z_j, for one row."""
    leaf = Tensor(z[None], requires_grad=True)
    y = flow(leaf, Tensor(h[None]))[0]
    rows = [grad(y[0, i], leaf, retain_graph=True).data[0] for i in range(len(z))]
    return np.stack(rows)


def lively(flow):
    """In float64, with weights so large that nothing is near the identity any more."""
    with tg.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(2.5)
    return flow.double()


@gates
@pytest.mark.parametrize("reverse", [False, True])
def test_a_steps_jacobian_is_triangular_and_log_det_is_its_determinants(gated, reverse):
    tg.manual_seed(0)
    step = lively(IAFStep(nn.MADE(D, [16, 16], context_features=H, reverse=reverse), gated=gated))
    z, h = draw(D), draw(H, seed=1)
    found = jacobian(step, z, h)
    before, after = np.tril(found, -1), np.triu(found, 1)
    if reverse:
        before, after = after, before
    assert (after == 0).all()
    assert np.count_nonzero(before) == D * (D - 1) // 2
    log_det = step(Tensor(z[None]), Tensor(h[None]))[1].data
    np.testing.assert_allclose(log_det, [np.log(np.diag(found)).sum()], rtol=1e-12)


@gates
def test_the_flows_log_det_is_that_of_its_full_jacobian(gated):
    tg.manual_seed(1)
    flow = lively(IAF(D, H, steps=3, width=16, gated=gated))
    z, h = draw(D), draw(H, seed=1)
    found = jacobian(flow, z, h)
    assert (found != 0).all()  # both orders: every number influences every other
    log_det = flow(Tensor(z[None]), Tensor(h[None]))[1].data
    np.testing.assert_allclose(log_det, [np.linalg.slogdet(found)[1]], rtol=1e-11)


@gates
def test_log_scales_add_up_to_log_det(gated):
    tg.manual_seed(3)
    step = lively(IAFStep(nn.MADE(D, [16], context_features=H), gated=gated))
    z, h = Tensor(draw(4, D)), Tensor(draw(4, H, seed=1))
    found = step.log_scale(z, h)
    assert found.shape == (4, D)
    np.testing.assert_allclose(found.data.sum(1), step(z, h)[1].data, 1e-12)


@gates
def test_the_inverse_takes_back_the_flow(gated):
    tg.manual_seed(2)
    flow = lively(IAF(D, H, steps=2, width=16, gated=gated))
    z, h = Tensor(draw(7, D)), Tensor(draw(7, H, seed=1))
    np.testing.assert_allclose(flow.inverse(flow(z, h)[0], h).data, z.data, atol=1e-9)


def vae(flow=True, seed=0, size=6, latent_dim=4, **options):
    tg.manual_seed(seed)
    posterior = IAF(latent_dim, H, steps=2, width=12, **options) if flow else None
    code = 2 * latent_dim + (H if flow else 0)
    networks = dense_networks((1, size, size), code, latent_dim, hidden=10)
    return FlowVAE(*networks, latent_dim, posterior)


def binary(n, size=6, seed=3):
    return Tensor((draw(n, 1, size, size, seed=seed) > 0).astype(np.float32))


def log_normal(x):
    return -0.5 * x**2 - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("k", [1, 3])
def test_log_q_follows_from_the_noise_and_the_jacobian(k):
    model = vae().double()
    x = Tensor(binary(2).data.astype(float))
    tg.manual_seed(5)
    z, log_q = model.posterior(x, k)
    tg.manual_seed(5)
    noise = tg.random.normal((2 * k, 4), dtype=np.float64)
    code = np.tile(model.encoder(x).data, (k, 1))
    mean, log_std, context = np.split(code, [4, 8], axis=1)
    z0 = mean + np.exp(log_std) * noise
    for i in range(2 * k):
        matrix = jacobian(model.flow, z0[i], context[i])
        log_det = np.linalg.slogdet(matrix)[1]
        expected = log_normal(noise[i]).sum() - log_std[i].sum() - log_det
        np.testing.assert_allclose(log_q.data[i], expected, rtol=1e-10)
    np.testing.assert_allclose(z.data, model.flow(Tensor(z0), Tensor(context))[0].data, 1e-10)


def test_without_a_flow_the_mean_kl_is_the_closed_form():
    model = vae(flow=False)
    x = binary(3)
    with tg.no_grad():
        kl = model.log_weights(x, 4000)[1].data
        mean, log_std = np.split(model.encoder(x).data, 2, axis=1)
    exact = (0.5 * (mean**2 + np.exp(2 * log_std) - 1) - log_std).sum(1)
    np.testing.assert_allclose(kl.mean(0), exact, atol=0.1)


@pytest.mark.parametrize("flow", [True, False])
def test_shares_of_the_latents_add_up_to_the_kl(flow):
    model, x = vae(flow), binary(6)
    tg.manual_seed(5)
    shares = model.kl_by_latent(x)
    tg.manual_seed(5)
    with tg.no_grad():
        kl = model.log_weights(x)[1]
    assert shares.shape == (4,)
    assert shares.sum() == pytest.approx(kl.data.mean(), rel=1e-5)


def test_interpolations_end_at_the_reconstructions():
    model, start, end = vae(), binary(3), binary(3, seed=4)
    tg.manual_seed(5)
    frames = model.interpolate(start, end, 5).data
    tg.manual_seed(5)
    ends = [model.reconstruct(x).data for x in (start, end)]
    assert frames.shape == (3, 5, 1, 6, 6)
    for place, expected in zip((0, -1), ends, strict=True):
        np.testing.assert_allclose(frames[:, place], expected, rtol=1e-4)
    assert np.abs(frames[:, 2] - frames[:, 0]).max() > 0


@pytest.mark.parametrize("flow", [True, False])
def test_the_importance_weights_average_to_the_probability_of_the_image(flow):
    """With one latent number p(x) is an integral over a line."""
    model = vae(flow, latent_dim=1)
    with tg.no_grad():  # wider than the prior: the weights have no heavy tail
        model.encoder[-1].bias.add_(Tensor(np.array([0, 0.7] + flow * H * [0], np.float32)))
    x = binary(3)
    grid = np.linspace(-8, 8, 4001, dtype=np.float32)[:, None]
    with tg.no_grad():
        logits = model.decoder(Tensor(grid)).data.astype(float).reshape(len(grid), 1, -1)
    pixels = x.data.reshape(1, 3, -1)
    log_px = (pixels * logits - np.logaddexp(0, logits)).sum(2)
    exact = np.log((np.exp(log_px + log_normal(grid)) * (16 / 4000)).sum(0))
    found = model.log_likelihood(x, 5000, rows=2000)
    np.testing.assert_allclose(found, exact, atol=0.02)
    with tg.no_grad():
        log_px, kl = model.log_weights(x, 2000)
    assert ((log_px - kl).data.mean(0) < exact).all()


def test_parts_of_the_evaluation_add_up_to_k():
    model = vae()
    asked = []
    weights = model.log_weights
    model.__dict__["log_weights"] = lambda x, k, **options: asked.append(k) or weights(x, k)
    model.log_likelihood(binary(3), 10, rows=12)
    assert asked == [4, 4, 2]


def test_free_bits_have_no_gradient_below_lambda():
    kl = Tensor(np.array([[0.1, 3.0], [0.3, 5.0]]), requires_grad=True)
    loss = free_bits(kl, 1.0)
    assert loss.item() == pytest.approx(1.0 + 4.0)
    np.testing.assert_allclose(grad(loss, kl).data, [[0, 0.5], [0, 0.5]])
    assert free_bits(Tensor(np.array([2.0, 4.0])), 1.0).item() == 3.0


def test_gradients_reach_every_parameter():
    model = vae()
    log_px, kl = model.log_weights(binary(8))
    (kl.mean() - log_px.mean()).backward()
    for name, parameter in model.named_parameters():
        assert np.abs(parameter.grad.data).max() > 0, name


@pytest.mark.parametrize("size", [8, 13, 28])
def test_conv_networks_fit_any_size_and_start_at_variance_one(size):
    tg.manual_seed(0)
    encoder, decoder = conv_networks((1, size, size), 7, 3, maps=(2, 3, 3), hidden=6)
    normalise_weights(encoder)
    normalise_weights(decoder)
    x = binary(40, size)
    code, logits = encoder(x), decoder(Tensor(draw(40, 3).astype(np.float32)))
    assert code.shape == (40, 7)
    assert logits.shape == x.shape
    for out in (code, logits):
        spread = out.data.std((0, 2, 3)[: out.ndim - 1])
        np.testing.assert_allclose(spread, 1, rtol=0.01)


def test_a_block_without_resizing_starts_as_the_identity_plus_a_tenth():
    block = ResidualBlock(3, 3)
    x = Tensor(draw(2, 3, 5, 5).astype(np.float32))
    with tg.no_grad():
        expected = x + block.second(F.elu(block.first(F.elu(x)))) * 0.1
        np.testing.assert_allclose(block(x).data, expected.data, rtol=1e-6)


def test_the_first_batch_sets_the_scales_and_the_posterior_starts_near_the_prior():
    model = vae()
    normalise_weights(model)
    x = binary(200)
    model.start_from(x)
    with tg.no_grad():
        code = model.encoder(x).data
        kl = model.log_weights(x)[1]
        np.testing.assert_allclose(code.std(0), 0.1, rtol=1e-3)
        np.testing.assert_allclose(code.mean(0), 0, atol=1e-3)
        logits = model.decoder(Tensor(draw(500, 4).astype(np.float32))).data
    assert 0.7 < logits.std() < 1.3
    assert kl.mean().item() < 3


def test_it_learns():
    model = vae()
    x = binary(64)
    x.data[:] = x.data[:4].repeat(16, axis=0)
    optimizer = tg.optim.Adamax(model.parameters(), lr=0.01)
    bounds = []
    for _ in range(150):
        log_px, kl = model.log_weights(x)
        loss = free_bits(kl[0], 0.5) - log_px.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bounds.append(loss.item())
    assert bounds[0] > 23
    assert np.mean(bounds[-10:]) < 10


def test_mistakes_are_one_line():
    for make, message in [
        (lambda: IAF(4, 2, steps=0), "steps=0; at least 1"),
        (lambda: vae().posterior(binary(2), 0), "k=0 importance samples; expected at"),
        (
            lambda: vae().log_likelihood(binary(2), 0),
            "k=0 importance samples; expected at",
        ),
        (lambda: conv_networks((1, 7, 7), 4, 2), "square images of at least 8 pixels, got 7 × 7"),
        (lambda: conv_networks((1, 16, 12), 4, 2), "got 16 × 12"),
        (lambda: vae()(binary(2)), "FlowVAE has no forward"),
    ]:
        with pytest.raises((ValueError, NotImplementedError), match=message):
            make()


def test_modules_are_found():
    assert isinstance(vae().flow.steps[1].net, nn.MADE)
