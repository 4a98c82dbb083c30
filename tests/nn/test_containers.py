"""Sequential, with its fused batch norm, and ModuleList."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from helpers import values

import tinygen as tg
from tinygen import functional as F
from tinygen import nn
from tinygen.autograd import op_hook


class Names(op_hook):
    """The names of the operations that ran forward."""

    def __init__(self):
        self.seen = []

    def before(self, op, phase):
        if phase == "forward":
            self.seen.append(op.name)


def one_after_the_other(net, x):
    for module in net:
        x = module(x)
    return x


def batch_norms(*activations):
    """BatchNorms of different scales with these activations behind them."""
    modules = []
    for i, activation in enumerate(activations):
        norm = nn.BatchNorm2d(3)
        norm.weight.data[...] = [0.5, -1, 2]
        norm.bias.data[...] = [0.1 * i, -0.2, 0.3]
        modules += [norm, activation]
    return modules


shared = nn.LeakyReLU(0.3)
NETS = {
    "relu": lambda: batch_norms(nn.ReLU()),
    "leaky relu": lambda: batch_norms(nn.LeakyReLU(0.2)),
    "one activation twice": lambda: batch_norms(shared, shared),
    "one activation before and after": lambda: [shared, *batch_norms(shared, shared), shared],
    "one norm twice": lambda: 2 * batch_norms(nn.LeakyReLU(0.2)),
    "norm at the end": lambda: [nn.ReLU(), nn.BatchNorm2d(3)],
    "two norms": lambda: [nn.BatchNorm2d(3), *batch_norms(nn.ReLU())],
    "nested": lambda: [
        nn.Sequential(*batch_norms(shared)), nn.Sequential(nn.BatchNorm2d(3)), nn.ReLU()
    ],
    "another activation": lambda: batch_norms(nn.ELU(), nn.Tanh()),
    "nothing": lambda: [],
}  # fmt: skip
nets = pytest.mark.parametrize("name", NETS)


@nets
@pytest.mark.parametrize("training", [True, False])
def test_fused_and_plain_are_the_same(name, training):
    x = values((2, 3, 4, 5), 0)
    results = []
    for run in (nn.Sequential.__call__, one_after_the_other):
        net = nn.Sequential(*NETS[name]()).to(np.float64).train(training)
        inputs = [tg.Tensor(x, requires_grad=True), *net.parameters()]
        y = run(net, inputs[0])
        grads = tg.grad((y * tg.Tensor(values(y.shape, 1))).sum(), inputs)
        results.append([y, *grads, *net.buffers()])
    for fused, plain in zip(*results, strict=True):
        np.testing.assert_allclose(fused.data, plain.data, 1e-11, 1e-12)


def test_what_runs_fused_and_what_does_not():
    norm, activation = nn.BatchNorm2d(3), nn.LeakyReLU(0.2)
    net = nn.Sequential(norm, activation, nn.Tanh())
    x = tg.randn(2, 3, 4, 4)

    def operations():
        with Names() as names:
            net(x)
        return names.seen

    assert operations() == ["BatchNorm", "tanh"]
    watch_between = [
        norm.register_forward_hook,
        activation.register_forward_pre_hook,
        activation.register_forward_hook,
    ]
    for register in watch_between:
        handle = register(lambda *_: None)
        assert operations() == ["BatchNorm", "leaky_relu", "tanh"]
        handle.remove()
    norm.register_forward_pre_hook(lambda *_: None)
    assert operations() == ["BatchNorm", "tanh"]


ACTIVATIONS = [
    nn.ReLU(), nn.LeakyReLU(0.3), nn.ELU(0.5), nn.Softplus(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_a_linear_layer_and_its_activation_are_one_operation(activation, shape):
    net = nn.Sequential(nn.Linear(3, 4), activation).to(np.float64)
    _, *weights = inputs = [tg.Tensor(values(shape, 0), requires_grad=True), *net.parameters()]
    upper = tg.Tensor(values((*shape[:-1], 4), 1))
    x = inputs[0]
    with Names() as names:
        results = [net(x)]
    assert ("silu" in names.seen) == isinstance(activation, nn.SiLU)
    assert len(names.seen) <= 4  # the product, and reshaping before and after it
    results.append(activation(net[0](x)))
    np.testing.assert_array_equal(results[0].data, results[1].data)
    fused, plain = (tg.grad((y * upper).sum(), inputs, create_graph=True) for y in results)
    second = [tg.grad((g[0] ** 2).sum(), weights[0]) for g in (fused, plain)]
    for a, b in zip((*fused, second[0]), (*plain, second[1]), strict=True):
        np.testing.assert_allclose(a.data, b.data, 1e-12, 1e-13)


def test_a_linear_layer_that_is_watched_or_is_no_plain_one_runs_alone():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    layer, x, seen = nn.Linear(3, 4), tg.randn(5, 3), []
    net = nn.Sequential(layer, nn.ReLU())
    layer.register_forward_hook(lambda module, args, output: seen.append(output))
    assert (net(x).data >= 0).all()
    assert (seen[0].data < 0).any()
    net = nn.Sequential(Doubled(3, 4), nn.ReLU())
    np.testing.assert_array_equal(net(x).data, F.relu(net[0](x)).data)


def test_hooks_of_a_norm_and_its_activation_see_their_values():
    norm, activation = nn.BatchNorm2d(3), nn.ReLU()
    net = nn.Sequential(norm, activation)
    x, seen = tg.randn(2, 3, 4, 4), {}
    norm.register_forward_hook(lambda module, args, output: seen.update(norm=output))
    activation.register_forward_hook(lambda module, args, output: seen.update(relu=output))
    y = net(x)
    assert (seen["norm"].data < 0).any()
    np.testing.assert_array_equal(F.relu(seen["norm"]).data, seen["relu"].data)
    assert y is seen["relu"]


def test_a_norm_with_a_forward_of_its_own_is_called_as_it_is():
    class Doubled(nn.BatchNorm2d):
        def forward(self, input):
            return 2 * super().forward(input)

    x = tg.randn(2, 3, 4, 4)
    y = nn.Sequential(Doubled(3), nn.ReLU())(x)
    np.testing.assert_allclose(y.data, 2 * nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())(x).data)


def test_sequential_is_a_list():
    a, b, c = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)
    net = nn.Sequential(a, b).append(c)
    assert len(net) == 3
    assert list(net) == [a, b, c]
    assert net[-1] is c
    assert isinstance(net[1:], nn.Sequential)
    assert list(net[1:]) == [b, c]
    assert [name for name, _ in net.named_parameters()] == [
        "0.weight", "0.bias", "2.weight", "2.bias"
    ]  # fmt: skip


def test_sequential_with_names():
    net = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), act=nn.ReLU()))
    assert list(net.state_dict()) == ["first.weight", "first.bias"]
    assert net.first is net[0]
    assert net(tg.ones(1, 2)).shape == (1, 3)


def test_module_list():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    layers.append(nn.Linear(2, 1))
    assert len(layers) == 4
    assert isinstance(layers[1:3], nn.ModuleList)
    assert layers[1:3][0] is layers[1]
    assert list(layers.state_dict())[-1] == "3.bias"
    with pytest.raises(NotImplementedError, match="ModuleList has no forward method"):
        layers(tg.ones(1, 2))


@pytest.mark.parametrize("kind", [lambda x: nn.Sequential(x), lambda x: nn.ModuleList([x])])
def test_only_modules_go_in(kind):
    with pytest.raises(TypeError, match=r"0 must be a Module or None, got function"):
        kind(F.relu)
