"""Philox against its published vectors, distributions against theory, CPU against reference."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tinygen_kernels.cpu import random as cpu
from tinygen_kernels.cpu.jit import CHUNK
from tinygen_kernels.reference import random as reference

each_backend = pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])

SEED, OFFSET = 0x0123456789ABCDEF, 2**32 - 5  # the low half of the counter overflows soon
SIZES = [0, 1, 2, 3, 5, 4096, 2 * CHUNK + 3]

words = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_known_answers(counter, key, expected):
    """The vectors that Random123 publishes for philox4x32-10."""
    counter, key, expected = (
        np.array([int(word, 16) for word in text.split()], np.uint32)
        for text in (counter, key, expected)
    )
    np.testing.assert_array_equal(reference.philox(counter[:, None], key)[:, 0], expected)


@each_backend
def test_first_block_is_the_known_answer(backend):
    expected = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], np.uint32)
    np.testing.assert_array_equal(backend.bits(0, 0, 4), expected)


@each_backend
@given(seed=words, offset=words, plane=st.integers(0, 1))
def test_mapping_from_element_to_counter(backend, seed, offset, plane):
    found = backend.bits(seed, offset, 11, plane=plane)
    block = [(offset + i // 4) % 2**64 for i in range(11)]
    counter = np.array([[b % 2**32, b >> 32, plane, 0] for b in block], np.uint32).T
    key = np.array([seed % 2**32, seed >> 32], np.uint32)
    expected = reference.philox(counter, key)[np.arange(11) % 4, np.arange(11)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n", SIZES)
def test_bits_on_the_cpu(n):
    found = cpu.bits(SEED, OFFSET, n)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, reference.bits(SEED, OFFSET, n))


@each_dtype
@pytest.mark.parametrize("n", SIZES)
def test_numbers_on_the_cpu(n, dtype):
    eps = np.finfo(dtype).eps
    for name, a, b in [("uniform", 0.0, 1.0), ("uniform", -3.0, 5.0), ("normal", 0.5, 2.0)]:
        found = getattr(cpu, name)(SEED, OFFSET, (n,), a, b, dtype)
        expected = getattr(reference, name)(SEED, OFFSET, (n,), a, b, dtype)
        assert found.dtype == expected.dtype == dtype
        assert found.shape == expected.shape == (n,)
        # Sine and cosine are exact to a few units of their amplitude, the pair's radius.
        exact = (name, a, b) == ("uniform", 0.0, 1.0)
        atol = 0 if exact else 16 * eps * max(abs(a), abs(b))
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    for p in (0.25, np.linspace(0, 1, n)):
        found = cpu.bernoulli(SEED, OFFSET, (n,), p, dtype)
        np.testing.assert_array_equal(
            found, reference.bernoulli(SEED, OFFSET, (n,), p, dtype), strict=True
        )


@each_backend
@each_dtype
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_a_draw_is_part_of_any_longer_one(backend, dtype, name):
    draw = getattr(backend, name)
    long = draw(SEED, OFFSET, (CHUNK + 40,), 0.0, 1.0, dtype)
    np.testing.assert_array_equal(draw(SEED, OFFSET, (3, 7), 0.0, 1.0, dtype).ravel(), long[:21])
    np.testing.assert_array_equal(draw(SEED, OFFSET + 3, (17,), 0.0, 1.0, dtype), long[12:29])


@each_backend
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_float64_is_float32_with_more_digits(backend, name):
    draw = getattr(backend, name)
    single = draw(SEED, OFFSET, (1000,), 0.0, 1.0, np.float32)
    double = draw(SEED, OFFSET, (1000,), 0.0, 1.0, np.float64)
    assert not np.array_equal(double, double.astype(np.float32))
    np.testing.assert_allclose(single, double, rtol=0, atol=2e-5 if name == "normal" else 2**-24)


def test_number_of_threads_does_not_matter():
    threads = numba.get_num_threads()

    def draw(count: int) -> bytes:
        numba.set_num_threads(count)
        return cpu.normal(SEED, OFFSET, (3 * CHUNK + 1,), 0.0, 1.0, np.float32).tobytes()

    try:
        assert draw(1) == draw(threads)
    finally:
        numba.set_num_threads(threads)


EXTREMES = [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(reference, np.float32), (reference, np.float64), (cpu, np.float64)],
)
@pytest.mark.parametrize("word", EXTREMES)
def test_extreme_words(backend, dtype, word, monkeypatch):
    def constant_bits(seed, offset, n, *, plane=0):
        return np.full(n, word, np.uint32)

    monkeypatch.setattr(backend, "bits", constant_bits)
    u = backend.uniform(0, 0, (4,), 0.0, 1.0, dtype)
    assert u.min() >= 0
    assert u.max() < 1
    assert np.isfinite(backend.normal(0, 0, (4,), 0.0, 1.0, dtype)).all()


@each_backend
def test_extreme_words_in_kernels(backend):
    """Seed 0 has the words 0 and 2³² - 1 at these places, found by search."""
    for offset, word in [(3230741590, 0), (2024541361, 2**32 - 1)]:
        assert backend.bits(0, offset, 4)[2] == word
        u = backend.uniform(0, offset, (4,), 0.0, 1.0, np.float32)
        assert u[2] == word // 256 / 2**24 < 1
        z = backend.normal(0, offset, (4,), 0.0, 1.0, np.float32)
        expected = np.sqrt(2 * 33 * np.log(2)) if word == 0 else 0
        assert np.hypot(z[2], z[3]) == pytest.approx(expected, rel=1e-6)


def test_series_of_the_normal_kernel():
    """Accuracy over the whole range, at its ends and where the reduction changes its branch."""
    words = np.concatenate(
        [EXTREMES, np.arange(2**29 - 2, 2**32, 2**29 // 16 - 1), reference.bits(1, 0, 2000)]
    ).astype(np.uint32)
    u = words.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
    log = np.array([cpu._log(x) for x in u])
    assert (log <= 0).all()
    np.testing.assert_allclose(log, np.log(u.astype(np.float64)), rtol=4e-7)

    cos_sin = np.array([cpu._cos_sin_of_turn(w) for w in words])
    angle = 2 * np.pi * (words / 2**32)
    np.testing.assert_allclose(cos_sin[:, 0], np.cos(angle), rtol=0, atol=1.5e-7)
    np.testing.assert_allclose(cos_sin[:, 1], np.sin(angle), rtol=0, atol=1.5e-7)


SAMPLE = 1 << 17


@each_backend
@each_dtype
def test_uniform_distribution(backend, dtype):
    x = backend.uniform(7, 0, (SAMPLE,), -1.0, 3.0, dtype).astype(np.float64)
    assert x.min() >= -1
    assert x.max() < 3
    assert stats.kstest(x, stats.uniform(-1, 4).cdf).pvalue > 0.01


@each_backend
@each_dtype
def test_normal_distribution(backend, dtype):
    x = backend.normal(7, 0, (SAMPLE,), 1.0, 2.0, dtype).astype(np.float64)
    z = (x - 1) / 2
    assert stats.kstest(z, stats.norm.cdf).pvalue > 0.01
    # The k-th moment of n samples scatters by sqrt(var(z^k) / n), var = 1, 2, 15, 96.
    for k, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs((z**k).mean() - moment) < 4 * np.sqrt(variance / SAMPLE)
    # Both elements of a Box-Muller pair come from one radius; they are independent all the same.
    assert abs(np.corrcoef(np.abs(z[::2]), np.abs(z[1::2]))[0, 1]) < 4 / np.sqrt(SAMPLE / 2)


@each_backend
def test_bernoulli_distribution(backend):
    for p in (0.0, 0.1, 0.5, 1.0):
        x = backend.bernoulli(7, 0, (SAMPLE,), p, np.float32)
        assert x.dtype == np.float32
        assert set(np.unique(x)) <= {0, 1}
        assert abs(x.mean() - p) <= 4 * np.sqrt(p * (1 - p) / SAMPLE)


@each_backend
def test_neighbouring_streams_are_independent(backend):
    """Seeds that differ in one bit, neighbouring offsets and planes: no correlation, all bits."""
    n = 1 << 15
    streams = [
        backend.bits(7, 0, n),
        backend.bits(7, n // 4, n),
        backend.bits(6, 0, n),
        backend.bits(7 + (1 << 32), 0, n),
        backend.bits(7, 1 << 32, n),
        backend.bits(7, 0, n, plane=1),
    ]
    signs = [2.0 * np.unpackbits(s.view(np.uint8)) - 1 for s in streams]
    scatter = 1 / np.sqrt(signs[0].size)
    for i, a in enumerate(signs):
        assert abs(a.mean()) < 4.5 * scatter
        for b in signs[:i]:
            assert abs((a * b).mean()) < 4.5 * scatter
    # Each of the 32 bits is set half of the time, and words don't follow from their neighbours.
    bits = np.unpackbits(streams[0].view(np.uint8)).reshape(n, 32)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(n)
    x = streams[0] / 2**32
    for lag in (1, 2, 3, 4):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4.5 / np.sqrt(n)
