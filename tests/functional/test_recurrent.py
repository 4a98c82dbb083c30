"""LSTM and GRU: PyTorch as oracle, gradients of two orders, partial use of outputs, messages."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import values
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygen as tg
from tinygen import Tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck

GATES = {"lstm": 4, "gru": 3}
STATES = {"lstm": 2, "gru": 1}
kinds = pytest.mark.parametrize("kind", GATES)


def problem(kind, steps=3, batch=2, width=2, hidden=3, layers=1, directions=1, bias=True, seed=0):
    """[input, states..., parameters...] in float64."""
    rows = GATES[kind] * hidden
    shapes = [(steps, batch, width)] + [(layers * directions, batch, hidden)] * STATES[kind]
    for layer in range(layers):
        inputs = width if layer == 0 else directions * hidden
        cell = [(rows, inputs), (rows, hidden)] + ([(rows,), (rows,)] if bias else [])
        shapes += cell * directions
    return [values(shape, seed + i, low=-1, high=1) for i, shape in enumerate(shapes)]


def function_of(kind, **options):
    """lstm(input, h0, c0, *params) or gru(input, h0, *params)."""
    if kind == "lstm":
        return lambda x, h, c, *params: F.lstm(x, (h, c), params, **options)
    return lambda x, h, *params: F.gru(x, h, params, **options)


sizes = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 4), "batch": st.integers(1, 3), "width": st.integers(1, 3),
        "hidden": st.integers(1, 4), "layers": st.integers(1, 3), "directions": st.integers(1, 2),
        "bias": st.booleans(), "seed": st.integers(0, 2**20),
    }
)  # fmt: skip


def torch_layer(kind, size, arrays, batch_first=False):
    torch = pytest.importorskip("torch")
    layer = getattr(torch.nn, kind.upper())(
        size["width"], size["hidden"], size["layers"], size["bias"], batch_first,
        bidirectional=size["directions"] == 2, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        for parameter, array in zip(layer.parameters(), arrays[1 + STATES[kind] :], strict=True):
            parameter.copy_(torch.tensor(array))
    return layer


@kinds
@settings(max_examples=20)
@given(size=sizes, batch_first=st.booleans(), used=st.sets(st.integers(0, 2), min_size=1))
def test_equals_torch_whatever_outputs_are_used(kind, size, batch_first, used):
    torch = pytest.importorskip("torch")
    arrays = problem(kind, **size)
    layer = torch_layer(kind, size, arrays, batch_first)
    if batch_first:
        arrays[0] = arrays[0].swapaxes(0, 1).copy()
    ours = [Tensor(x, requires_grad=True) for x in arrays]
    options = {"num_layers": size["layers"], "bidirectional": size["directions"] == 2}
    results = function_of(kind, **options, batch_first=batch_first)(*ours)

    theirs = [torch.tensor(x, requires_grad=True) for x in arrays[: 1 + STATES[kind]]]
    x, *states = theirs
    output, last = layer(x, tuple(states) if kind == "lstm" else states[0])
    expected = [output, *(last if kind == "lstm" else (last,))]
    for mine, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(mine.data, other.detach(), 1e-11, 1e-12)

    used = sorted(used & set(range(len(results)))) or [0]
    weights = [values(results[i].shape, i) for i in used]
    found = tg.grad([results[i] for i in used], ours, [Tensor(w) for w in weights])
    other = torch.autograd.grad(
        [expected[i] for i in used],
        [*theirs, *layer.parameters()],
        [torch.tensor(w) for w in weights],
        allow_unused=True,
    )
    for i, (a, b) in enumerate(zip(found, other, strict=True)):
        np.testing.assert_allclose(a.data, 0 if b is None else b, 1e-10, 1e-12, err_msg=str(i))


@kinds
@settings(max_examples=6)
@given(size=sizes)
def test_gradients_of_first_and_second_order(kind, size):
    size = {**size, "layers": min(size["layers"], 2), "steps": min(size["steps"], 3)}
    options = {"num_layers": size["layers"], "bidirectional": size["directions"] == 2}
    gradcheck(function_of(kind, **options), problem(kind, **size), order=2)


@kinds
def test_gradients_when_only_the_last_state_is_used(kind):
    function = function_of(kind, num_layers=2, bidirectional=True)
    arrays = problem(kind, layers=2, directions=2)
    gradcheck(lambda *args: function(*args)[-1], arrays, order=2)
    gradcheck(lambda *args: function(*args)[0][-1], arrays, order=2)


@kinds
def test_only_what_is_asked_for_gets_a_gradient(kind):
    arrays = [Tensor(x) for x in problem(kind)]
    arrays[-1].requires_grad_()
    output = function_of(kind)(*arrays)[0]
    output.sum().backward()
    assert all(x.grad is None for x in arrays[:-1])
    assert arrays[-1].grad.shape == arrays[-1].shape


@kinds
def test_parameters_alone_get_the_gradients_they_get_beside_the_input_s(kind):
    arrays = problem(kind, layers=2, directions=2)
    results = []
    for n_fixed in (0, 1 + STATES[kind]):
        tensors = [Tensor(x, requires_grad=i >= n_fixed) for i, x in enumerate(arrays)]
        y = function_of(kind, num_layers=2, bidirectional=True)(*tensors)[0]
        results.append(tg.grad((y * y).sum(), tensors[1 + STATES[kind] :]))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


@kinds
def test_memory_order_does_not_matter(kind):
    """Inputs and gradients with gaps and in other orders."""
    arrays = problem(kind, layers=2, directions=2)
    function = function_of(kind, num_layers=2, bidirectional=True)
    results = []
    for arrange in (lambda x: x, lambda x: np.repeat(x, 2, -1)[..., ::2], np.asfortranarray):
        inputs = [Tensor(arrange(x), requires_grad=True) for x in arrays]
        outputs = function(*inputs)
        weights = [Tensor(arrange(values(y.shape, 0))) for y in outputs]
        results.append([*outputs, *tg.grad(outputs, inputs, weights)])
    for first, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(other.data, first.data, 1e-12, 1e-13)


@kinds
def test_float32(kind):
    arrays = problem(kind, layers=2, directions=2)
    function = function_of(kind, num_layers=2, bidirectional=True)
    results = []
    for dtype in (np.float32, np.float64):
        inputs = [Tensor(x.astype(dtype), requires_grad=True) for x in arrays]
        outputs = function(*inputs)
        found = tg.grad(outputs[0].sum() + outputs[-1].sum(), inputs)
        results.append([x.data for x in (*outputs, *found)])
        assert all(x.dtype == dtype for x in results[-1])
    for single, double in zip(*results, strict=True):
        np.testing.assert_allclose(single, double, 1e-4, 1e-5)


@kinds
def test_no_sequences(kind):
    inputs = [Tensor(x, requires_grad=True) for x in problem(kind, batch=0, layers=2)]
    output, *last = function_of(kind, num_layers=2)(*inputs)
    assert output.shape == (3, 0, 3)
    assert all(state.shape == (2, 0, 3) for state in last)
    output.sum().backward()
    np.testing.assert_array_equal(inputs[-1].grad.data, np.zeros(inputs[-1].shape))


@kinds
def test_arrays_in_arrays_out(kind):
    arrays = problem(kind)
    results = function_of(kind)(*arrays)
    assert all(isinstance(x, np.ndarray) for x in results)
    for array, tensor in zip(results, function_of(kind)(*map(Tensor, arrays)), strict=True):
        np.testing.assert_array_equal(array, tensor.data)


@kinds
def test_dropout_between_layers(kind):
    """What dropout does to the output of the first layer, the second reads; the last is whole."""
    arrays = [Tensor(x, requires_grad=True) for x in problem(kind, hidden=6, layers=2)]
    x, states, params = arrays[0], arrays[1 : 1 + STATES[kind]], arrays[1 + STATES[kind] :]
    half = len(params) // 2
    one_layer = function_of(kind)

    tg.manual_seed(0)
    results = function_of(kind, num_layers=2, dropout=0.5)(*arrays)
    tg.manual_seed(0)
    middle, *first = one_layer(x, *(s[:1] for s in states), *params[:half])
    dropped = F.dropout(middle, 0.5)
    output, *second = one_layer(dropped, *(s[1:] for s in states), *params[half:])
    assert (dropped.data == 0).any()
    np.testing.assert_allclose(results[0].data, output.data, 1e-12)
    for state, parts in zip(results[1:], zip(first, second, strict=True), strict=True):
        np.testing.assert_allclose(state.data, F.cat(parts).data, 1e-12)
    weights = Tensor(values(output.shape, 0))
    for a, b in zip(
        tg.grad(results[0], arrays, weights), tg.grad(output, arrays, weights), strict=True
    ):
        np.testing.assert_allclose(a.data, b.data, 1e-11, 1e-13)


@kinds
def test_without_dropout_in_evaluation_and_in_a_single_layer(kind):
    for layers, training in ((2, False), (1, True)):
        arrays = problem(kind, layers=layers)
        plain = function_of(kind, num_layers=layers)(*arrays)
        options = {"num_layers": layers, "dropout": 0.9, "training": training}
        for a, b in zip(plain, function_of(kind, **options)(*arrays), strict=True):
            np.testing.assert_array_equal(a, b)


@kinds
def test_dropout_gradients(kind):
    function = function_of(kind, num_layers=2, bidirectional=True, dropout=0.5)

    def seeded(*args):
        tg.manual_seed(2)
        return function(*args)

    gradcheck(seeded, problem(kind, layers=2, directions=2), order=2)


@pytest.mark.parametrize("bias", [True, False])
def test_cells_are_one_step(bias):
    torch = pytest.importorskip("torch")
    for kind in GATES:
        arrays = problem(kind, steps=1, bias=bias)
        x, *states = (a[0] for a in arrays[: 1 + STATES[kind]])
        params = arrays[1 + STATES[kind] :]
        hx = tuple(states) if kind == "lstm" else states[0]
        found = getattr(F, f"{kind}_cell")(x, hx, *params)
        cell = getattr(torch.nn, f"{kind.upper()}Cell")(2, 3, bias, dtype=torch.float64)
        with torch.no_grad():
            for parameter, array in zip(cell.parameters(), params, strict=True):
                parameter.copy_(torch.tensor(array))
        tensors = [torch.tensor(s) for s in states]
        expected = cell(torch.tensor(x), tuple(tensors) if kind == "lstm" else tensors[0])
        for a, b in zip(
            found if kind == "lstm" else [found],
            expected if kind == "lstm" else [expected],
            strict=True,
        ):
            np.testing.assert_allclose(a, b.detach(), 1e-12)


def test_cell_gradients():
    x, h, c, *params = (a[0] if a.ndim == 3 else a for a in problem("lstm", steps=1))
    gradcheck(lambda x, h, c, *p: F.lstm_cell(x, (h, c), *p), [x, h, c, *params], order=2)
    x, h, *params = (a[0] if a.ndim == 3 else a for a in problem("gru", steps=1))
    gradcheck(lambda x, h, *p: F.gru_cell(x, h, *p), [x, h, *params], order=2)


@pytest.mark.parametrize("what", ["weight", "output"])
def test_what_is_overwritten_in_place_before_backward_is_noticed(what):
    arrays = [Tensor(x, requires_grad=True) for x in problem("lstm")]
    output = F.lstm(arrays[0], tuple(arrays[1:3]), arrays[3:])[0]
    loss = output.sum()
    with tg.no_grad():
        (output if what == "output" else arrays[4]).mul_(2)
    with pytest.raises(RuntimeError, match="overwritten in place"):
        loss.backward()


def message_case(kind, change, **options):
    arrays = [Tensor(x) for x in problem(kind)]
    change(arrays)
    return lambda: function_of(kind, **options)(*arrays)


def put(index, array):
    return lambda arrays: arrays.__setitem__(index, Tensor(array))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (message_case("lstm", put(0, np.zeros((3, 2)))), ValueError,
         "lstm: input (3, 2) must be (T, N, features)"),
        (message_case("gru", put(0, np.zeros((3, 2))), batch_first=True), ValueError,
         "gru: input (3, 2) must be (N, T, features)"),
        (message_case("lstm", put(0, np.zeros((3, 2, 5)))), ValueError,
         "lstm: input (3, 2, 5), hidden size 3: parameter 0 must have shape (12, 5), got (12, 2)"),
        (message_case("gru", put(3, np.zeros((9, 4)))), ValueError,
         "gru: input (3, 2, 2), hidden size 4: parameter 0 must have shape (12, 2), got (9, 2)"),
        (message_case("lstm", put(1, np.zeros((1, 3, 3)))), ValueError,
         "lstm: a state has shape (1, 3, 3), expected (layers · directions, N, hidden) = "
         "(1, 2, 3)"),
        (message_case("lstm", lambda arrays: arrays.pop()), ValueError,
         "lstm: 3 parameters for 1 (layer, direction) cells: each needs weight_ih, weight_hh and, "
         "with biases, bias_ih, bias_hh"),
        (message_case("gru", put(1, np.zeros((2, 2, 3)))), ValueError,
         "gru: a state has shape (2, 2, 3), expected (layers · directions, N, hidden) = "
         "(1, 2, 3)"),
        (message_case("lstm", put(0, np.zeros((0, 2, 2)))), ValueError,
         "lstm: input (0, 2, 2), (T, N, features), has no time steps"),
        (message_case("gru", put(0, np.zeros((3, 2, 2), np.float32))), TypeError,
         "gru: input float32, state 0 float64: expected float32 for all or float64 for all"),
        (message_case("lstm", put(4, np.zeros((12, 3), np.float32))), TypeError,
         "lstm: input float64, parameter 1 float32: expected"),
    ],
)  # fmt: skip
def test_messages(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
