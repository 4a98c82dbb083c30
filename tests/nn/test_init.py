"""Starting values: their statistics, PyTorch's fans and gains, orthogonality."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn
from tinygen.nn import init

SHAPES = [(40, 60), (30, 8, 3, 4)]
shapes = pytest.mark.parametrize("shape", SHAPES)


def fans(shape):
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def check_uniform(x, bound):
    assert np.abs(x).max() <= bound
    assert np.abs(x).max() > 0.98 * bound
    assert abs(x.mean()) < 5 * bound / math.sqrt(3 * x.size)
    assert abs(x.std() / (bound / math.sqrt(3)) - 1) < 5 / math.sqrt(x.size)


def check_normal(x, std):
    assert abs(x.mean()) < 5 * std / math.sqrt(x.size)
    assert abs(x.std() / std - 1) < 5 / math.sqrt(x.size)
    assert np.abs(x).max() > 2.5 * std  # not uniform


@shapes
def test_statistics(shape):
    tg.manual_seed(0)
    fan_in, fan_out = fans(shape)
    x = tg.empty(shape, requires_grad=True)
    check_uniform(init.uniform_(x, -2, 2).data, 2)
    check_normal(init.normal_(x, 0.0, 0.02).data, 0.02)
    check_normal(init.normal_(x, 5.0, 0.5).data - 5, 0.5)
    check_uniform(init.xavier_uniform_(x).data, math.sqrt(6 / (fan_in + fan_out)))
    check_normal(init.xavier_normal_(x, gain=2).data, 2 * math.sqrt(2 / (fan_in + fan_out)))
    check_uniform(init.kaiming_uniform_(x).data, math.sqrt(6 / fan_in))
    check_uniform(init.kaiming_uniform_(x, a=math.sqrt(5)).data, 1 / math.sqrt(fan_in))
    check_normal(init.kaiming_normal_(x, mode="fan_out").data, math.sqrt(2 / fan_out))
    check_normal(init.kaiming_normal_(x, nonlinearity="tanh").data, 5 / 3 / math.sqrt(fan_in))


@pytest.mark.parametrize("a", [0, 0.2])
@pytest.mark.parametrize("nonlinearity", ["leaky_relu", "relu", "linear", "sigmoid", "tanh"])
def test_gains_are_pytorch_s(nonlinearity, a):
    torch = pytest.importorskip("torch")
    x = tg.empty(50, 80)
    y = torch.empty(50, 80)
    init.kaiming_uniform_(x, a, "fan_in", nonlinearity)
    torch.nn.init.kaiming_uniform_(y, a, "fan_in", nonlinearity)
    np.testing.assert_allclose(np.abs(x.data).max(), y.abs().max(), rtol=0.01)


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (4, 2, 3, 2), (2, 4, 3, 2), (1, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonal(shape, dtype):
    x = tg.empty(shape, dtype=dtype)
    assert init.orthogonal_(x, gain=3) is x
    assert x.dtype == dtype
    matrix = x.data.reshape(shape[0], -1) / 3
    product = matrix @ matrix.T if shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(min(matrix.shape)), atol=1e-6)


def test_orthogonal_has_no_favourite_sign():
    """Without fixing the signs, QR would return a negative first entry most of the time."""
    first = [init.orthogonal_(tg.empty(3, 3)).data[0, 0] > 0 for _ in range(200)]
    assert 70 < sum(first) < 130


def test_constants_and_what_is_returned():
    x = tg.empty(3)
    assert init.constant_(x, 2.5) is x
    assert x.tolist() == [2.5] * 3
    assert init.zeros_(x).tolist() == [0] * 3
    assert init.ones_(x).tolist() == [1] * 3


def test_the_seed_decides_and_the_memory_order_does_not():
    conv = nn.Conv2d(4, 5, 3)  # channels-last memory
    plain = tg.empty(5, 4, 3, 3)
    for fill in (init.normal_, init.xavier_uniform_, init.orthogonal_):
        tg.manual_seed(7)
        fill(conv.weight)
        tg.manual_seed(7)
        fill(plain)
        np.testing.assert_array_equal(conv.weight.data, plain.data)
    assert conv.weight.data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_a_parameter_stays_one():
    p = nn.Parameter(np.ones((2, 3), np.float32))
    init.normal_(p)
    assert p.requires_grad
    assert p.is_leaf
    assert p.dtype == np.float32


def test_dcgan_s_way_of_initialising():
    def weights_init(module):
        if isinstance(module, nn.Conv2d):
            init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            init.normal_(module.weight, 1.0, 0.02)
            init.zeros_(module.bias)

    net = nn.Sequential(nn.Conv2d(16, 32, 4), nn.BatchNorm2d(32), nn.ReLU()).apply(weights_init)
    check_normal(net[0].weight.data, 0.02)
    assert abs(net[1].weight.data.mean() - 1) < 0.02
    assert not net[1].bias.data.any()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: init.xavier_normal_(tg.empty(3)), r"shape \(3,\) has no fan-in and fan-out"),
        (lambda: init.orthogonal_(tg.empty(3)), r"shape \(3,\) is no matrix"),
        (lambda: init.kaiming_normal_(tg.empty(2, 2), mode="fan"), "mode='fan' must be"),
        (lambda: init.kaiming_uniform_(tg.empty(2, 2), nonlinearity="elu"), "nonlinearity='elu'"),
    ],
)
def test_messages(call, text):
    with pytest.raises(ValueError, match=text):
        call()
