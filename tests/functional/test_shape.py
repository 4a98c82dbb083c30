"""Views, rearrangements, joining, cutting and indexing."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    LAYOUTS,
    arrays,
    axes_of,
    axis_of,
    axis_tuples,
    check_op,
    check_torch,
    in_layout,
    seeds,
    shapes,
    values,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygen
from tinygen import Tensor, grad, tensor
from tinygen import functional as F


@given(arrays(), st.data())
def test_reshape(x, data):
    sizes = data.draw(st.permutations(x.shape))
    check_op(lambda x: F.reshape(x, *sizes), [x], lambda x: x.reshape(sizes))
    if x.size:
        check_op(lambda x: F.reshape(x, (-1, 1)), [x], lambda x: x.reshape(-1, 1))


@given(arrays(shapes(max_dims=4, max_side=3)), st.data())
def test_permute_and_transpose(x, data):
    axes = data.draw(st.permutations(range(x.ndim)))
    signed = [a - x.ndim * data.draw(st.booleans()) for a in axes]
    check_op(lambda x: F.permute(x, *signed), [x], lambda x: x.transpose(axes))
    if x.ndim:
        a, b = data.draw(axis_of(x.ndim)), data.draw(axis_of(x.ndim))
        check_op(lambda x: F.transpose(x, a, b), [x], lambda x: x.swapaxes(a, b))


@given(hnp.broadcastable_shapes((2, 1, 3), max_dims=4, max_side=3), seeds())
def test_expand_and_its_adjoint(small, seed):
    large = np.broadcast_shapes(small, (2, 1, 3))
    x = values(small, seed)
    check_op(lambda x: F.expand(x, large), [x], lambda x: np.broadcast_to(x, large))
    y = values(large, seed + 1)
    expanded = np.asarray(F.expand(Tensor(x), large))
    summed = np.asarray(F.sum_to(Tensor(y), small))
    assert summed.shape == small
    np.testing.assert_allclose(np.vdot(expanded, y), np.vdot(x, summed), 1e-12, 1e-12)
    check_op(lambda y: F.sum_to(y, small), [y], lambda y: summed)


def test_expand_keeps_sizes_given_as_minus_1():
    assert tensor(np.ones((3, 1))).expand(2, -1, 4).shape == (2, 3, 4)


@given(arrays(shapes(min_dims=1, max_dims=4, max_side=3)), st.data())
def test_flatten(x, data):
    start = data.draw(st.integers(0, x.ndim - 1))
    end = data.draw(st.integers(start, x.ndim - 1))
    size = int(np.prod(x.shape[start : end + 1]))
    sizes = (*x.shape[:start], size, *x.shape[end + 1 :])
    check_op(lambda x: F.flatten(x, start, end - x.ndim), [x], lambda x: x.reshape(sizes))


def test_flatten_a_number():
    assert tensor(3.0).flatten().shape == (1,)


@given(arrays(shapes(max_dims=4, max_side=2)), st.data())
def test_squeeze_and_unsqueeze(x, data):
    check_op(F.squeeze, [x], np.squeeze)
    axes = data.draw(axes_of(x.ndim))
    if axes is not None:
        named = axes if isinstance(axes, tuple) else (axes,)
        ones = tuple(a for a in named if x.shape[a] == 1)
        check_op(lambda x: F.squeeze(x, axes), [x], lambda x: np.squeeze(x, ones))
    new = data.draw(axis_of(x.ndim + 1))
    check_op(lambda x: F.unsqueeze(x, new), [x], lambda x: np.expand_dims(x, new))


@given(shapes(min_dims=1), st.data())
def test_cat(shape, data):
    axis = data.draw(axis_of(len(shape)))
    pieces = []
    for _ in range(data.draw(st.integers(1, 3))):
        sizes = list(shape)
        sizes[axis] = data.draw(st.integers(0, 3))
        pieces.append(data.draw(arrays(tuple(sizes))))
    check_op(lambda *xs: F.cat(xs, axis), pieces, lambda *xs: np.concatenate(xs, axis))


@given(shapes(), st.integers(1, 3), st.data())
def test_stack(shape, n, data):
    axis = data.draw(axis_of(len(shape) + 1))
    pieces = [data.draw(arrays(shape)) for _ in range(n)]
    check_op(lambda *xs: F.stack(xs, axis), pieces, lambda *xs: np.stack(xs, axis))


@given(arrays(shapes(min_dims=1, max_side=7)), st.integers(1, 4), st.data())
def test_split_and_chunk(x, size, data):
    axis = data.draw(axis_of(x.ndim))
    n = x.shape[axis]
    cuts = list(range(size, n, size))
    check_op(lambda x: F.split(x, size, axis), [x], lambda x: np.split(x, cuts, axis))
    sizes = [min(2, n), n - min(2, n)]
    check_op(lambda x: F.split(x, sizes, axis), [x], lambda x: np.split(x, sizes[:1], axis))
    pieces = F.chunk(Tensor(x), size, axis)
    assert len(pieces) <= size
    assert len({p.shape[axis] for p in pieces[:-1]}) <= 1
    np.testing.assert_array_equal(F.cat(pieces, axis).numpy(), x)


def test_chunk_like_pytorch():
    torch = pytest.importorskip("torch")
    for n in range(1, 12):
        for chunks in range(1, 8):
            x = np.arange(float(n))
            ours = [p.tolist() for p in F.chunk(tensor(x), chunks)]
            assert ours == [p.tolist() for p in torch.chunk(torch.tensor(x), chunks)]


@given(arrays(shapes(min_dims=1)), st.data())
def test_pad(x, data):
    n = data.draw(st.integers(0, x.ndim))
    widths = data.draw(st.lists(st.tuples(*[st.integers(0, 2)] * 2), min_size=n, max_size=n))
    flat = [w for pair in widths for w in pair]
    numpy_widths = [(0, 0)] * (x.ndim - n) + widths[::-1]
    check_op(
        lambda x: F.pad(x, flat, value=-1.5),
        [x],
        lambda x: np.pad(x, numpy_widths, constant_values=-1.5),
    )


@given(arrays(shapes(min_dims=1)), st.data())
def test_flip_and_roll(x, data):
    axes = data.draw(axis_tuples(x.ndim))
    check_op(lambda x: F.flip(x, *axes), [x], lambda x: np.flip(x, axes))
    shifts = tuple(data.draw(st.integers(-7, 7)) for _ in axes)
    check_op(lambda x: F.roll(x, shifts, axes), [x], lambda x: np.roll(x, shifts, axes))
    check_op(lambda x: F.roll(x, 2, -1), [x], lambda x: np.roll(x, 2, -1))
    check_op(lambda x: F.roll(x, [1], [0]), [x], lambda x: np.roll(x, 1, 0))


@given(arrays(shapes(min_dims=1, min_side=1)), st.data())
def test_basic_indexing(x, data):
    index = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True))
    check_op(lambda x: F.getitem(x, index), [x], lambda x: x[index])


@given(arrays(shapes(min_dims=1, min_side=1)), st.data())
def test_integer_array_indexing_with_repeats(x, data):
    index = data.draw(hnp.integer_array_indices(x.shape, result_shape=shapes(max_dims=2)))
    check_op(lambda x: F.getitem(x, index), [x], lambda x: x[index])


@given(arrays(shapes(min_dims=1, min_side=1)), st.data())
def test_boolean_indexing(x, data):
    n = data.draw(st.integers(1, x.ndim))
    mask = data.draw(hnp.arrays(bool, x.shape[:n]))
    check_op(lambda x: F.getitem(x, mask), [x], lambda x: x[mask])


@pytest.mark.parametrize(
    "index",
    [
        (..., 1),
        (None, slice(None), [0, 2]),
        (np.array([0, 1, 1]), slice(1, None)),
        (slice(None, None, -1), None, np.array([[2, 0], [1, 1]])),
        (np.array([True, False]), 1),
        [1, 0, 0],
        [],
        np.int64(1),
        np.array(1),
        (),
        True,
    ],
)
def test_mixed_indices(index):
    x = values((2, 3), 0)
    check_op(lambda x: F.getitem(x, index), [x], lambda x: x[index])


def test_an_index_may_hold_tensors():
    x = tensor(np.arange(12.0).reshape(3, 4), requires_grad=True)
    rows, columns = tensor([0, 2, 2]), tensor([1, 3, 3])
    y = x[rows, columns]
    assert y.tolist() == [1, 11, 11]
    expected = np.zeros((3, 4))
    expected[0, 1], expected[2, 3] = 1, 2
    np.testing.assert_array_equal(grad(y.sum(), x).numpy(), expected)
    np.testing.assert_array_equal(x[x > 5].detach().numpy(), np.arange(6.0, 12))
    assert x[tensor(1)].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("index", [np.array([0, 1]), tensor([0, 1]), [0, 1], (tensor([0, 1]),)])
def test_a_later_write_to_an_index_does_not_reach_the_gradient(index):
    x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x[index]
    (index[0] if isinstance(index, tuple) else index)[1] = 2
    assert grad(y.sum(), x).tolist() == [1, 1, 0]


@given(shapes(min_dims=1, min_side=1), st.data())
def test_gather(shape, data):
    axis = data.draw(axis_of(len(shape)))
    x = data.draw(arrays(shape))
    sizes = [data.draw(st.integers(0, n)) for n in shape]
    sizes[axis] = data.draw(st.integers(0, 4))
    index = data.draw(hnp.arrays(np.int64, tuple(sizes), elements=st.integers(0, shape[axis] - 1)))
    cut = tuple(slice(n) if a != axis % len(shape) else slice(None) for a, n in enumerate(sizes))
    check_op(
        lambda x: F.gather(x, axis, index), [x], lambda x: np.take_along_axis(x[cut], index, axis)
    )


VIEWS = {
    "reshape": lambda x: x.reshape(-1),
    "permute": lambda x: x.T,
    "expand": lambda x: x.expand(2, 3, 4),
    "squeeze": lambda x: x.unsqueeze(0).squeeze(0),
    "slice": lambda x: x[1:, ::2],
    "integer": lambda x: x[np.int64(1)],
    "split": lambda x: x.split(2)[0],
    "detach": lambda x: x.detach(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory_and_version(name):
    x = tensor(np.zeros((3, 4)))
    view = VIEWS[name](x)
    assert np.shares_memory(view.data, x.data)
    assert view.version is x.version
    x.fill_(7)
    assert view.detach().numpy().min() == 7


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_are_copies(layout):
    x = Tensor(in_layout(values((2, 3, 4), 0), layout))
    for y in (x.flip(0), x.roll(1, 0), F.pad(x, (1, 1)), F.cat([x]), x[[0, 1]], x[x > 0]):
        assert not np.shares_memory(x.data, y.data)
        assert y.version is not x.version


ERRORS = {
    r"reshape: 6 values of shape \(2, 3\) do not fit \(4, 2\)": lambda x: x.reshape(4, 2),
    r"permute: \(0, 0\) does not name each of 2 axes once": lambda x: x.permute(0, 0),
    r"transpose: axis 2 is out of range for 2 axes": lambda x: x.transpose(0, 2),
    r"expand: shape \(2, 3\) to \(2, 4\): only axes of size 1": lambda x: x.expand(2, 4),
    r"expand: shape \(2, 3\) to \(3,\)": lambda x: x.expand(3),
    r"expand: shape \(2, 3\) to \(-1, 2, 3\)": lambda x: x.expand(-1, 2, 3),
    r"flatten: axis -3 is out of range for 2 axes": lambda x: x.flatten(-3),
    r"flatten: start_axis 1 comes after end_axis 0": lambda x: x.flatten(1, 0),
    r"squeeze: axis 2 is out of range for 2 axes": lambda x: x.squeeze(2),
    r"unsqueeze: axis 3 is out of range for 3 axes": lambda x: x.unsqueeze(3),
    r"cat: needs at least one tensor": lambda x: F.cat([]),
    r"cat: axis 2 is out of range for 2 axes": lambda x: F.cat([x, x], 2),
    r"cat: shapes \(2, 3\) \(input 0\) and \(3, 2\) \(input 1\) differ in another axis than 0": (
        lambda x: F.cat([x, x.T])
    ),
    r"cat: shapes \(2, 3\) \(input 0\) and \(3,\) \(input 1\)": lambda x: F.cat([x, x[0]]),
    r"stack: needs one shape, got \[\(2, 3\), \(3, 2\)\]": lambda x: F.stack([x, x.T]),
    r"split: size 0 must be at least 1": lambda x: x.split(0),
    r"split: sizes \[1, 3\] must add up to 2, none negative": lambda x: x.split([1, 3]),
    r"split: sizes \[3, -1\] must add up to 2": lambda x: x.split([3, -1]),
    r"split: axis 2 is out of range for 2 axes": lambda x: x.split(1, 2),
    r"chunk: 0 pieces; at least 1": lambda x: x.chunk(0),
    r"pad: \(1,\) must be pairs \(before, after\)": lambda x: F.pad(x, (1,)),
    r"pad: \(1, -1\) must be pairs .* none negative": lambda x: F.pad(x, (1, -1)),
    r"pad: .* for at most 2 axes": lambda x: F.pad(x, (1, 1) * 3),
    r"flip: axis 5 is out of range for 2 axes": lambda x: x.flip(5),
    r"roll: axis 5 is out of range for 2 axes": lambda x: x.roll(1, 5),
    r"roll: 2 shifts for 1 axes": lambda x: x.roll((1, 2), 0),
    r"gather: index has 1 axes, the input has 2": lambda x: x.gather(0, [0]),
    r"gather: axis 2 is out of range for 2 axes": lambda x: x.gather(2, [[0]]),
    r"gather: index \(1, 4\) is larger than the input \(2, 3\) in another axis than 0": (
        lambda x: x.gather(0, np.zeros((1, 4), int))
    ),
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors_say_what_was_given_and_what_is_needed(text):
    with pytest.raises(ValueError, match=text):
        ERRORS[text](tensor(np.ones((2, 3))))


TORCH = {
    "reshape": lambda m, x: x.reshape(6, -1),
    "permute": lambda m, x: x.permute(2, 0, 1),
    "transpose": lambda m, x: m.transpose(x, 0, -1),
    "expand": lambda m, x: x.unsqueeze(1).expand(3, 5, -1, 4),
    "flatten": lambda m, x: m.flatten(x, 1),
    "cat": lambda m, x: m.cat([x, 2 * x], -1),
    "stack": lambda m, x: m.stack([x, x * x], 1),
    "split": lambda m, x: m.split(x, 3, 2)[1],
    "flip": lambda m, x: x.flip(0, 2),
    "roll": lambda m, x: m.roll(x, (1, -2), (0, 2)),
    "index": lambda m, x: x[[0, 2, 2], :, 1:][..., None],
}


@pytest.mark.parametrize("name", TORCH)
def test_like_pytorch(name):
    torch = pytest.importorskip("torch")
    x = values((3, 2, 4), 0)
    check_torch(lambda x: TORCH[name](F, x), lambda x: TORCH[name](torch, x), [x])


def test_pad_and_gather_like_pytorch():
    torch = pytest.importorskip("torch")
    x = values((3, 2, 4), 0)
    check_torch(
        lambda x: F.pad(x, (1, 2, 0, 3), value=2.0),
        lambda x: torch.nn.functional.pad(x, (1, 2, 0, 3), value=2.0),
        [x],
    )
    index = np.array([[[0, 3, 3], [1, 1, 1]]])
    check_torch(
        lambda x: F.gather(x, 2, index), lambda x: torch.gather(x, 2, torch.tensor(index)), [x]
    )


def test_a_missing_gradient_of_an_unused_piece_is_zero():
    x = tensor(np.ones((2, 6)), requires_grad=True)
    a, _, c = x.split(2, 1)
    (g,) = tinygen.grad([a.sum(), c.sum()], [x])
    assert g.tolist() == [[1, 1, 0, 0, 1, 1]] * 2
    tinygen.gradcheck(lambda x: x.split([1, 3, 2], 1)[1].exp(), [values((2, 6), 0)], order=2)
