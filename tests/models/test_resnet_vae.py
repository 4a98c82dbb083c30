"""The ResNet VAE: the flow's triangle over maps, its bound, both ways through the layers."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor, grad
from tinygen.models.iaf import IAFStep, free_bits, normalise_weights
from tinygen.models.resnet_vae import MaskedConvs, ResNetVAE


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def jacobian(function, z):
    """d f(z)_i / d z_j over all numbers of one image, in reading order: pixels, then channels."""
    leaf = Tensor(z, requires_grad=True)
    y = function(leaf)
    rows = []
    for c, i, j in sorted(np.ndindex(y.shape[1:]), key=lambda index: (*index[1:], index[0])):
        g = grad(y[0, c, i, j], leaf, retain_graph=True).data[0]
        rows.append(g.transpose(1, 2, 0).reshape(-1))
    return np.stack(rows)


def net(reverse=False, latent_maps=3, hidden=(6, 6)):
    tg.manual_seed(0)
    found = MaskedConvs(latent_maps, hidden, reverse=reverse)
    normalise_weights(found)
    return found.double()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", [(6,), (3, 6)])
def test_the_triangle_over_pixels_and_channels_is_exactly_zero(reverse, hidden):
    flow, z = net(reverse, hidden=hidden), draw(1, 3, 3, 2)
    context = Tensor(draw(1, hidden[0], 3, 2, seed=1))
    ms = lambda part: lambda z: flow(z, context)[:, part]  # noqa: E731
    for part in (slice(0, 3), slice(3, 6)):
        found = jacobian(ms(part), z)
        after = np.tril(found) if reverse else np.triu(found)
        assert (after == 0).all()
        # Neighbours in the order: the latent just before it, in the same pixel.
        assert (np.diag(found, 1 if reverse else -1).reshape(-1)[:2] != 0).all()


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
def test_log_det_and_inverse_of_a_step_over_maps(gated, reverse):
    step, z = IAFStep(net(reverse), gated=gated), draw(1, 3, 3, 2)
    context = Tensor(draw(1, 6, 3, 2, seed=1))
    with tg.no_grad():
        step(Tensor(draw(40, 3, 3, 2)), Tensor(draw(40, 6, 3, 2, seed=2)))  # sets the scales
    y, log_det = step(Tensor(z), context)
    found = jacobian(lambda z: step(z, context)[0], z)
    np.testing.assert_allclose(log_det.data, [np.linalg.slogdet(found)[1]], rtol=1e-10)
    with tg.no_grad():
        np.testing.assert_allclose(step.inverse(y, context).data, z, atol=1e-9)


def model(hidden=1, size=6, channels=1, **options):
    tg.manual_seed(0)
    sizes = {"layers": 2, "maps": 6, "latent_maps": 3, **options}
    found = ResNetVAE((channels, size, size), hidden=hidden, **sizes)
    normalise_weights(found)
    return found


def levels(n, size=6, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return Tensor(rng.integers(0, 256, (n, channels, size, size)).astype(np.float32) / 255)


@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_it_starts_sane_and_every_parameter_gets_a_gradient(hidden):
    vae, x = model(hidden), levels(64)
    vae.start_from(x)
    log_px, kl = vae.log_weights(x)
    assert log_px.shape == (1, 64)
    assert kl.shape == (1, 64, 2 * 3)
    assert -log_px.data.mean() / 36 < 8  # nats per pixel: log 256 is 5.5
    assert abs(kl.data.sum(2).mean()) < 20
    (free_bits(kl[0], 0.0) - log_px.mean()).backward()
    for name, parameter in vae.named_parameters():
        constant = "layers.1.down_in.weight"  # the state at the top is still 0
        assert np.abs(parameter.grad.data).max() > 0 or name.startswith(constant), name


def test_a_gaussian_layers_kl_is_the_closed_form_on_average():
    vae = model(0, layers=1)
    x = levels(2)
    vae.start_from(levels(64))
    with tg.no_grad():
        kl = vae.log_weights(x, 3000)[1].data.mean(0)
        layer = vae.layers[0]
        _, (q_mean, q_log_std, _) = layer.up(vae.stem(x - 0.5))
        parts = tg.functional.split(
            layer.down_in(tg.functional.elu(vae._top(2))) * 0.1, layer.down_parts, 1
        )
        p_mean, p_log_std, r_mean, r_log_std = (part.data for part in parts[:4])
    q_mean, q_log_std = r_mean + q_mean.data, r_log_std + q_log_std.data
    ratio, distance = q_log_std - p_log_std, (q_mean - p_mean) / np.exp(p_log_std)
    exact = (0.5 * (np.exp(2 * ratio) + distance**2 - 1) - ratio).sum((2, 3))
    np.testing.assert_allclose(kl, exact, atol=0.15)


def test_with_a_flow_the_density_is_still_that_of_the_sample():
    """E_q p(z) / q(z) = 1, however far the flow moves and stretches z."""
    vae = model(1, layers=1, size=2)
    vae.start_from(levels(64, 2))
    with tg.no_grad():
        move = np.repeat([2.0, -3.0], 3).astype(np.float32)  # m, then s: a stretch by e^0.3
        vae.layers[0].flow.out.bias.add_(Tensor(move))
        kl = vae.log_weights(levels(1, 2), 20_000)[1].data.sum(2)
    assert np.exp(-kl).mean() == pytest.approx(1, abs=0.1)
    assert np.abs(kl).mean() > 0.2


def test_more_samples_give_a_better_bound():
    vae, x = model(1), levels(16)
    vae.start_from(x)
    few, many = (vae.log_likelihood(x, k, rows=64).mean() for k in (1, 50))
    assert many > few + 0.1


def test_it_learns_and_samples_are_pixels():
    vae = model(1)
    x = Tensor(levels(4).data.repeat(16, axis=0))
    vae.start_from(x)
    optimizer = tg.optim.Adamax(vae.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        log_px, kl = vae.log_weights(x)
        loss = free_bits(kl[0], 0.1) - log_px.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < losses[0] - 5
    for images in (vae.sample(3), vae.reconstruct(x)[:3]):
        assert images.shape == (3, 1, 6, 6)
        assert ((images.data > 0) & (images.data < 1)).all()
    assert vae.log_scale.grad.data.item() != 0


def test_on_several_levels_latents_shrink_and_everything_learns():
    vae, x = model(1, size=8, levels=2), levels(5, 8)
    vae.start_from(levels(64, 8))
    assert [z.shape for z in vae.latents(x)] == [(5, 3, n, n) for n in (2, 2, 4, 4)]
    log_px, kl = vae.log_weights(x)
    assert kl.shape == (1, 5, 4 * 3)
    (kl.sum() - log_px.sum()).backward()
    for name, parameter in vae.named_parameters():
        constant = "layers.3.down_in.weight"  # the state at the top is still 0
        assert np.abs(parameter.grad.data).max() > 0 or name.startswith(constant), name
    assert vae.sample(2).shape == (2, 1, 8, 8)


def test_images_of_given_latents_and_the_way_between_them():
    vae, start, end = model(1), levels(2), levels(2, seed=1)
    vae.start_from(levels(64))
    tg.manual_seed(5)
    frames = vae.interpolate(start, end, 3).data
    tg.manual_seed(5)
    ends = [vae.reconstruct(x).data for x in (start, end)]
    assert frames.shape == (2, 3, 1, 6, 6)
    for place, expected in zip((0, -1), ends, strict=True):
        np.testing.assert_allclose(frames[:, place], expected, rtol=1e-4)
    tg.manual_seed(5)
    with tg.no_grad():
        mean = vae._infer(start)[0].mean.data  # the same latents, used as they are drawn
    np.testing.assert_allclose(ends[0], mean, rtol=1e-5)


def test_nats_of_every_map_add_up_to_the_kl():
    vae, x = model(1), levels(6)
    vae.start_from(levels(64))
    tg.manual_seed(5)
    nats = vae.kl_by_latent(x)
    tg.manual_seed(5)
    with tg.no_grad():
        kl = vae.log_weights(x)[1].data[0]
    assert nats.shape == (2, 3)
    np.testing.assert_allclose(nats.reshape(-1), kl.mean(0), rtol=1e-5)


def test_the_papers_size():
    layer = ResNetVAE((3, 32, 32), layers=2).layers[0]
    # 2.07 million in a layer of the paper; here the 4 dead taps of 9 are no weights at all.
    dead = 4 * 160 * (32 + 160 + 2 * 32)
    assert sum(p.size for p in layer.parameters() if p.ndim > 1) + dead == 2_073_600


def test_mistakes_are_one_line():
    for make, message in [
        (lambda: ResNetVAE((1, 7, 8)), r"7 × 8 pixels can't be halved 1 times .* divisible by 2"),
        (lambda: ResNetVAE((1, 12, 6), levels=2), r"12 × 6 .* 2 times .* divisible by 4"),
        (lambda: model(levels=0), "levels=0"),
        (lambda: model(layers=0), "layers=0"),
        (lambda: MaskedConvs(4, [6]), r"hidden=\[6\] must be one or more multiples of 4"),
        (lambda: model().log_weights(levels(2), 0), "k=0 importance samples"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
