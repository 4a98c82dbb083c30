"""Every layer beside PyTorch's: the same names, shapes, dtypes, results and gradients."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import values

import tinygen as tg
from tinygen import nn

torch = pytest.importorskip("torch")

# What builds the layer from either library's `nn`, and the shape of its input.
LAYERS = {
    "Linear": (lambda nn: nn.Linear(3, 4), (5, 3)),
    "Linear without bias": (lambda nn: nn.Linear(3, 4, bias=False), (2, 5, 3)),
    "Embedding": (lambda nn: nn.Embedding(7, 3), None),
    "Conv1d": (lambda nn: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "Conv2d": (lambda nn: nn.Conv2d(3, 4, kernel_size=4, stride=2, padding=1, bias=False),
               (2, 3, 8, 8)),
    "Conv2d with all options": (
        lambda nn: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2), (2, 4, 7, 6)),
    "ConvTranspose1d": (lambda nn: nn.ConvTranspose1d(4, 2, 3, 2, 1, 1), (2, 4, 5)),
    "ConvTranspose2d": (lambda nn: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
                        (2, 4, 5, 4)),
    "BatchNorm1d": (lambda nn: nn.BatchNorm1d(3), (5, 3)),
    "BatchNorm1d of sequences": (lambda nn: nn.BatchNorm1d(3, eps=1e-3, momentum=0.3), (5, 3, 4)),
    "BatchNorm2d": (lambda nn: nn.BatchNorm2d(3), (2, 3, 4, 5)),
    "BatchNorm2d, plain average": (lambda nn: nn.BatchNorm2d(3, momentum=None), (2, 3, 4, 5)),
    "BatchNorm2d without affine": (lambda nn: nn.BatchNorm2d(3, affine=False), (2, 3, 4, 5)),
    "BatchNorm2d without running statistics": (
        lambda nn: nn.BatchNorm2d(3, track_running_stats=False), (2, 3, 4, 5)),
    "LayerNorm": (lambda nn: nn.LayerNorm(4), (2, 3, 4)),
    "LayerNorm of two axes": (
        lambda nn: nn.LayerNorm((3, 4), elementwise_affine=False), (2, 3, 4)),
    "LSTM": (lambda nn: nn.LSTM(3, 4), (5, 2, 3)),
    "LSTM with all options": (
        lambda nn: nn.LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True), (2, 5, 3)),
    "LSTM without bias": (lambda nn: nn.LSTM(3, 4, bias=False), (5, 2, 3)),
    "GRU": (lambda nn: nn.GRU(3, 4), (5, 2, 3)),
    "GRU with all options": (
        lambda nn: nn.GRU(3, 4, num_layers=2, batch_first=True, bidirectional=True), (2, 5, 3)),
    "LSTMCell": (lambda nn: nn.LSTMCell(3, 4), (2, 3)),
    "GRUCell": (lambda nn: nn.GRUCell(3, 4, bias=False), (2, 3)),
    "ReLU": (lambda nn: nn.ReLU(inplace=True), (2, 3)),
    "LeakyReLU": (lambda nn: nn.LeakyReLU(0.2, inplace=True), (2, 3)),
    "ELU": (lambda nn: nn.ELU(0.5), (2, 3)),
    "Softplus": (lambda nn: nn.Softplus(), (2, 3)),
    "Sigmoid": (lambda nn: nn.Sigmoid(), (2, 3)),
    "Tanh": (lambda nn: nn.Tanh(), (2, 3)),
    "GELU": (lambda nn: nn.GELU(), (2, 3)),
    "GELU, approximate": (lambda nn: nn.GELU(approximate="tanh"), (2, 3)),
    "SiLU": (lambda nn: nn.SiLU(), (2, 3)),
    "Softmax": (lambda nn: nn.Softmax(dim=1), (2, 3, 4)),
    "LogSoftmax": (lambda nn: nn.LogSoftmax(dim=-1), (2, 3, 4)),
    "Identity": (lambda nn: nn.Identity(54, unused=0.1), (2, 3)),
    "Flatten": (lambda nn: nn.Flatten(), (2, 3, 4)),
    "Flatten the first": (lambda nn: nn.Flatten(0, 1), (2, 3, 4)),
    "Unflatten": (lambda nn: nn.Unflatten(1, (3, 2, 1)), (2, 6)),
    "Unflatten the last": (lambda nn: nn.Unflatten(-1, (2, 2)), (3, 4)),
    "MaxPool2d": (lambda nn: nn.MaxPool2d(2), (2, 3, 6, 5)),
    "MaxPool2d with all options": (lambda nn: nn.MaxPool2d(3, 2, 1, 2), (2, 3, 8, 8)),
    "AvgPool2d": (lambda nn: nn.AvgPool2d(3, stride=2, padding=1), (2, 3, 6, 5)),
    "AvgPool2d of what is there": (
        lambda nn: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 3, 6, 5)),
    "Upsample": (lambda nn: nn.Upsample(scale_factor=2, mode="nearest"), (2, 3, 4, 3)),
    "Upsample to a size": (lambda nn: nn.Upsample(size=(5, 7)), (2, 3, 4, 3)),
    "Dropout of nothing": (lambda nn: nn.Dropout(0.0, inplace=True), (2, 3)),
    "Sequential": (lambda nn: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True),
        nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.ReLU()),
    ), (3, 3, 4, 4)),
}  # fmt: skip
layers = pytest.mark.parametrize("name", LAYERS)


def pair(name):
    """Our layer and PyTorch's in float64, with PyTorch's starting values in both."""
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    ours, theirs = build(nn), build(torch.nn)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours.to(np.float64), theirs.double(), shape


def inputs(name, shape, seed=0):
    if shape is None:
        index = np.array([[0, 3, 3], [6, 1, 0]])
        return tg.Tensor(index), torch.tensor(index)
    x = values(shape, seed)
    return tg.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)


def flat(results):
    """(output, (h, c)) and the like as a list."""
    if isinstance(results, tuple):
        return [x for part in results for x in flat(part)]
    return [results]


@layers
def test_state_dicts_have_the_same_names_shapes_and_dtypes(name):
    build, _ = LAYERS[name]

    def described(state):
        return [(k, tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in state]

    ours, theirs = build(nn), build(torch.nn)
    assert described(ours.state_dict().items()) == described(theirs.state_dict().items())
    assert described(ours.named_parameters()) == described(theirs.named_parameters())
    assert described(ours.named_buffers()) == described(theirs.named_buffers())


@layers
def test_results_and_gradients_are_the_same(name):
    """Twice in training, so that running statistics move, then in evaluation."""
    ours, theirs, shape = pair(name)
    for seed, training in enumerate((True, True, False)):
        ours.train(training)
        theirs.train(training)
        x, other_x = inputs(name, shape, seed)
        # A fresh copy for PyTorch: an activation in place may not write to a leaf.
        results, expected = flat(ours(x)), flat(theirs(other_x.clone()))
        for mine, other in zip(results, expected, strict=True):
            np.testing.assert_allclose(mine.data, other.detach(), 1e-10, 1e-12)
        weights = [values(y.shape, i) for i, y in enumerate(results)]
        ours.zero_grad()
        theirs.zero_grad()
        sum((y * tg.Tensor(w)).sum() for y, w in zip(results, weights, strict=True)).backward()
        sum((y * torch.tensor(w)).sum() for y, w in zip(expected, weights, strict=True)).backward()
        if shape is not None:
            np.testing.assert_allclose(x.grad.data, other_x.grad, 1e-9, 1e-11)
        for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(p.grad.data, q.grad, 1e-9, 1e-11, err_msg=key)
    for (key, mine), other in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        np.testing.assert_allclose(mine.data, other, 1e-11, 1e-12, err_msg=key)


@layers
def test_repr_is_one_readable_text(name):
    layer = LAYERS[name][0](nn)
    assert type(layer).__name__ in repr(layer)
    assert "object at" not in repr(layer)


RECURRENT = [name for name in LAYERS if "LSTM" in name or "GRU" in name]


@pytest.mark.parametrize("name", RECURRENT)
def test_states_are_passed_on(name):
    ours, theirs, shape = pair(name)
    x, other_x = inputs(name, shape)
    first, other_first = ours(x), theirs(other_x)
    state, other_state = (first, other_first) if "Cell" in name else (first[1], other_first[1])
    for mine, other in zip(flat(ours(x, state)), flat(theirs(other_x, other_state)), strict=True):
        np.testing.assert_allclose(mine.data, other.detach(), 1e-10, 1e-12)


@pytest.mark.parametrize("reduction", [None, "mean", "sum", "none"])
@pytest.mark.parametrize("name", ["BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss"])
def test_losses(name, reduction):
    options = {} if reduction is None else {"reduction": reduction}
    x = values((3, 4), 0)
    target = (
        np.array([0, 3, 1]) if name == "CrossEntropyLoss" else values((3, 4), 1, low=0, high=1)
    )
    mine, other = tg.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    loss = getattr(nn, name)(**options)(mine, tg.Tensor(target))
    expected = getattr(torch.nn, name)(**options)(other, torch.tensor(target))
    np.testing.assert_allclose(loss.data, expected.detach(), 1e-12)
    loss.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(mine.grad.data, other.grad, 1e-11)


def test_starting_values_have_pytorch_s_spread():
    tg.manual_seed(0)
    for build in (
        lambda nn: nn.Linear(50, 60),
        lambda nn: nn.Conv2d(8, 16, (4, 3)),
        lambda nn: nn.ConvTranspose2d(16, 8, 4),
        lambda nn: nn.Conv1d(16, 12, 5, groups=2),
        lambda nn: nn.LSTM(20, 30),
        lambda nn: nn.GRUCell(20, 30),
        lambda nn: nn.Embedding(100, 20),
    ):
        ours, theirs = build(nn), build(torch.nn)
        largest = max(float(q.detach().abs().max()) for q in theirs.parameters())
        for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            p, q = p.data, q.detach().numpy()
            assert abs(p.mean() - q.mean()) < 6 * largest / np.sqrt(p.size), key
            if p.size >= 100:
                assert abs(p.std() / q.std() - 1) < 6 / np.sqrt(p.size), key
            if not isinstance(ours, nn.Embedding):  # all others are uniform
                assert 0.5 * largest < np.abs(p).max() <= 1.05 * largest, key


def test_dropout_only_in_training():
    layer = nn.Dropout(0.5)
    x = tg.ones(100)
    tg.manual_seed(0)
    assert (layer(x).data == 0).any()
    layer.eval()
    assert layer(x) is x


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.Conv2d(4, 6, 3, groups=3),
         "Conv2d: groups=3 must divide in_channels=4 and out_channels=6"),
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=4), "ConvTranspose2d: groups=4 must divide"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)),
         "Conv2d: kernel_size=(3, 3, 3) must be an integer, or 2 of them, of at least 1"),
        (lambda: nn.Conv1d(3, 4, 0), "Conv1d: kernel_size=0 must be an integer of at least 1"),
        (lambda: nn.Conv2d(3, 4, 3)(tg.ones(1, 2, 5, 5)),
         "conv2d: input (1, 2, 5, 5), weight (4, 3, 3, 3), groups=1: the weight is"),
        (lambda: nn.BatchNorm2d(3)(tg.ones(2, 3)),
         "BatchNorm2d: input (2, 3) must have 4 axes and 3 channels (axis 1)"),
        (lambda: nn.BatchNorm1d(3)(tg.ones(2, 4)),
         "BatchNorm1d: input (2, 4) must have 2 or 3 axes and 3 channels (axis 1)"),
        (lambda: nn.BatchNorm2d(3)(tg.ones(1, 3, 1, 1)), "has no variance"),
        (lambda: nn.LayerNorm(3)(tg.ones(2, 4)), "layer_norm: the last axes of input (2, 4)"),
    ],
)  # fmt: skip
def test_messages(call, text):
    with pytest.raises(ValueError) as caught:
        call()
    assert text in str(caught.value)
