"""Random numbers on the GPU are the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.reference import random as reference

SEED, OFFSET = 0x0123456789ABCDEF, 2**32 - 5  # the low half of the counter overflows soon
DTYPES = [np.float32, np.float64]

words = st.integers(0, 2**64 - 1)
sizes = st.sampled_from([0, 1, 2, 3, 4, 5, 17, 1021])
dtypes = st.sampled_from(DTYPES)
ranges = st.sampled_from([(0.0, 1.0), (-3.0, 5.0), (0.1, 0.7), (1e3, 1e3 + 1)])
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(scope="module")
def random(cuda_kernels):
    return cuda_kernels("random")


@given(words, words, sizes, st.integers(0, 1))
@settings(max_examples=20)
def test_bits(random, seed, offset, n, plane):
    found = random.bits(seed, offset, n, plane=plane)
    np.testing.assert_array_equal(
        to_cpu(found), reference.bits(seed, offset, n, plane=plane), strict=True
    )


def test_first_block_is_the_published_answer(random):
    """The vector that Random123 publishes for a counter and a key of zeros."""
    expected = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], np.uint32)
    np.testing.assert_array_equal(to_cpu(random.bits(0, 0, 4)), expected)


@given(words, words, sizes, ranges, dtypes)
@settings(max_examples=20)
def test_uniform_is_exact(random, seed, offset, n, ends, dtype):
    found = to_cpu(random.uniform(seed, offset, (n,), *ends, dtype))
    expected = reference.uniform(seed, offset, (n,), *ends, dtype)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
@given(words, words, sizes, dtypes)
@settings(max_examples=15)
def test_normal(random, plain, seed, offset, n, dtype):
    draw = random._normal_plain if plain else random.normal
    found = to_cpu(draw(seed, offset, (n,), 0.0, 1.0, dtype))
    expected = reference.normal(seed, offset, (n,), 0.0, 1.0, np.float64)
    if dtype == np.float32:
        expected = reference.normal(seed, offset, (n,), 0.0, 1.0, np.float32)
        np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(dtype).eps, atol=1e-12)
    else:  # the reference rounds 2π t, which shows where the sine is near 0
        np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(dtype).eps, atol=1e-14)
    assert found.dtype == dtype


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
@each_dtype
def test_mean_and_deviation(random, dtype, plain):
    draw = random._normal_plain if plain else random.normal
    found = to_cpu(draw(SEED, OFFSET, (33, 31), 0.5, 2.0, dtype))
    expected = reference.normal(SEED, OFFSET, (33, 31), 0.5, 2.0, dtype)
    np.testing.assert_allclose(found, expected, rtol=0, atol=32 * np.finfo(dtype).eps)


@given(words, words, sizes, dtypes, st.sampled_from([0, 1, 0.0, 0.1, 0.5, 1.0, np.float64(0.3)]))
@settings(max_examples=20)
def test_bernoulli_with_one_probability(random, seed, offset, n, dtype, p):
    found = to_cpu(random.bernoulli(seed, offset, (n,), p, dtype))
    expected = reference.bernoulli(seed, offset, (n,), p, dtype)
    np.testing.assert_array_equal(found, expected, strict=True)


@each_dtype
@pytest.mark.parametrize("p_dtype", DTYPES)
@pytest.mark.parametrize("p_shape", [(), (5,), (7, 1), (3, 7, 5)])
def test_bernoulli_with_many_probabilities(random, dtype, p_dtype, p_shape):
    p = np.random.default_rng(0).uniform(0, 1, p_shape).astype(p_dtype)
    found = to_cpu(random.bernoulli(SEED, OFFSET, (3, 7, 5), to_gpu(p), dtype))
    expected = reference.bernoulli(SEED, OFFSET, (3, 7, 5), p, dtype)
    np.testing.assert_array_equal(found, expected, strict=True)


def test_bernoulli_compares_exactly(random):
    """Probabilities that are, and just exceed, the numbers they are compared with."""
    u = reference.uniform(SEED, OFFSET, (64,), 0.0, 1.0, np.float32)
    for p in (
        u,
        np.nextafter(u, np.float32(2)),
        u.astype(float),
        np.nextafter(u.astype(float), 2),
    ):
        found = to_cpu(random.bernoulli(SEED, OFFSET, (64,), to_gpu(p), np.float32))
        np.testing.assert_array_equal(found, u < p)
        one = to_cpu(random.bernoulli(SEED, OFFSET, (64,), p[3], np.float32))
        np.testing.assert_array_equal(one, u < p[3])
    # A Python number is rounded to float32 first, as NumPy does.
    largest = int(u.argmax())
    found = to_cpu(random.bernoulli(SEED, OFFSET, (64,), float(u[largest]) + 2**-40, np.float32))
    np.testing.assert_array_equal(found, np.arange(64) != largest)


def test_bernoulli_of_another_dtype(random):
    for dtype in (np.bool_, np.uint8, np.int64):
        found = to_cpu(random.bernoulli(SEED, OFFSET, (9,), 0.4, dtype))
        expected = reference.bernoulli(SEED, OFFSET, (9,), 0.4, dtype)
        np.testing.assert_array_equal(found, expected, strict=True)


def test_extreme_words(random):
    """Seed 0 has the words 0 and 2³² - 1 at these places, found by search."""
    for offset, word in [(3230741590, 0), (2024541361, 2**32 - 1)]:
        assert to_cpu(random.bits(0, offset, 4))[2] == word
        assert to_cpu(random.uniform(0, offset, (4,), 0.0, 1.0, np.float32))[2] == (
            word // 256 / 2**24
        )
        z = to_cpu(random.normal(0, offset, (4,), 0.0, 1.0, np.float32))
        expected = np.sqrt(2 * 33 * np.log(2)) if word == 0 else 0
        assert np.hypot(z[2], z[3]) == pytest.approx(expected, rel=1e-6)


@each_dtype
def test_a_small_grid_strides_over_the_rest(random, monkeypatch, dtype):
    monkeypatch.setattr(random, "_MOST_BLOCKS", 1)
    for n in (4 * 256 * 2 + 3, 4 * 256 * 3):
        found = to_cpu(random.uniform(SEED, OFFSET, (n,), 0.0, 1.0, dtype))
        np.testing.assert_array_equal(
            found, reference.uniform(SEED, OFFSET, (n,), 0.0, 1.0, dtype)
        )


def test_a_counter_on_the_device(random):
    """Read by the kernel, so the same call after `advance_` draws the numbers that follow."""
    counter = to_gpu(np.array([OFFSET], np.uint64))
    for step in range(3):
        place = counter, 3
        for name, a, b in [("uniform", -1.0, 1.0), ("normal", 0.0, 1.0)]:
            found = getattr(random, name)(SEED, place, (4, 5), a, b, np.float32)
            expected = getattr(random, name)(SEED, OFFSET + 3 + 5 * step, (4, 5), a, b, np.float32)
            np.testing.assert_array_equal(to_cpu(found), to_cpu(expected))
        found = random.bernoulli(SEED, place, (4, 5), 0.5, np.float64)
        expected = random.bernoulli(SEED, OFFSET + 3 + 5 * step, (4, 5), 0.5, np.float64)
        np.testing.assert_array_equal(to_cpu(found), to_cpu(expected))
        np.testing.assert_array_equal(
            to_cpu(random.bits(SEED, place, 20)), reference.bits(SEED, OFFSET + 3 + 5 * step, 20)
        )
        random.advance_(counter, 5)
    assert to_cpu(counter) == [OFFSET + 15]


def test_recorded_draws_go_on_at_every_replay(cupy, random):
    counter = to_gpu(np.array([OFFSET], np.uint64))
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    cupy.cuda.Device().synchronize()

    def work():
        x = random.uniform(SEED, (counter, 0), (7,), 0.0, 1.0, np.float32)
        y = random.bernoulli(SEED, (counter, 2), (5,), 0.5, np.float32)
        random.advance_(counter, 4)
        return x, y

    with stream, cupy.cuda.using_allocator(pool.malloc):
        work()
        stream.begin_capture()
        x, y = work()
        graph = stream.end_capture()
        for step in (1, 2, 3):
            graph.launch(stream)
            stream.synchronize()
            offset = OFFSET + 4 * step
            expected = reference.uniform(SEED, offset, (7,), 0.0, 1.0, np.float32)
            np.testing.assert_array_equal(to_cpu(x), expected)
            expected = reference.bernoulli(SEED, offset + 2, (5,), 0.5, np.float32)
            np.testing.assert_array_equal(to_cpu(y), expected)


def test_the_counter_wraps(random):
    counter = to_gpu(np.array([2**64 - 2], np.uint64))
    found = to_cpu(random.bits(SEED, (counter, 1), 8))
    np.testing.assert_array_equal(found[4:], reference.bits(SEED, 0, 4))
    random.advance_(counter, 2**63)
    assert to_cpu(counter) == [2**63 - 2]


def test_errors(random):
    with pytest.raises(TypeError, match=r"counter is int64 \(1,\), expected uint64 \(1,\)"):
        random.bits(0, (to_gpu(np.zeros(1, np.int64)), 0), 4)
