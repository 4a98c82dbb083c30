"""Distributions and bounds against SciPy, closed forms, exact sums and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import values
from scipy import special, stats

import tinygen as tg
from tinygen import Tensor
from tinygen import functional as F
from tinygen.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    LogisticMixture,
    LogMeanExp,
    Normal,
    binarize,
    bits_per_dim,
    iwae_bound,
    kl_by_sample,
    kl_divergence,
    log_mean_exp,
    per_example,
)
from tinygen.gradcheck import gradcheck
from tinygen.random import Generator

N = 200_000  # Monte Carlo samples: a standard error is a 450th of the standard deviation


def close(sample: np.ndarray, expected, errors: float = 5.0) -> None:
    """The sample's mean lies within five of its own standard errors."""
    standard_error = sample.std(axis=0) / math.sqrt(len(sample))
    assert np.all(np.abs(sample.mean(axis=0) - expected) <= errors * standard_error + 1e-12)


def categoricals():
    logits = values((2, 3, 4), 1)
    return logits, special.softmax(logits, -1)


# ------------------------------------------------------------------------------------ log_prob


def test_densities_equal_scipy():
    mean, log_std, x = values((3, 4), 0), values((3, 4), 1), values((3, 4), 2)
    q = Normal(mean, log_std)
    np.testing.assert_allclose(q.log_prob(x), stats.norm(mean, np.exp(log_std)).logpdf(x))
    np.testing.assert_allclose(Normal().log_prob(x), stats.norm.logpdf(x))

    bits = (x > 0).astype(float)
    p = special.expit(mean)
    np.testing.assert_allclose(Bernoulli(mean).log_prob(bits), stats.bernoulli(p).logpmf(bits))
    np.testing.assert_allclose(Bernoulli(mean).mean, p)

    logits, p = categoricals()
    classes = np.array([[0, 3, 1], [2, 2, 0]])
    expected = np.log(np.take_along_axis(p, classes[..., None], -1))[..., 0]
    np.testing.assert_allclose(Categorical(logits).log_prob(classes), expected)


def test_saturated_logits_stay_finite_and_exact():
    q = Bernoulli(np.array([-1000.0, 1000.0, 40.0]))
    np.testing.assert_array_equal(q.log_prob(np.array([0.0, 0.0, 0.0]))[:2], [0.0, -1000.0])
    np.testing.assert_allclose(q.log_prob(np.array([1.0, 1.0, 1.0])), [-1000, 0, -np.exp(-40)])


def test_entropies_equal_scipy():
    mean, log_std = values((5,), 0), values((5,), 1)
    np.testing.assert_allclose(
        Normal(mean, log_std).entropy(), stats.norm(0, np.exp(log_std)).entropy()
    )
    np.testing.assert_allclose(
        Bernoulli(mean).entropy(), stats.bernoulli(special.expit(mean)).entropy()
    )
    assert Bernoulli(np.array([800.0])).entropy() == 0
    logits, p = categoricals()
    np.testing.assert_allclose(Categorical(logits).entropy(), stats.entropy(p, axis=-1))
    certain = Categorical(np.array([0.0, -np.inf]))
    assert certain.entropy() == 0


def test_per_example_adds_all_axes_but_the_first():
    x = values((3, 2, 4), 0)
    np.testing.assert_allclose(per_example(Tensor(x)).numpy(), x.sum(axis=(1, 2)))
    np.testing.assert_array_equal(per_example(x[:, 0, 0]), x[:, 0, 0])


# ------------------------------------------------------------------------------------- samples


def test_normal_samples_have_its_moments_and_carry_gradients():
    q = Normal(Tensor(np.array([1.0, -2.0])), Tensor(np.array([0.5, -1.0])))
    x = q.sample((N,), generator=Generator(3)).numpy()
    assert x.shape == (N, 2)
    assert x.dtype == np.float64
    close(x, [1.0, -2.0])
    close((x - [1.0, -2.0]) ** 2, np.exp([1.0, -2.0]))
    close(-np.asarray(q.log_prob(x)), q.entropy().numpy())

    log_std = Tensor(np.zeros((4, 3)), requires_grad=True)
    z = Normal(0.0, log_std).sample(generator=Generator(1))
    z.sum().backward()
    np.testing.assert_allclose(log_std.grad.numpy(), z.detach().numpy())  # d(σε)/d log σ = σε


def test_discrete_samples_have_their_frequencies():
    b = Bernoulli(Tensor(np.array([-1.0, 0.0, 2.0], np.float32)))
    draws = b.sample((N,), generator=Generator(5)).numpy()
    assert set(np.unique(draws)) == {0.0, 1.0}
    close(draws, special.expit([-1.0, 0.0, 2.0]))

    logits, p = categoricals()
    logits[0, 0, 3] = -np.inf
    p = special.softmax(logits, -1)
    draws = Categorical(logits).sample((N // 4,), generator=Generator(6)).numpy()
    assert draws.dtype == np.int64
    assert draws.shape == (N // 4, 2, 3)
    close((draws[..., None] == np.arange(4)).astype(float), p)


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_discretized_samples_are_levels_with_their_probabilities(levels):
    q = DiscretizedLogistic(np.array([0.3, -1.2]), np.array([-1.0, 0.5]), levels=levels)
    draws = q.sample((50_000,), generator=Generator(7)).numpy()
    grid = np.linspace(-1, 1, levels)
    index = np.abs(draws[..., None] - grid[[0, levels // 2, -1]])
    p = np.exp(q.log_prob(np.stack([grid, grid], 1)))[[0, levels // 2, -1]]
    close((index < 1e-9).astype(float), p.T)
    assert np.abs((draws + 1) * (levels - 1) / 2 % 1).round(6).max() in (0.0, 1.0)


def test_mixture_samples_come_from_the_mixture():
    logits, mean, log_scale = values((2, 3), 1), values((2, 3), 2), values((2, 3), 3) - 1
    q = LogisticMixture(logits, mean, log_scale, levels=9)
    draws = q.sample((50_000,), generator=Generator(8)).numpy()
    grid = np.linspace(-1, 1, 9)
    p = np.exp(q.log_prob(np.stack([grid, grid], 1)))
    close((np.abs(draws[..., None] - grid) < 1e-9).astype(float), p.T)


def test_equal_generators_give_equal_samples_and_binarisation_is_a_draw():
    pixels = np.full((N,), 0.3, np.float32)
    first, second = (binarize(Tensor(pixels), generator=Generator(2)) for _ in range(2))
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    close(first.numpy().astype(float), 0.3)
    certain = np.array([0.0, 1.0], np.float32)
    np.testing.assert_array_equal(binarize(certain).numpy(), certain)


# -------------------------------------------------------------------------- discretised logistic


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)])
def test_levels_have_the_probabilities_of_their_bins_and_sum_to_one(levels, low, high):
    mean, log_scale = values((5, 1), 1), values((5, 1), 2, low=-5, high=1)
    grid = np.linspace(low, high, levels)
    q = DiscretizedLogistic(mean, log_scale, levels=levels, low=low, high=high)
    p = np.exp(q.log_prob(grid))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-10)
    edges = [-np.inf, *((grid[:-1] + grid[1:]) / 2), np.inf]
    cdf = stats.logistic(mean, np.exp(log_scale)).cdf(edges)
    np.testing.assert_allclose(p, np.diff(cdf), rtol=1e-6, atol=1e-12)


def test_far_tails_keep_their_digits():
    """At 1,000 scales from the mean P is 0 in float32, its logarithm is not."""
    x = np.array([-1.0, -0.5, 0.5, 1.0], np.float32)
    log_p = DiscretizedLogistic(np.zeros_like(x), np.full_like(x, -7)).log_prob(x)
    s, h = np.exp(-7.0), 1 / 255
    inner = -(0.5 - h) / s + np.log(-np.expm1(-2 * h / s))
    np.testing.assert_allclose(log_p, [-(1 - h) / s, inner, inner, -(1 - h) / s], rtol=1e-5)


def test_a_mixture_is_the_sum_of_its_components():
    logits, mean, log_scale = values((4, 3), 1), values((4, 3), 2), values((4, 3), 3) - 2
    x = np.linspace(-1, 1, 256)[[0, 100, 130, 255]]
    q = LogisticMixture(logits, mean, log_scale)
    parts = DiscretizedLogistic(mean, log_scale).log_prob(x[:, None])
    expected = special.logsumexp(special.log_softmax(logits, -1) + parts, axis=-1)
    np.testing.assert_allclose(q.log_prob(x), expected)


def test_gradients():
    mean, log_std, x = values((2, 3), 0), values((2, 3), 1), values((2, 3), 2)
    gradcheck(lambda m, s: Normal(m, s).log_prob(x), [mean, log_std], order=2)
    gradcheck(lambda m: Bernoulli(m).entropy(), [mean + 0.1], order=2)
    gradcheck(lambda m: Categorical(m).entropy(), [mean], order=2)
    gradcheck(lambda m, s: kl_divergence(Normal(m, s), Normal(s, m)), [mean, log_std], order=2)
    gradcheck(lambda m, s: kl_divergence(Categorical(m), Categorical(s)), [mean, log_std])
    gradcheck(lambda m, s: kl_divergence(Bernoulli(m), Bernoulli(s)), [mean, log_std])
    gradcheck(lambda w: iwae_bound(w), [mean], order=2)
    grid = np.linspace(-1, 1, 8)[[0, 3, 7]]
    gradcheck(
        lambda m, s: DiscretizedLogistic(m, s, levels=8).log_prob(grid), [mean, log_std], order=2
    )
    gradcheck(
        lambda w, m, s: LogisticMixture(w, m, s, levels=8).log_prob(grid[:2]),
        [log_std, mean, x],
    )


def test_fused_functions_are_compositions_of_the_others():
    mean, log_std, noise = values((3, 2, 2), 0), values((3, 2, 2), 1), values((3, 2, 2), 2)
    z, kl = F.reparameterize(mean, log_std, noise)
    np.testing.assert_allclose(z, mean + np.exp(log_std) * noise)
    np.testing.assert_allclose(kl, per_example(kl_divergence(Normal(mean, log_std), Normal())))
    gradcheck(F.reparameterize, [mean, log_std, noise], order=2)
    gradcheck(lambda m, s: F.reparameterize(m, s, noise)[0], [mean, log_std])  # one output alone
    gradcheck(lambda m, s: F.reparameterize(m, s, noise)[1], [mean, log_std])

    logits, targets = values((6, 2, 3), 3), (values((2, 2, 3), 4) > 0).astype(float)
    expected = per_example(Bernoulli(logits).log_prob(np.concatenate([targets] * 3)))
    np.testing.assert_allclose(F.bernoulli_log_likelihood(logits, targets), expected)
    gradcheck(lambda x: F.bernoulli_log_likelihood(x, targets), [logits], order=2)


# ---------------------------------------------------------------------------------- divergences


def test_divergences_equal_their_definition_by_sample():
    q = Normal(np.array([0.5, -1.0]), np.array([0.2, -0.7]))
    p = Normal(np.array([0.0, 1.0]), np.array([0.0, 0.6]))
    x = q.sample((N,), generator=Generator(1)).numpy()
    close(kl_by_sample(q, p, x), kl_divergence(q, p))
    np.testing.assert_allclose(kl_by_sample(q, p, x).mean(0), kl_divergence(q, p), rtol=0.01)
    np.testing.assert_allclose(kl_divergence(q, q), 0, atol=1e-15)
    # the form in the VAE's paper
    mean, var = q.mean, np.exp(2 * q.log_std)
    np.testing.assert_allclose(kl_divergence(q, Normal()), 0.5 * (mean**2 + var - 1 - np.log(var)))


def test_discrete_divergences_equal_exact_sums():
    logits, p = categoricals()
    other = values((2, 3, 4), 9)
    log_r = special.log_softmax(other, -1)
    expected = (p * (np.log(p) - log_r)).sum(-1)
    np.testing.assert_allclose(kl_divergence(Categorical(logits), Categorical(other)), expected)
    impossible = np.array([0.0, -np.inf])
    got = kl_divergence(Categorical(impossible), Categorical(np.zeros(2)))
    np.testing.assert_allclose(got, np.log(2))

    a, b = values((6,), 1), values((6,), 2)
    two = [np.stack([np.zeros(6), x], -1) for x in (a, b)]
    expected = kl_divergence(*map(Categorical, two))
    np.testing.assert_allclose(kl_divergence(Bernoulli(a), Bernoulli(b)), expected)


# --------------------------------------------------------------------------------------- bounds


def linear_gaussian(n: int, k: int, seed: int):
    """log weights (k, n) and exact log p(x) for z ~ N(0, 1), x ~ N(z, 1), q(z|x) = N(x/3, 1).

    There p(x) = N(0, 2): the one case in which everything is known.
    """
    g = Generator(seed)
    x = g.normal((n,), 0.0, math.sqrt(2), np.float64)
    q = Normal(Tensor(x / 3), 0.0)
    z = q.sample((k,), generator=g).numpy()
    log_w = Normal(z, 0.0).log_prob(x) + Normal().log_prob(z) - np.asarray(q.log_prob(z))
    return log_w, stats.norm(0, math.sqrt(2)).logpdf(x)


def test_the_bounds_rise_with_k_to_the_exact_likelihood():
    log_w, exact = linear_gaussian(2000, 1000, 4)
    l1, l10, l1000 = (iwae_bound(log_w[:k]).mean() for k in (1, 10, 1000))
    assert l1 < l10 - 0.05
    assert l10 < l1000
    np.testing.assert_allclose(l1000, exact.mean(), atol=2e-3)
    # the gap of L_1 is KL(q ‖ posterior), and the posterior is N(x/2, 1/2)
    x_squared = -4 * (exact + 0.5 * math.log(4 * math.pi))
    gap = 0.5 * (2 + 2 * x_squared / 36 - 1) - 0.5 * math.log(2)
    close((exact - log_w[0]) - gap, 0.0)


def test_the_gradient_of_the_bound_weighs_by_softmax():
    log_w = Tensor(values((5, 2), 1), requires_grad=True)
    iwae_bound(log_w).sum().backward()
    np.testing.assert_allclose(log_w.grad.numpy(), special.softmax(log_w.detach().numpy(), 0))


def test_streaming_equals_all_at_once_however_it_is_cut():
    log_w = values((7, 3), 1, low=-900, high=300)
    expected = special.logsumexp(log_w, axis=0) - math.log(7)
    for cuts in ([], [1], [3, 4], [2, 2, 5]):
        np.testing.assert_allclose(log_mean_exp(np.split(log_w, cuts)), expected)
    ascending = np.sort(log_w, axis=0)
    np.testing.assert_allclose(log_mean_exp(ascending[:, None]), expected)


def test_streaming_of_infinite_and_missing_values():
    running = LogMeanExp()
    with pytest.raises(ValueError, match="no values"):
        running.value()
    running.add(np.array([[-np.inf, -np.inf, 0.0, np.nan]]))
    assert running.value()[0] == -np.inf
    running.add(np.array([[-np.inf, 2.0, -np.inf, 0.0]]))
    np.testing.assert_allclose(
        running.value(), [-np.inf, 2 - math.log(2), -math.log(2), np.nan], equal_nan=True
    )


def test_bits_per_dim():
    """256 equally probable levels are 8 bits."""
    assert math.isclose(bits_per_dim(3 * 32 * 32 * math.log(256), 3 * 32 * 32), 8)


# --------------------------------------------------------------------------------------- misuse


def test_misuse_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"mean \(3,\), log_std \(2,\) do not broadcast"):
        Normal(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="need classes of shape"):
        Categorical(np.zeros((2, 4))).log_prob(np.zeros(3, np.int64))
    with pytest.raises(TypeError, match="no closed form for Normal and Bernoulli"):
        kl_divergence(Normal(), Bernoulli(np.zeros(2)))
    with pytest.raises(ValueError, match="k >= 1"):
        iwae_bound(tg.zeros(0, 3))
    with pytest.raises(ValueError, match="at least 2 levels"):
        DiscretizedLogistic(np.zeros(2), np.zeros(2), levels=1)
    with pytest.raises(ValueError, match="at least 1"):
        bits_per_dim(1.0, 0)
    with pytest.raises(ValueError, match="must have one shape"):
        F.reparameterize(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"must be \(k · N, ...\)"):
        F.bernoulli_log_likelihood(np.zeros((5, 3)), np.zeros((2, 3)))
    with pytest.raises(TypeError, match="float32 for all"):
        F.bernoulli_log_likelihood(np.zeros((2, 3)), np.zeros((2, 3), bool))


def test_tensors_and_arrays_give_the_same():
    mean, log_std, x = (values((2, 3), i).astype(np.float32) for i in range(3))
    for q, of_tensors in [
        (Normal(mean, log_std), Normal(Tensor(mean), Tensor(log_std))),
        (Bernoulli(mean), Bernoulli(Tensor(mean))),
        (DiscretizedLogistic(mean, log_std), DiscretizedLogistic(Tensor(mean), Tensor(log_std))),
    ]:
        got = of_tensors.log_prob(Tensor(x))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.numpy(), q.log_prob(x))
    assert F.sum(Normal(mean, 0.0).sample()).dtype == np.float32
