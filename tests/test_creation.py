"""Tensors from sizes, ranges, random numbers and other libraries' arrays."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3)])
@pytest.mark.parametrize(
    ("make", "value"), [(tg.zeros, 0), (tg.ones, 1), (tg.empty, None), (tg.rand, None),
                        (tg.randn, None)],
)  # fmt: skip
def test_shapes_as_sizes_tuples_and_lists(make, value, shape):
    for x in (make(*shape), make(shape), make(list(shape))):
        assert isinstance(x, tg.Tensor)
        assert x.shape == shape
        assert x.dtype == np.float32
        assert not x.requires_grad
        if value is not None:
            assert (x.data == value).all()
    x = make(shape, dtype=np.float64, requires_grad=True)
    assert x.dtype == np.float64
    assert x.requires_grad


def test_full():
    x = tg.full((2, 3), 7, dtype=np.int64)
    assert x.tolist() == [[7] * 3] * 2
    assert x.dtype == np.int64
    assert tg.full((2,), 1.5).dtype == np.float32
    with pytest.raises(TypeError, match="expected a floating-point tensor, got int64"):
        tg.full((2,), 1, dtype=np.int64, requires_grad=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_like_another(dtype):
    x = tg.Tensor(np.full((2, 3), np.nan if np.dtype(dtype).kind == "f" else 1, dtype))
    for make, value in ((tg.zeros_like, 0), (tg.ones_like, 1)):
        y = make(x)
        assert y.dtype == dtype
        assert y.shape == x.shape
        assert (y.data == value).all()
        assert y.data is not x.data


def test_ranges():
    assert tg.arange(4).tolist() == [0, 1, 2, 3]
    assert tg.arange(4).dtype == np.int64
    assert tg.arange(1, 10, 3).tolist() == [1, 4, 7]
    assert tg.arange(0, 1, 0.25).tolist() == [0, 0.25, 0.5, 0.75]
    assert tg.arange(2.0).dtype == np.float32
    assert tg.arange(3, dtype=np.float64).dtype == np.float64
    x = tg.linspace(-1, 1, 5)
    assert x.tolist() == [-1, -0.5, 0, 0.5, 1]
    assert x.dtype == np.float32
    np.testing.assert_array_equal(tg.eye(3, dtype=np.float64).data, np.eye(3))


def test_random_numbers_follow_the_seed():
    def draw():
        return [
            tg.rand(1000), tg.randn(1000, dtype=np.float64), tg.randint(-3, 4, (1000,)),
            tg.randperm(1000),
        ]  # fmt: skip

    tg.manual_seed(5)
    first = draw()
    uniform, normal, integers, permutation = (x.data for x in first)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.05
    assert abs(normal.mean()) < 0.15
    assert abs(normal.std() - 1) < 0.1
    assert set(integers) == set(range(-3, 4))
    assert integers.dtype == np.int64
    assert sorted(permutation) == list(range(1000))
    assert list(permutation) != list(range(1000))
    second = draw()
    tg.manual_seed(5)
    for a, b, c in zip(first, draw(), second, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
        assert (a.data != c.data).any()


def test_shapes_of_random_integers():
    assert tg.randint(0, 3, ()).shape == ()
    assert tg.randint(0, 3, 4).shape == (4,)
    assert tg.randint(0, 3, [2, 2]).shape == (2, 2)
    with pytest.raises(ValueError, match=r"the range \[3, 3\) is empty"):
        tg.randint(3, 3, (1,))


def test_from_numpy_shares_memory():
    array = np.zeros((2, 3))[:, ::-1]
    x = tg.from_numpy(array)
    x.data[0, 0] = 5
    assert array[0, 0] == 5
    assert x.dtype == np.float64
    with pytest.raises(TypeError, match="from_numpy: expected a NumPy array, got list"):
        tg.from_numpy([1.0])


def test_dlpack_with_numpy():
    array = np.arange(6.0).reshape(2, 3)
    x = tg.from_dlpack(array)
    x.data[0, 0] = 7
    assert array[0, 0] == 7
    np.testing.assert_array_equal(np.from_dlpack(x), array)
    with pytest.raises(TypeError, match=r"from_dlpack: list does not speak the DLPack protocol"):
        tg.from_dlpack([1.0])
    with pytest.raises(BufferError, match=r"requires a gradient; export x\.detach"):
        np.from_dlpack(tg.ones(2, requires_grad=True))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels last"])
def test_dlpack_with_pytorch_both_ways(layout):
    torch = pytest.importorskip("torch")
    theirs = torch.arange(120.0).reshape(2, 3, 4, 5)
    if layout == "transposed":
        theirs = theirs.transpose(1, 3)
    elif layout == "channels last":
        theirs = theirs.contiguous(memory_format=torch.channels_last)
    ours = tg.from_dlpack(theirs)
    np.testing.assert_array_equal(ours.data, theirs.numpy())
    ours.data[1, 1, 1, 1] = -1
    assert theirs[1, 1, 1, 1] == -1
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr()
    assert back.stride() == theirs.stride()


def test_a_device_that_is_not_there():
    with pytest.raises(tg.DeviceError):
        tg.zeros(2, device="cuda:99")
    with pytest.raises(ValueError, match="'gpu' is no device; use 'cpu', 'cuda'"):
        tg.zeros(2, device="gpu")
