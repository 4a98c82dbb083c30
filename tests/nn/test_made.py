"""MADE: exactly zero triangles of the Jacobian, context, order, masks, weight norm, messages."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor, grad, nn
from tinygen.nn.utils import weight_norm

orders = pytest.mark.parametrize("reverse", [False, True])


def jacobian(net, x, context=None, of=0):
    """d output_i / d input_j (outputs, inputs) for one row, in float64."""
    inputs = [Tensor(a[None], requires_grad=True) for a in (x, context) if a is not None]
    output = net(*inputs)
    rows = [
        grad(output[0, i], inputs[of], retain_graph=True).numpy()[0]
        for i in range(output.shape[1])
    ]
    return np.stack(rows)


def made(features, hidden, *, seed=0, **options):
    tg.manual_seed(seed)
    return nn.MADE(features, hidden, **options).double()


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape)


@orders
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize(
    ("features", "hidden"), [(1, [4]), (2, [7]), (5, [11, 9]), (8, [8, 3, 8])]
)
def test_the_triangle_is_exactly_zero_and_the_rest_is_not(features, hidden, context, reverse):
    net = made(features, hidden, context_features=context, reverse=reverse)
    h = draw(context) if context else None
    found = jacobian(net, draw(features), h).reshape(2, features, features)
    after = np.triu(np.ones((features, features)))  # input j is not before output i
    if reverse:
        after = after[::-1, ::-1]
    assert (found[:, after == 1] == 0).all()
    if min(hidden) >= features:
        assert (found[:, after == 0] != 0).all()


@orders
def test_every_output_sees_the_whole_context_through_every_degree(reverse):
    net = made(4, [9, 9], context_features=3, reverse=reverse)
    assert (jacobian(net, draw(4), draw(3), of=1) != 0).all()


def test_several_outputs_for_a_feature_lie_one_after_the_other():
    found = jacobian(made(3, [12], outputs=3), draw(3)).reshape(3, 3, 3)
    assert (np.triu(found) == 0).all()
    assert (found[:, [1, 2, 2], [0, 0, 1]] != 0).all()


def test_a_reversed_net_is_the_same_net_on_reversed_inputs():
    x, h = draw(6, 5), draw(6, 2)
    there = made(5, [10, 10], context_features=2, outputs=1)
    back = made(5, [10, 10], context_features=2, outputs=1, reverse=True)
    state = there.state_dict()
    flip_in = [*range(4, -1, -1), 5, 6]
    state["net.0.weight"] = state["net.0.weight"].data[:, flip_in]
    state["net.0.mask"] = state["net.0.mask"].data[:, flip_in]
    for name in ("weight", "mask", "bias"):
        state[f"net.4.{name}"] = state[f"net.4.{name}"].data[::-1]
    back.load_state_dict(state)
    expected = there(Tensor(x[:, ::-1].copy()), Tensor(h)).data[:, ::-1]
    np.testing.assert_allclose(back(Tensor(x), Tensor(h)).data, expected, 1e-12)


@pytest.mark.parametrize("strict", [False, True])
def test_masked_linear_against_its_formula(strict):
    tg.manual_seed(1)
    layer = nn.MaskedLinear([0, 2, 1], [1, 0, 2, 2], strict=strict).double()
    allowed = np.array([[d < e if strict else d <= e for d in (0, 2, 1)] for e in (1, 0, 2, 2)])
    np.testing.assert_array_equal(layer.mask.data, allowed)
    np.testing.assert_array_equal(layer.weight.data != 0, allowed)
    with tg.no_grad():
        layer.weight.add_(1.0)  # whoever writes into the weight does not open the mask
    x = draw(5, 3)
    expected = x @ (layer.weight.data * allowed).T + layer.bias.data
    np.testing.assert_allclose(layer(Tensor(x)).data, expected, 1e-12)


def test_with_weight_norm_masked_weights_stay_zero_and_outputs_start_at_variance_one():
    net = made(4, [16, 16], context_features=3)
    for layer in net.net:
        if isinstance(layer, nn.MaskedLinear):
            weight_norm(layer, data_dependent_init=True)
    x, h = Tensor(draw(200, 4)), Tensor(draw(200, 3))
    first = net(x, h).data
    np.testing.assert_allclose(first.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(first.std(0), 1, rtol=1e-5)
    optimizer = tg.optim.Adamax(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x, h) ** 2).mean().backward()
        optimizer.step()
    for layer in net.net:
        if isinstance(layer, nn.MaskedLinear):
            assert np.isfinite(layer.weight_v.data).all()
            assert (layer.weight_v.data[layer.mask.data == 0] == 0).all()


def test_mistakes_are_one_line():
    with pytest.raises(ValueError, match=r"hidden=\[0\].* sizes must be above 0"):
        nn.MADE(3, [0])
    net = nn.MADE(3, [8], context_features=2)
    for inputs, found in [((3,), "3 features and a context of 2, got 3 and 0"),
                          ((4, 2), "got 4 and 2"), ((3, 1), "got 3 and 1")]:  # fmt: skip
        with pytest.raises(ValueError, match=found):
            net(*(tg.zeros(1, n) for n in inputs))
