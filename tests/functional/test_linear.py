"""Matrix products, the affine map, and the table look-up."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import arrays, check_op, check_torch, shapes, values
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygen import Tensor, grad, tensor
from tinygen import functional as F
from tinygen.gradcheck import gradcheck


@given(st.data())
def test_matmul_of_all_numbers_of_axes(data):
    drawn = data.draw(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2))
    operands = [data.draw(arrays(shape)) for shape in drawn.input_shapes]
    check_op(F.matmul, operands, np.matmul)


def test_matmul_of_an_empty_batch_and_of_empty_sums():
    for a, b in (((0, 3, 4), (4, 2)), ((2, 0), (0, 3)), ((0,), (0,)), ((3, 2, 0), (0,))):
        check_op(F.matmul, [np.ones(a), np.ones(b)], np.matmul)


@given(shapes(max_dims=3), st.integers(0, 4), st.integers(0, 4), st.booleans(), st.data())
def test_linear(lead, n_in, n_out, with_bias, data):
    x = data.draw(arrays((*lead, n_in)))
    weight = data.draw(arrays((n_out, n_in)))
    bias = [data.draw(arrays((n_out,)))] if with_bias else []
    check_op(F.linear, [x, weight, *bias], lambda x, w, b=0.0: x @ w.T + b)


@given(shapes(max_dims=2), st.integers(1, 4), st.integers(0, 3), st.data())
def test_embedding(shape, rows, width, data):
    index = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, rows - 1)))
    weight = data.draw(arrays((rows, width)))
    check_op(lambda w: F.embedding(index, w), [weight], lambda w: w[index])


def test_embedding_sums_the_gradients_of_a_row_that_is_used_often():
    weight = tensor(np.zeros((4, 2), np.float32), requires_grad=True)
    out = F.embedding(tensor([[3, 0], [3, 3]]), weight)
    assert out.shape == (2, 2, 2)
    g = grad(out, weight, np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    assert g.tolist() == [[2, 3], [0, 0], [0, 0], [10, 13]]


def test_a_later_write_to_the_indices_is_caught():
    index = tensor([0, 1])
    weight = tensor(np.ones((3, 2)), requires_grad=True)
    out = F.embedding(index, weight)
    index[0] = 2
    with pytest.raises(RuntimeError, match=r"Embedding .* overwritten in place"):
        out.sum().backward()


@pytest.mark.parametrize("i", [0, 1, 2])
def test_linear_with_a_gradient_for_one_input_only(i):
    inputs = [values((5, 3), 0), values((2, 3), 1), values((2,), 2)]

    def function(one):
        return F.linear(*(one if j == i else Tensor(x) for j, x in enumerate(inputs)))

    gradcheck(function, [inputs[i]], order=2)


ERRORS = {
    r"matmul: shapes \(2, 3\) and \(2, 3\) do not align: "
    "the first's last axis must equal the second's last but one": lambda x: x @ x,
    r"matmul: shapes \(2, 3\) and \(2,\) do not align: "
    "the first's last axis must equal the second's only one": lambda x: x @ x[:, 0],
    r"matmul: shapes \(\) and \(2, 3\) do not align": lambda x: x.sum() @ x,
    r"matmul: shapes \(2, 1, 3\) and \(5, 3, 1\): "
    "the axes before the last two do not broadcast": (
        lambda x: x.unsqueeze(1) @ np.ones((5, 3, 1))
    ),
    r"linear: input \(2, 3\) and weight \(3, 2\) do not align: "
    r"weight is \(out_features, in_features\), input's last axis must be in_features": (
        lambda x: F.linear(x, x.T)
    ),
    r"linear: input \(\) and weight \(2, 3\)": lambda x: F.linear(x.sum(), x),
    r"linear: bias \(3,\) for 2 out_features": lambda x: F.linear(x, x, x[0]),
    r"embedding: weight must be \(num_embeddings, D\), got \(3,\)": (
        lambda x: F.embedding([0], x[0])
    ),
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors_name_both_shapes_and_the_rule(text):
    with pytest.raises(ValueError, match=text):
        ERRORS[text](tensor(np.ones((2, 3))))


def test_embedding_errors():
    weight = tensor(np.ones((3, 2)))
    with pytest.raises(TypeError, match="embedding: expected integer indices, got float64"):
        F.embedding([0.0], weight)
    for index in ([0, 3], [-1, 0]):
        with pytest.raises(IndexError, match=r"embedding: indices -?\d\.\.\d for a table of 3"):
            F.embedding(index, weight)


def test_like_pytorch():
    torch = pytest.importorskip("torch")
    x, w, b = values((4, 5, 3), 0), values((2, 3), 1), values((2,), 2)
    check_torch(F.linear, torch.nn.functional.linear, [x, w, b])
    check_torch(F.matmul, torch.matmul, [x, values((3,), 3)])
    check_torch(F.matmul, torch.matmul, [x, values((4, 3, 6), 3)])
    index = np.array([[1, 0], [1, 1]])
    check_torch(
        lambda w: F.embedding(index, w),
        lambda w: torch.nn.functional.embedding(torch.tensor(index), w),
        [w],
    )
