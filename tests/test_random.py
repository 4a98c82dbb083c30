"""Generator: reproducible, resumable and forkable streams, and the module's default generator."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from tinygen import random
from tinygen.device import use_kernels
from tinygen.random import Generator

DRAWS = {
    "uniform": lambda g: g.uniform((3, 5), -2.0, 2.0),
    "uniform64": lambda g: g.uniform((3, 5), dtype=np.float64),
    "normal": lambda g: g.normal((7,), 1.0, 3.0),
    "normal64": lambda g: g.normal((7,), dtype=np.float64),
    "bernoulli": lambda g: g.bernoulli((4, 9), 0.3),
    "permutation": lambda g: g.permutation(19),
    "integers": lambda g: g.integers(-5, 7, (11,)),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@pytest.fixture(autouse=True)
def _default_generator_unchanged():
    state = random.get_state()
    yield
    random.set_state(state)


@each_draw
def test_same_seed_same_numbers(draw):
    a, b = Generator(5), Generator(5)
    first = draw(a)
    np.testing.assert_array_equal(first, draw(b))
    assert not np.array_equal(first, draw(a))
    assert not np.array_equal(first, draw(Generator(6)))


@each_draw
def test_state_survives_json(draw):
    a = Generator(2**64 - 1)
    a.normal((10,))
    state = json.loads(json.dumps(a.state))
    expected = draw(a)
    b = Generator()
    b.set_state(state)
    np.testing.assert_array_equal(draw(b), expected)
    assert a.state == b.state


@each_draw
def test_reference_kernels_draw_the_same(draw):
    found = draw(Generator(3))
    with use_kernels("reference"):
        expected = draw(Generator(3))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_shapes_and_dtypes():
    g = Generator(0)
    assert g.uniform((2, 3)).shape == (2, 3)
    assert g.normal(4).shape == (4,)
    assert g.normal().shape == ()
    assert g.normal((0, 3)).shape == (0, 3)
    assert g.uniform((2,)).dtype == np.float32
    assert g.normal((2,), dtype="float64").dtype == np.float64
    assert g.bernoulli((2,), 0.5, dtype=bool).dtype == bool
    assert g.integers(0, 3).shape == ()
    assert g.integers(0, 3, (2,)).dtype == np.int64
    assert g.permutation(0).shape == (0,)


def test_offset_counts_blocks_of_four_words():
    g = Generator(0)
    g.uniform((5,))
    assert g.offset == 2
    g.normal((4,), dtype=np.float64)
    assert g.offset == 3
    g.normal((0,))
    assert g.offset == 3
    g.permutation(3)  # 64 bits each
    assert g.offset == 5
    assert g.reserve(9) == (0, 5)
    assert g.offset == 8


def test_later_draws_do_not_overlap():
    g = Generator(1)
    pieces = np.concatenate([g.uniform((4 * n,)) for n in (1, 3, 2)])
    np.testing.assert_array_equal(pieces, Generator(1).uniform((24,)))


def test_fork_depends_on_seed_and_name_only():
    g = Generator(9)
    first = g.fork("loader").uniform((8,))
    g.normal((100,))
    np.testing.assert_array_equal(g.fork("loader").uniform((8,)), first)
    # Pinned: a change here would break the resuming of old runs.
    assert Generator(9).fork("loader").seed == 17213401711664774782
    names = ["loader", "noise", "1", 1, 0, -1]
    assert len({g.fork(name).seed for name in names} | {g.seed}) == len(names) + 1
    assert g.fork(np.int64(1)).seed == g.fork(1).seed
    assert Generator(8).fork("loader").seed != g.fork("loader").seed
    noise = [Generator(9).normal((20_000,)), g.fork(0).normal((20_000,))]
    assert abs(np.corrcoef(noise)[0, 1]) < 4 / np.sqrt(20_000)


def test_permutation():
    g = Generator(4)
    order = g.permutation(1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    # All 24 orders of four equally often.
    codes = [tuple(g.permutation(4)) for _ in range(2400)]
    _, counts = np.unique(codes, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01


def test_integers():
    g = Generator(4)
    x = g.integers(-3, 4, (70_000,))
    values, counts = np.unique(x, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(-3, 4))
    assert stats.chisquare(counts).pvalue > 0.01
    np.testing.assert_array_equal(g.integers(7, 8, (3,)), [7, 7, 7])
    wide = g.integers(-(2**62), 2**62, (1000,))
    assert stats.kstest(wide / 2**63, stats.uniform(-0.5, 1).cdf).pvalue > 0.01


def test_bernoulli_takes_an_array_of_probabilities():
    p = np.linspace(0, 1, 5, dtype=np.float32)
    x = Generator(4).bernoulli((40_000, 5), p)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0), p, atol=4 * 0.5 / np.sqrt(40_000))
    assert set(np.unique(x[:, [0, 4]], axis=0).ravel()) == {0, 1}


def test_default_generator():
    assert random.manual_seed(11) is random.default_generator()
    state = random.get_state()
    assert state == {"seed": 11, "offset": 0}
    drawn = [
        random.uniform((3,)),
        random.normal((3,)),
        random.bernoulli((3,), 0.5),
        random.permutation(3),
        random.integers(0, 9, (3,)),
    ]
    own = Generator(11)
    expected = [
        own.uniform((3,)),
        own.normal((3,)),
        own.bernoulli((3,), 0.5),
        own.permutation(3),
        own.integers(0, 9, (3,)),
    ]
    for a, b in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    random.set_state(state)
    np.testing.assert_array_equal(random.uniform((3,)), drawn[0])


def test_errors_say_what_is_wrong():
    g = Generator(0)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="seed is"):
            Generator(seed)
    with pytest.raises(TypeError):
        Generator(1.5)
    with pytest.raises(TypeError, match="int32, expected float32 or float64"):
        g.uniform((2,), dtype=np.int32)
    with pytest.raises(ValueError, match="std is -1"):
        g.normal((2,), std=-1)
    for p in (-0.1, 1.1, np.nan, np.array([0.5, 2.0])):
        with pytest.raises(ValueError, match="p has values"):
            g.bernoulli((2,), p)
    with pytest.raises(ValueError, match=r"p of shape \(3,\) does not broadcast to \(2,\)"):
        g.bernoulli((2,), np.full(3, 0.5))
    with pytest.raises(ValueError, match="empty"):
        g.integers(3, 3)
    with pytest.raises(ValueError, match="'seed' and 'offset'"):
        g.set_state({"seed": 1})
    with pytest.raises(ValueError, match="offset is -1"):
        g.set_state({"seed": 1, "offset": -1})
    assert g.state == {"seed": 0, "offset": 0}


def test_import_does_not_load_numba():
    code = "import sys, tinygen.random; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
