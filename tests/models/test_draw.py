"""DRAW: where its windows lie, the bound's two terms, and what depends on what."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygen
from tinygen import Tensor, grad, no_grad
from tinygen import functional as F
from tinygen.models.draw import DRAW, place

rng = np.random.default_rng(0)


@pytest.fixture
def model():
    tinygen.manual_seed(0)
    return DRAW((2, 6, 5), steps=3, latent_dim=4, hidden=7, read=3, write=2).double()


def binary(*shape):
    return Tensor((rng.random(shape) < 0.4).astype(np.float64))


def test_the_first_window_spans_the_image():
    x, y, stride = place(Tensor(np.zeros((1, 5))), 5, 9, 17)
    np.testing.assert_allclose([x, y, stride], [[8], [4], [4]])
    tinygen.manual_seed(0)
    fresh = DRAW((1, 9, 17), hidden=7, read=5, write=5)
    for head in (fresh.reader, fresh.writer):
        np.testing.assert_array_equal(head(tinygen.zeros(1, 7)).detach(), np.zeros((1, 5)))


def test_a_place_is_where_the_filters_are():
    """Narrow filters: what they read are the pixels that `place` names."""
    window = Tensor(np.array([[0.0, 0.2, -20.0, math.log(0.5), 0.0]]))
    image = rng.random((1, 1, 9, 9))
    x, y, stride = place(window, 3, 9, 9)
    patch = F.read_window(Tensor(image), window, 3).numpy()
    at = (np.arange(3) - 1) * stride
    rows, columns = (y + at).round().astype(int), (x + at).round().astype(int)
    np.testing.assert_allclose(patch[0, 0], image[0, 0][np.ix_(rows, columns)], rtol=1e-5)


# ----------------------------------------------------------------------------------- the model


@pytest.mark.parametrize(("read", "write"), [(3, 2), (None, None), (1, None), (None, 4)])
def test_shapes_with_and_without_attention(read, write):
    tinygen.manual_seed(0)
    model = DRAW((3, 6, 5), steps=2, latent_dim=4, hidden=7, read=read, write=write)
    x = Tensor((rng.random((2, 3, 6, 5)) < 0.5).astype(np.float32))
    minus_log_p, kl = model(x)
    assert minus_log_p.shape == (2,)
    assert kl.shape == (2, 2)
    (minus_log_p.mean() + kl.mean()).backward()
    assert all(np.isfinite(p.grad.numpy()).all() for p in model.parameters())
    *_, last = model.draw(tinygen.randn(2, 4, 4))
    assert last.canvas.shape == (4, 3, 6, 5)
    assert (last.write is None) == (write is None)
    assert last.kl is last.read is None


def test_the_recurrence_is_the_papers():
    """Equations 3 to 8 in PyTorch, without attention."""
    torch = pytest.importorskip("torch")
    tinygen.manual_seed(0)
    model = DRAW((1, 4, 3), steps=3, latent_dim=2, hidden=5, read=None, write=None).double()
    model.blank.data[...] = rng.standard_normal((1, 4, 3))
    x, noise = binary(2, 1, 4, 3), rng.standard_normal((3, 2, 2))
    minus_log_p, kl = model(x, Tensor(noise))

    weights = {k: torch.tensor(v.numpy()) for k, v in model.state_dict().items()}
    cells = {"encoder": torch.nn.LSTMCell(29, 5), "decoder": torch.nn.LSTMCell(2, 5)}
    for name, cell in cells.items():
        own = {k: weights[f"{name}.{k}"] for k in cell.state_dict()}
        cell.double().load_state_dict(own)

    def linear(name, h):
        return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    picture = torch.tensor(x.numpy()).flatten(1)
    canvas = weights["blank"].flatten().expand(2, 12)
    encoder = decoder = (torch.zeros(2, 5).double(), torch.zeros(2, 5).double())
    for t in range(3):
        read = torch.cat([picture, picture - torch.sigmoid(canvas), decoder[0]], 1)
        encoder = cells["encoder"](read, encoder)
        mean, log_std = linear("posterior", encoder[0]).chunk(2, 1)
        decoder = cells["decoder"](mean + log_std.exp() * torch.tensor(noise[t]), decoder)
        canvas = canvas + linear("patch", decoder[0])
        own = ((mean**2 + (2 * log_std).exp() - 1) / 2 - log_std).sum(1)
        np.testing.assert_allclose(kl[t].detach(), own.detach())
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    expected = loss(canvas, picture, reduction="none").sum(1)
    np.testing.assert_allclose(minus_log_p.detach(), expected.detach())


def test_the_bound_in_closed_form(model):
    """With a posterior and a canvas that depend on nothing, both of its terms are known."""
    for parameter in (model.posterior.weight, model.patch.weight, model.patch.bias):
        parameter.data[...] = 0
    mean, log_std = rng.standard_normal((2, 4))
    model.posterior.bias.data[...] = np.concatenate([mean, log_std])
    model.blank.data[...] = logits = rng.standard_normal((2, 6, 5))
    x = binary(3, 2, 6, 5)
    minus_log_p, kl = model(x)
    expected = (mean**2 + np.exp(2 * log_std) - 2 * log_std - 1).sum() / 2
    np.testing.assert_allclose(kl.detach(), np.full((3, 3), expected))  # at each step, in full
    p = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(x.numpy() == 1, p, 1 - p)).sum((1, 2, 3))
    np.testing.assert_allclose(minus_log_p.detach(), expected)


def test_the_kl_is_that_of_the_codes_drawn(model):
    """E[log q(z) - log p(z)] over many draws, for a posterior that reads the image."""
    model.posterior.weight.data[...] *= 3
    x = Tensor(np.repeat(binary(1, 2, 6, 5).numpy(), 4000, 0))
    with no_grad():
        first = next(iter(model.look(x)))
        z, kl = first.z.numpy(), first.kl.numpy()
    mean, std = z.mean(0), z.std(0)
    by_sample = ((z**2 - ((z - mean) / std) ** 2) / 2 - np.log(std)).sum(1)
    assert kl[0] > 0.05
    assert np.ptp(kl) < 1e-12
    assert by_sample.mean() == pytest.approx(kl[0], abs=4 * by_sample.std() / math.sqrt(4000))


def test_drawing_from_the_same_codes_paints_the_same_picture(model):
    with no_grad():
        looked = list(model.look(binary(2, 2, 6, 5)))
        drawn = list(model.draw(Tensor(np.stack([g.z.numpy() for g in looked]))))
    for a, b in zip(looked, drawn, strict=True):
        np.testing.assert_array_equal(a.canvas.numpy(), b.canvas.numpy())
        np.testing.assert_array_equal(a.write.numpy(), b.write.numpy())


def test_each_glimpse_has_noise_of_its_own_and_knows_none_to_come(model):
    x = binary(2, 2, 6, 5)
    noise = Tensor(rng.standard_normal((3, 2, 4)), requires_grad=True)
    for t, glimpse in enumerate(model.look(x, noise)):
        of_canvas = grad(glimpse.canvas.sum(), noise, retain_graph=True).numpy()
        assert of_canvas.any((1, 2)).tolist() == [i <= t for i in range(3)]
        of_kl = grad((glimpse.kl + 0 * noise.sum()).sum(), noise, retain_graph=True).numpy()
        assert of_kl.any((1, 2)).tolist() == [i < t for i in range(3)]


def test_gradients_of_the_bound(model):
    """Along a random direction in each parameter, by central differences."""
    x, noise = binary(2, 2, 6, 5), Tensor(rng.standard_normal((3, 2, 4)))

    def loss():
        minus_log_p, kl = model(x, noise)
        return minus_log_p.sum() + kl.sum()

    loss().backward()
    for name, leaf in model.named_parameters():
        direction, value, step = rng.standard_normal(leaf.shape), leaf.data.copy(), 1e-6
        ends = []
        for sign in (1, -1):
            leaf.data[...] = value + sign * step * direction
            ends.append(loss().item())
        leaf.data[...] = value
        slope = (ends[0] - ends[1]) / (2 * step)
        found = (leaf.grad.numpy() * direction).sum()
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-6), name


def test_mistakes_are_named(model):
    with pytest.raises(ValueError, match=r"images \(2, 1, 6, 5\); expected .* \(N, 2, 6, 5\)"):
        model(binary(2, 1, 6, 5))
    for name in ("steps", "read", "write"):
        with pytest.raises(ValueError, match=f"DRAW: {name}=0; expected at least 1"):
            DRAW((1, 4, 4), **{name: 0})
