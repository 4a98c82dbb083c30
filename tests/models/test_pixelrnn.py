"""PixelRNN: what each logit may see, likelihoods that add up to one, cached and naive samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor
from tinygen.models.pixelrnn import KINDS, PixelRNN, quantise
from tinygen.models.pixelrnn_multiscale import MultiScalePixelRNN
from tinygen.models.pixelrnn_sampling import sample, sample_naive
from tinygen.random import Generator

# (channels, levels): the sigmoid, quantised and 256-way heads, grey and RGB
HEADS = [(1, 2), (1, 4), (3, 2), (3, 5), (3, 256)]
kinds = pytest.mark.parametrize("kind", KINDS)
heads = pytest.mark.parametrize(("channels", "levels"), HEADS)
# The options that change the network; `scales` is 2 for a MultiScalePixelRNN.
variants = pytest.mark.parametrize(
    "variant", [{}, {"skip": True}, {"skip": True, "scales": 2}], ids=["plain", "skip", "scales"]
)


def make(kind, channels=1, levels=2, size=(5, 6), layers=2, skip=False, scales=1):
    """A model in float64. Three colours do not divide 7, 10 and 14 channels."""
    tg.manual_seed(0)
    options = {"channels": channels, "levels": levels, "layers": layers, "skip": skip}
    model = {1: PixelRNN, 2: MultiScalePixelRNN}[scales]
    return model(kind, image_size=size, hidden=7, head=10, **options).double()


def images(model, n=2, seed=0):
    shape = (n, model.channels, model.height, model.width)
    return np.random.default_rng(seed).integers(0, model.levels, shape).astype(np.float64)


def gradient_of(model, x, colour, i, j):
    """Of random combinations of the logits of one pixel and colour for all inputs (C, H, W)."""
    leaf = Tensor(x, requires_grad=True)
    logits = logits_of(model, leaf, i, j)[:, :, colour]
    weights = np.random.default_rng(1).normal(size=logits.shape)
    return np.abs(tg.grad(logits, leaf, weights).data).max(0)


def logits_of(model, x, i, j):
    """Those that a pixel is drawn by."""
    if isinstance(model, MultiScalePixelRNN) and i % 2 == j % 2 == 0:
        return model.small(x[:, :, ::2, ::2])[:, :, :, i // 2, j // 2]
    return model(x)[:, :, :, i, j]


def in_order(model):
    """The place of each pixel and colour in the chain rule, (C, H, W)."""
    return model.channels * model.order + np.arange(model.channels)[:, None, None]


@heads
@kinds
def test_no_logit_sees_the_present_or_the_future(kind, channels, levels):
    """Gradients to it are exactly zero; of the past, nearly all others are not (cf. below)."""
    model = make(kind, channels, levels)
    x = images(model, 4)  # of one alone all units of a head of 10 may be off
    order = in_order(model)
    for colour, i, j in [(0, 0, 0), (channels - 1, 4, 5), (0, 2, 3), (channels - 1, 3, 0)]:
        gradient = gradient_of(model, x, colour, i, j)
        past = order < order[colour, i, j]
        assert (gradient[~past] == 0).all()
        if past.any():
            assert (gradient[past] > 0).mean() > 0.8


@variants
@kinds
def test_every_logit_of_an_rgb_image_is_causal(kind, variant):
    model = make(kind, 3, 4, size=(3, 4), layers=1, **variant)
    x, order = images(model, 4), in_order(model)
    seen = []
    for colour, i, j in itertools.product(range(3), range(3), range(4)):
        gradient = gradient_of(model, x, colour, i, j)
        past = order < order[colour, i, j]
        assert (gradient[~past] == 0).all()
        seen += (gradient[past] > 0).tolist()
    assert np.mean(seen) > 0.8


def test_the_order_of_a_multi_scale_image():
    assert make("cnn", size=(3, 4), scales=2).order.tolist() == [
        [0, 4, 1, 5],
        [6, 7, 8, 9],
        [2, 10, 3, 11],
    ]


def reach(kind, size, pixel, layers):
    """Which part of the past the logit at a pixel sees."""
    model = make(kind, size=(size, size), layers=layers)
    order = in_order(model)
    i, j = pixel
    seen = gradient_of(model, images(model), 0, i, j) > 0
    return seen[0], order[0] < order[0, i, j]


def test_the_diagonal_lstm_sees_all_of_the_past_but_one_pixel():
    """The last pixel of the row above: the maps there do not see it, and in the row itself only
    those within 3 columns of it do."""
    seen, past = reach("diagonal", 15, (9, 5), layers=1)
    missing = past & ~seen
    assert np.argwhere(missing).tolist() == [[8, 14]]
    seen, past = reach("diagonal", 15, (9, 12), layers=1)
    assert (seen == past).all()


def test_the_row_lstm_sees_a_triangle_and_the_cnn_has_a_blind_spot():
    seen, past = reach("row", 21, (18, 10), layers=1)
    assert not (seen & ~past).any()
    # 3 by the first convolution, then one a row: at 10 columns all but the lowest rows
    assert seen[0].all()
    assert np.flatnonzero(seen[17]).tolist() == list(range(5, 14))
    seen, past = reach("cnn", 21, (18, 5), layers=2)
    # Rightwards the stack of 3 x 3 convolutions climbs at most a column for each row.
    assert seen[17, 6:].sum() < past[17, 6:].sum()
    gated, past = reach("gated", 21, (18, 5), layers=4)
    rows, columns = slice(18 - 5, 18), slice(0, 5 + 5)
    assert gated[rows, columns].all()


@variants
@kinds
def test_the_likelihood_of_all_images_is_one(kind, variant):
    model = make(kind, size=(2, 3), **variant)
    everything = np.array(list(itertools.product([0.0, 1.0], repeat=6))).reshape(64, 1, 2, 3)
    log_p = -model.nll(Tensor(everything)).data.sum((1, 2, 3))
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    assert np.exp(log_p).std() > 0


def test_the_likelihood_of_all_rgb_images_is_one():
    model = make("diagonal", 3, 3, size=(1, 2))
    everything = np.array(list(itertools.product([0.0, 1.0, 2.0], repeat=6)))
    log_p = -model.nll(Tensor(everything.reshape(-1, 3, 1, 2))).data.sum((1, 2, 3))
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "variant"), [*itertools.product(KINDS, [{"skip": True}]), ("row", {"scales": 2})]
)
def test_the_loss_of_one_image_falls_and_every_parameter_learns(kind, variant):
    model = make(kind, 3, 4, layers=1, **variant)
    x = Tensor(images(model, 1))
    optimizer = tg.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = model.nll(x).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 100
    assert losses[-1] < 0.75 * losses[0]
    for name, parameter in model.named_parameters():
        assert np.abs(parameter.grad.data).max() > 0, name


def test_sizes_of_the_paper_s_networks():
    """Parameters as counted from table 1, biases and the learned initial states among them."""

    def count(*args, **options):
        return sum(p.data.size for p in PixelRNN(*args, **options).parameters())

    # 7 x 7: 24 · 32 + 32; each half: (32 + 32) · 64 + 64 and states 2 · 16 · 28; up: 2 · 512 + 32
    layer = 2 * (64 * 64 + 64 + 2 * 16 * 28) + 2 * 512 + 32
    head = 2 * (32 * 32 + 32) + 33
    assert count("diagonal", layers=7) == 24 * 32 + 32 + 7 * layer + head
    assert count("diagonal", layers=7, skip=True) == 24 * 32 + 32 + 7 * (layer + 1024) + head


def test_quantise():
    x = np.array([0, 0.16, 0.17, 0.5, 1], np.float32)
    assert quantise(x, 4).tolist() == [0, 0, 1, 2, 3]
    assert quantise(x, 4).dtype == np.float32
    assert quantise(Tensor(np.arange(256) / 255), 256).data.tolist() == list(range(256))
    assert quantise(x, 2).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: PixelRNN("rows"), "kind='rows' must be one of row, diagonal, cnn, gated"),
        (lambda: PixelRNN(levels=1), "levels=1 must be from 2 (black, white) to 256"),
        (lambda: PixelRNN(levels=257), "levels=257 must be from"),
        (lambda: PixelRNN(layers=0), "layers=0 must be at least 1"),
        (lambda: PixelRNN(channels=3, hidden=2), "hidden=2 and head=32 must be at least"),
        (lambda: PixelRNN(image_size=0), "image_size=0 must be"),
        (lambda: PixelRNN(image_size=8)(tg.zeros(1, 1, 8, 7)),
         "images (1, 1, 8, 7) must be (N, channels, height, width) with (1, 8, 8)"),
        (lambda: PixelRNN(image_size=8, context=2)(tg.zeros(1, 1, 8, 8)),
         "made with context=2, so it needs maps (N, 2, 8, 8), got none"),
        (lambda: PixelRNN(image_size=8)(tg.zeros(1, 1, 8, 8), tg.zeros(1, 2, 8, 8)),
         "made with context=0, so it takes none, got (1, 2, 8, 8)"),
    ],
)  # fmt: skip
def test_messages(call, text):
    with pytest.raises(ValueError, match="PixelRNN: ") as caught:
        call()
    assert text in str(caught.value)


# ------------------------------------------------------------------------------------ sampling


def trained_a_little(kind, channels, levels, size=(4, 5), **variant):
    """A model whose weights are large enough for its logits to differ from pixel to pixel."""
    model = make(kind, channels, levels, size=size, **variant)
    with tg.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = np.random.default_rng(index).normal(size=parameter.shape)
            parameter.add_(Tensor(0.3 * noise))
    return model


@pytest.mark.parametrize(
    ("channels", "levels", "variant"),
    [
        (1, 2, {"scales": 2}),
        (1, 4, {"skip": True}),
        (3, 5, {}),
        (3, 5, {"skip": True, "scales": 2}),
    ],
)
@kinds
def test_cached_samples_are_the_naive_ones_with_their_likelihoods(kind, channels, levels, variant):
    model = trained_a_little(kind, channels, levels, **variant)
    pixels, log_prob = sample(model, 3, Generator(1))
    assert set(np.unique(pixels)) <= set(range(levels))
    assert len(np.unique(pixels)) > 1
    np.testing.assert_allclose(log_prob, -model.nll(Tensor(pixels)).data, 1e-9, 1e-9)
    naive, naive_log_prob = sample_naive(model, 3, Generator(1))
    np.testing.assert_array_equal(pixels, naive)
    np.testing.assert_allclose(log_prob, naive_log_prob, 1e-9, 1e-9)


@pytest.mark.parametrize(
    ("channels", "levels", "variant"), [(1, 2, {}), (3, 5, {"skip": True}), (3, 5, {"scales": 2})]
)
@kinds
def test_completions(kind, channels, levels, variant):
    """From the first unknown pixel on; later known ones stay, and count for what follows them."""
    model = trained_a_little(kind, channels, levels, **variant)
    known = images(model, 3)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 1], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    options = {"known": known, "mask": mask}
    pixels, log_prob = sample(model, 3, Generator(2), **options)
    np.testing.assert_array_equal(pixels[:, :, mask], known[:, :, mask])
    expected = np.where(mask, 0, -model.nll(Tensor(pixels)).data)
    np.testing.assert_allclose(log_prob, expected, 1e-9, 1e-9)
    np.testing.assert_array_equal(pixels, sample_naive(model, 3, Generator(2), **options)[0])
    assert (pixels != known).any()


def test_temperature():
    model = trained_a_little("row", 1, 5)
    pixels, log_prob = sample(model, 4, Generator(1), temperature=0.5)
    log_p = tg.functional.log_softmax(2 * model(Tensor(pixels)), 1).data
    chosen = np.take_along_axis(log_p, pixels[:, None].astype(int), 1)[:, 0]
    np.testing.assert_allclose(log_prob, chosen, 1e-9)
    # Nearly cold, each pixel is the likeliest.
    pixels, _ = sample(model, 4, Generator(1), temperature=1e-6)
    np.testing.assert_array_equal(pixels, model(Tensor(pixels)).data.argmax(1))


def test_samples_are_drawn_with_their_probabilities():
    """The 16 images of 2 x 2 pixels in 6,000 samples, by the chi-square statistic."""
    model = trained_a_little("diagonal", 1, 2, size=(2, 2))
    everything = np.array(list(itertools.product([0.0, 1.0], repeat=4))).reshape(16, 1, 2, 2)
    p = np.exp(-model.nll(Tensor(everything)).data.sum((1, 2, 3)))
    pixels, _ = sample(model, 6_000, Generator(0))
    found = np.bincount(pixels.reshape(-1, 4).astype(int) @ [8, 4, 2, 1], minlength=16)
    chi_square = ((found - 6_000 * p) ** 2 / (6_000 * p)).sum()
    assert chi_square < 37.7  # exceeded once in a thousand, with 15 degrees of freedom


def test_float32_models_give_float32_images():
    model = PixelRNN("cnn", image_size=4, levels=4, hidden=4, head=8)
    pixels, log_prob = sample(model, 2)
    assert pixels.dtype == log_prob.dtype == np.float32
    assert pixels.shape == log_prob.shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n": 0}, "n=0 and temperature=1.0 must be above 0"),
        ({"n": 1, "temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"n": 1, "mask": np.ones((4, 5), bool)}, "needs both known pixels and their mask"),
        ({"n": 1, "known": np.zeros((2, 1, 4, 5)), "mask": np.ones((4, 5), bool)},
         "known (2, 1, 4, 5) and mask (4, 5) must be (1, 1, 4, 5) and (4, 5)"),
    ],
)  # fmt: skip
def test_sampling_messages(options, text):
    with pytest.raises(ValueError, match="sample: ") as caught:
        sample(make("row", size=(4, 5)), **options)
    assert text in str(caught.value)
