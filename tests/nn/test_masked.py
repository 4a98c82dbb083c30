"""Masked layers: their masks entry by entry, and what each output can see."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import values

import tinygen as tg
from tinygen import Tensor, nn
from tinygen import functional as F


def full_kernel(layer):
    """1 where the layer has a weight that counts, (O, C, KH, KW)."""
    full = np.zeros((layer.out_channels, layer.in_channels, *layer.kernel_size))
    for index, (kh, kw) in enumerate(layer.taps):
        full[:, :, kh, kw] = 1 if layer.mask is None else layer.mask.data[:, :, index]
    return full


def test_grey_masks():
    def live(kernel_size, mask):
        return full_kernel(nn.MaskedConv2d(1, 1, kernel_size, mask=mask))[0, 0].tolist()

    assert live(3, "A") == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert live(3, "B") == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert live(3, "rows") == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert live((1, 3), "B") == [[1, 1, 0]]
    assert len(nn.MaskedConv2d(1, 4, 7, mask="A").taps) == 24
    assert len(nn.MaskedConv2d(4, 4, 3, mask="B").taps) == 5


def test_the_centre_of_colour_masks():
    """The tables of the paper's figure 2: rows are outputs R, G, B, columns are inputs."""
    centre = {
        mask: full_kernel(nn.MaskedConv2d(3, 3, 3, mask=mask, colours=3))[:, :, 1, 1].tolist()
        for mask in "AB"
    }
    assert centre["A"] == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert centre["B"] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_colours_of_channels_that_three_does_not_divide():
    assert nn.colour_of(8, 3).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert nn.colour_of(6, 3).tolist() == [0, 0, 1, 1, 2, 2]


def test_each_gate_has_the_mask_from_its_first_colour_on():
    """16 channels in 4 gates of 4: thirds of the 16 would cut through the gates."""
    layer = nn.MaskedConv2d(5, 16, 1, colours=3, gates=4)
    one = full_kernel(nn.MaskedConv2d(5, 4, 1, colours=3))
    np.testing.assert_array_equal(full_kernel(layer), np.concatenate([one] * 4))


def test_masked_weights_get_no_gradient_and_do_nothing():
    layer = nn.MaskedConv2d(3, 6, 3, mask="A", colours=3)
    x = Tensor(values((2, 3, 4, 5), 0, dtype=np.float32))
    before = layer(x)
    (before * before).sum().backward()
    dead = layer.mask.data == 0
    assert dead.any()
    assert (layer.weight.grad.data[dead] == 0).all()
    with tg.no_grad():
        layer.weight.add_(Tensor((100 * dead).astype(np.float32)))
    np.testing.assert_array_equal(layer(x).data, before.data)


def test_state_dicts_travel():
    a, b = (nn.MaskedConv2d(3, 6, 3, colours=3) for _ in range(2))
    b.load_state_dict(a.state_dict())
    x = Tensor(values((1, 3, 4, 4), 0, dtype=np.float32))
    np.testing.assert_array_equal(a(x).data, b(x).data)
    assert set(a.state_dict()) == {"weight", "bias", "mask"}


def seen(layer, shape, pixel):
    """Which pixels of the input the outputs at `pixel` depend on: a picture of 0 and 1."""
    tg.manual_seed(0)
    x = Tensor(values(shape, 0), requires_grad=True)
    output = layer.double()(x)
    output = sum(output) if isinstance(output, tuple) else output
    i, j = pixel
    gradient = tg.grad((output * output)[:, :, i, j].sum(), x)
    return (gradient.data != 0).any((0, 1)).astype(int).tolist()


def test_what_the_scans_see():
    shape = (2, 2, 3, 5)
    assert seen(nn.RowLSTM(2, 3, 5), shape, (2, 2)) == [
        [1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 0, 0],
    ]  # fmt: skip
    assert seen(nn.DiagonalLSTM(2, 3, 3), shape, (2, 2)) == [
        [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0],
    ]  # fmt: skip
    assert seen(nn.DiagonalLSTM(2, 3, 3, reverse=True), shape, (1, 2)) == [
        [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0],
    ]  # fmt: skip
    assert seen(nn.DiagonalBiLSTM(2, 3, 3), shape, (1, 2)) == [
        [1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0],
    ]  # fmt: skip


def test_the_layers_are_their_functions():
    x = Tensor(values((2, 3, 4, 5), 0, dtype=np.float32))
    row = nn.RowLSTM(3, 2, 5, kernel_size=5)
    z = row.input_to_state(x)
    expected = F.row_lstm(z, row.state_to_state, row.h0, row.c0)
    np.testing.assert_array_equal(row(x).data, expected.data)
    both = nn.DiagonalBiLSTM(3, 2, 4)
    left, right = both(x)
    np.testing.assert_array_equal(left.data, both.left(x).data)
    np.testing.assert_array_equal(right.data[:, :, 1:], both.right(x).data[:, :, :-1])
    assert (right.data[:, :, 0] == 0).all()


def test_the_forget_gate_starts_open_and_all_parameters_learn():
    for layer in (nn.RowLSTM(3, 2, 5), nn.DiagonalBiLSTM(3, 2, 4)):
        output = layer(Tensor(values((2, 3, 4, 5), 0, dtype=np.float32)))
        sum((y * y).sum() for y in (output if isinstance(output, tuple) else [output])).backward()
        for name, parameter in layer.named_parameters():
            assert np.abs(parameter.grad.data).max() > 0, name
            if name.endswith("to_state.bias"):
                assert parameter.data[2:4].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.MaskedConv2d(1, 1, 4), "kernel_size=4 has no centre: it must be odd"),
        (lambda: nn.MaskedConv2d(1, 1, 3, mask="C"), "mask='C' must be one of A, B, rows"),
        (lambda: nn.MaskedConv2d(1, 6, 3, gates=4), "gates=4 must divide out_channels=6"),
        (lambda: nn.MaskedConv2d(1, 6, 3, colours=3), "3 colours need at least as many channels"),
        (lambda: nn.MaskedConv2d(1, 1, 1, mask="A"), "mask 'A' leaves nothing of a kernel of"),
    ],
)
def test_messages(make, text):
    with pytest.raises(ValueError, match="MaskedConv2d: ") as caught:
        make()
    assert text in str(caught.value)
