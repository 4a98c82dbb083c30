"""Weight normalisation: PyTorch as oracle, data-dependent initialisation, saving and loading."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from helpers import values

import tinygen as tg
from tinygen import nn, optim
from tinygen.gradcheck import gradcheck
from tinygen.nn.utils import remove_weight_norm, weight_norm

# What builds the layer, the axis of its lengths, the shape of its input.
LAYERS = {
    "Linear": (lambda nn: nn.Linear(3, 4), 0, (6, 3)),
    "Linear over steps": (lambda nn: nn.Linear(3, 4), 0, (6, 5, 3)),
    "Linear along its inputs": (lambda nn: nn.Linear(3, 3), 1, (6, 3)),
    "Conv2d": (lambda nn: nn.Conv2d(3, 4, 3), 0, (6, 3, 5, 5)),
    "Conv1d without bias": (lambda nn: nn.Conv1d(3, 4, 3, bias=False), 0, (6, 3, 5)),
    "ConvTranspose2d": (lambda nn: nn.ConvTranspose2d(3, 4, 3), 1, (6, 3, 5, 5)),
}
layers = pytest.mark.parametrize("name", LAYERS)


def make(name, **options):
    build, dim, shape = LAYERS[name]
    return weight_norm(build(nn), dim=dim, **options).to(np.float64), shape


@layers
def test_equals_torch(name):
    torch = pytest.importorskip("torch")
    build, dim, shape = LAYERS[name]
    net, _ = make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch prefers a successor with other names
        other = torch.nn.utils.weight_norm(build(torch.nn).double(), dim=dim)
    assert list(net.state_dict()) == list(other.state_dict())
    for mine, q in zip(net.parameters(), other.parameters(), strict=True):
        assert mine.shape == tuple(q.shape)
    net.load_state_dict({k: v.numpy() for k, v in other.state_dict().items()})
    net.weight_g.data[...] *= 1.5
    with torch.no_grad():
        other.weight_g *= 1.5
    x = values(shape, 0)
    y, expected = net(tg.Tensor(x)), other(torch.tensor(x))
    np.testing.assert_allclose(y.data, expected.detach(), 1e-11, 1e-12)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    for mine, q in zip(net.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(mine.grad.data, q.grad, 1e-9, 1e-11)


@layers
def test_the_weight_is_unchanged_at_first(name):
    build, dim, shape = LAYERS[name]
    tg.manual_seed(0)
    plain = build(nn)
    tg.manual_seed(0)
    normed = weight_norm(build(nn), dim=dim)
    x = tg.randn(shape)
    np.testing.assert_allclose(plain(x).data, normed(x).data, 1e-4, 1e-6)


def test_gradients():
    v, g = values((4, 3), 0), values((4, 1), 1)
    x = values((5, 3), 2)

    def normed(g, v):
        net = weight_norm(nn.Linear(3, 4, bias=False).to(np.float64))
        del net.weight_g, net.weight_v
        object.__setattr__(net, "weight_g", g)
        object.__setattr__(net, "weight_v", v)
        return net(tg.Tensor(x))

    gradcheck(normed, [g, v], order=2)


@pytest.mark.parametrize("name", [n for n in LAYERS if "inputs" not in n and "without" not in n])
def test_data_dependent_initialisation(name):
    net, shape = make(name, data_dependent_init=True)
    x = tg.Tensor(3 + 2 * values((16, *shape[1:]), 0))
    y = net(x)
    others = (*range(y.ndim - 1),) if "Linear" in name else (0, *range(2, y.ndim))
    np.testing.assert_allclose(y.data.mean(others), 0, atol=1e-6)
    np.testing.assert_allclose(y.data.std(others), 1, atol=1e-6)
    np.testing.assert_array_equal(net(x).data, y.data)
    again = net(tg.Tensor(values(shape, 1)))  # another batch changes nothing more
    assert abs(again.data.std() - 1) > 1e-3
    np.testing.assert_array_equal(net(x).data, y.data)


def test_initialised_outputs_carry_gradients():
    net, shape = make("Conv2d", data_dependent_init=True)
    net(tg.Tensor(values(shape, 0))).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def normed_net(**options):
    return nn.Sequential(
        weight_norm(nn.Conv2d(2, 3, 3), **options), nn.ELU(), nn.Flatten(),
        weight_norm(nn.Linear(27, 2), **options),
    )  # fmt: skip


@pytest.mark.parametrize("started", [True, False])
def test_saving_a_trained_net_and_loading_it_into_a_new_one(started):
    """Loaded lengths stay as they are, also where the first batch would have set them."""
    options = {"data_dependent_init": True}
    net, other = normed_net(**options), normed_net(**options)
    x = tg.randn(8, 2, 5, 5)
    net(x)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    (net(x) ** 2).sum().backward()
    optimizer.step()
    if started:
        other(tg.randn(8, 2, 5, 5))
    assert [n for n in net.state_dict() if n.startswith("0.")] == [
        "0.bias", "0.weight_g", "0.weight_v"
    ]  # fmt: skip
    other.load_state_dict({k: v.data.copy() for k, v in net.state_dict().items()})
    np.testing.assert_array_equal(other(x).data, net(x).data)


def test_loading_another_layer_leaves_the_initialisation_to_come():
    net, shape = make("Linear", data_dependent_init=True)
    net.load_state_dict({"bias": np.zeros(4)}, strict=False)
    y = net(tg.Tensor(values(shape, 0)))
    np.testing.assert_allclose(y.data.std(0), 1, atol=1e-6)


def test_training_moves_both_parts():
    net, shape = make("Linear")
    v = net.weight_v
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    before = {k: p.data.copy() for k, p in net.state_dict().items()}
    (net(tg.Tensor(values(shape, 0))) ** 2).sum().backward()
    optimizer.step()
    assert net.weight_v is v
    for name, array in before.items():
        assert (net.state_dict()[name].data != array).all(), name


def test_removing_it():
    net, shape = make("Conv2d", data_dependent_init=True)
    x = tg.Tensor(values(shape, 0))
    y = net(x)
    assert remove_weight_norm(net) is net
    assert set(net.state_dict()) == {"weight", "bias"}
    assert not net.has_hooks
    np.testing.assert_allclose(net(x).data, y.data, 1e-12, 1e-13)
    assert isinstance(net.weight, nn.Parameter)
    weight_norm(net)
    np.testing.assert_allclose(net(x).data, y.data, 1e-12, 1e-13)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: weight_norm(nn.ReLU()), "ReLU has no parameter 'weight'"),
        (lambda: weight_norm(nn.Linear(1, 1, bias=False), "bias"), "has no parameter 'bias'"),
        (lambda: weight_norm(weight_norm(nn.Linear(1, 1))), "has no parameter 'weight'"),
        (lambda: weight_norm(nn.Linear(2, 3), dim=-1), r"dim=-1 is no axis of a weight of shape"),
        (lambda: remove_weight_norm(nn.Linear(1, 1)), "'weight' of Linear has none"),
        (
            lambda: weight_norm(nn.ConvTranspose2d(3, 4, 3), data_dependent_init=True)(
                tg.ones(2, 3, 4, 4)
            ),
            "weight_norm: 3 slices along dim=0 for 4 output channels; .* transposed",
        ),
    ],
)
def test_messages(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_an_unknown_parameter_leaves_the_module_alone():
    net = nn.Linear(2, 2, bias=False)
    with pytest.raises(ValueError):
        weight_norm(net, "bias")
    assert net.bias is None
    assert list(net.state_dict()) == ["weight"]
