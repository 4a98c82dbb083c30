"""Every function of the tape on a GPU gives what it gives on the CPU, gradients included."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import values

import tinygen
from tinygen import Tensor, nn
from tinygen import functional as F
from tinygen.autograd import grad

INDEX = np.array([2, 0, 2, 1])
PLACES = np.array([[2, 0, 1], [0, 0, 2], [1, 2, 0], [2, 2, 2]])


def shaped(*shapes, **options):
    return [values(shape, seed, **options) for seed, shape in enumerate(shapes)]


X = (4, 3)
IMAGES = (2, 3, 6, 5)
POSITIVE = {"low": 0.3, "high": 2.0}
KINKS = {"kinks": (0.0,)}
# name -> (function, inputs)
CASES = {
    "arithmetic": (lambda a, b: (a + b) * a / b - 2 * b + 1 / a, shaped(X, (3,), **POSITIVE)),
    "powers": (lambda a: a**3 + F.sqrt(a) + F.log(a) + F.log1p(a), shaped(X, **POSITIVE)),
    "exponentials": (lambda a: F.exp(a) * F.expm1(a) + F.sin(a) * F.cos(a), shaped(X)),
    "absolute": (lambda a: F.abs(a) + F.clip(a, -1.0, 0.5), shaped(X, kinks=(-1.0, 0.0, 0.5))),
    "extremes": (lambda a, b: F.maximum(a, b) - F.minimum(a, b), shaped(X, X)),
    "where": (lambda a, b: F.where(a > 0, a, b), shaped(X, X, **KINKS)),
    "matmul": (F.matmul, shaped((4, 5), (5, 3))),
    "matmul of batches": (F.matmul, shaped((2, 4, 5), (2, 5, 3))),
    "matmul of vectors": (lambda a, b: F.matmul(a, b), shaped((5,), (5, 3))),
    "linear": (F.linear, shaped((2, 4, 5), (3, 5), (3,))),
    "embedding": (lambda w: F.embedding(index_like(INDEX, w), w), shaped((3, 4))),
    "sums": (lambda a: a.sum(0) * a.mean(0) + a.sum(), shaped(X)),
    "spread": (lambda a: a.var(1, correction=1) + a.std(1), shaped(X)),
    "largest": (lambda a: a.max(0) - a.min(0), shaped(X)),
    "cumsum": (lambda a: F.cumsum(a, 1), shaped(X)),
    "shapes": (lambda a: a.reshape(2, 6).T.unsqueeze(0).expand(2, 6, 2).flatten(1), shaped(X)),
    "flips": (lambda a: F.flip(a, 0) + F.roll(a, 1, 1), shaped(X)),
    "pad": (lambda a: F.pad(a, (1, 0, 0, 2), value=3.0), shaped(X)),
    "slices": (lambda a: a[1:, ::2] * a[0, None, 1:], shaped(X)),
    "index": (lambda a: a[index_like(INDEX, a)], shaped(X)),
    "gather": (lambda a: F.gather(a, 0, index_like(PLACES, a)), shaped(X)),
    "cat": (lambda a, b: F.cat([a, b]).split(3)[1], shaped(X, (2, 3))),
    "stack": (lambda a, b: F.stack([a, b], 1), shaped(X, X)),
    "softmax": (lambda a: F.softmax(a) * F.log_softmax(a, 0), shaped(X)),
    "logsumexp": (lambda a: F.logsumexp(a, 1), shaped(X)),
    "erf": (lambda a: F.erf(a) + F.gelu(a) + F.gelu(a, approximate="tanh"), shaped(X)),
    "conv": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
        shaped(IMAGES, (4, 3, 3, 3), (4,)),
    ),
    "dilated conv": (
        lambda x, w: F.conv2d(x, w, dilation=2, padding=2),
        shaped(IMAGES, (4, 3, 3, 3)),
    ),
    "grouped conv": (
        lambda x, w: F.conv2d(x, w, groups=3, padding=1),
        shaped(IMAGES, (6, 1, 3, 3)),
    ),
    "transposed conv": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1),
        shaped(IMAGES, (3, 4, 3, 3), (4,)),
    ),
    "max pool": (lambda x: F.max_pool2d(x, kernel_size=2), shaped(IMAGES)),
    "average pool": (
        lambda x: F.avg_pool2d(x, kernel_size=3, stride=2, padding=1),
        shaped(IMAGES),
    ),
    "resize": (lambda x: F.interpolate(x, scale_factor=2), shaped(IMAGES)),
    "batch norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True, activation="relu"),
        shaped(IMAGES, (3,), (3,)),
    ),
    "layer norm": (lambda x, w, b: F.layer_norm(x, 5, w, b), shaped(IMAGES, (5,), (5,))),
    "cross entropy": (lambda x: F.cross_entropy(x, index_like(INDEX % 3, x)), shaped(X)),
    "binary cross entropy": (
        lambda x, t: F.binary_cross_entropy_with_logits(x, F.sigmoid(t)),
        shaped(X, X),
    ),
    "squared error": (F.mse_loss, shaped(X, X)),
    "read window": (lambda x, w: F.read_window(x, w, 3), shaped(IMAGES, (2, 5))),
    "write window": (lambda p, w: F.write_window(p, w, 6, 5), shaped((2, 3, 2, 2), (2, 5))),
}
for _name in ("relu", "leaky_relu", "elu", "softplus", "sigmoid", "tanh", "silu"):
    CASES[_name] = (getattr(F, _name), shaped(IMAGES, **KINKS))


def index_like(index: np.ndarray, x) -> Tensor:
    """Indices where x lies."""
    return tinygen.tensor(index, device=x.device)


@pytest.fixture(autouse=True)
def fp32(cuda_kernels):
    tinygen.device.check("cuda")
    with cuda_kernels("precision").precision("fp32"):
        yield


def with_gradients(function, inputs, device: str) -> list[np.ndarray]:
    """The value, the gradients, and those of a function of the gradients."""
    leaves = [tinygen.tensor(x, device=device, requires_grad=True) for x in inputs]
    out = function(*leaves)
    assert out.device.partition(":")[0] == device
    weights = tinygen.tensor(values(out.shape, 9, dtype=out.dtype), device=device)
    firsts = grad((out * weights).sum(), leaves, create_graph=True)
    total = sum((g * g).sum() for g in firsts)
    seconds = grad(total, leaves, allow_unused=True) if total.requires_grad else []
    results = [out, *firsts, *[g for g in seconds if g is not None]]
    assert all(r.dtype == inputs[0].dtype for r in results)
    return [r.detach().cpu().numpy() for r in results]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu(name, dtype):
    function, inputs = CASES[name]
    inputs = [x.astype(dtype) for x in inputs]
    expected = with_gradients(function, inputs, "cpu")
    got = with_gradients(function, inputs, "cuda")
    tolerance = 3e-5 if dtype == np.float32 else 1e-10
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance * np.abs(b).max(initial=1))


LAYERS = {
    "lstm": lambda: nn.LSTM(3, 5, num_layers=2, bidirectional=True),
    "gru": lambda: nn.GRU(3, 5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers_equal_the_cpu(name):
    x = values((4, 2, 3), 0, dtype=np.float32)
    results = []
    for device in ("cpu", "cuda"):
        tinygen.manual_seed(0)
        layer = LAYERS[name]().to(device)
        x_there = tinygen.tensor(x, device=device, requires_grad=True)
        out, _ = layer(x_there)
        (out * out).sum().backward()
        results.append([out, x_there.grad, *[p.grad for p in layer.parameters()]])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b.detach().cpu().numpy(), a.detach().numpy(), 1e-4, 1e-5)


def test_running_statistics_and_dropout():
    x = values(IMAGES, 0, dtype=np.float32)
    results = []
    for device in ("cpu", "cuda"):
        tinygen.manual_seed(0)
        norm = nn.BatchNorm2d(3).to(device)
        for _ in range(3):
            y = F.dropout(norm(tinygen.tensor(x, device=device)), 0.4)
        norm.eval()
        z = norm(tinygen.tensor(x, device=device))
        results.append([y, z, *norm.state_dict().values()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b.detach().cpu().numpy(), a.detach().numpy(), 1e-5, 1e-6)


def test_clipping_the_norm_of_gradients():
    results = []
    for device in ("cpu", "cuda"):
        w = tinygen.tensor(values(X, 0, dtype=np.float32), device=device, requires_grad=True)
        (w * w).sum().backward()
        norm = nn.utils.clip_grad_norm_([w], 0.5)
        results.append([float(norm), *w.grad.cpu().numpy().ravel()])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


def test_arrays_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="arrays on cpu and cuda:0; move them to one"):
        tinygen.ones(3) + tinygen.ones(3, device="cuda")


def test_copies_keep_channels_last_memory():
    x = tinygen.tensor(np.zeros((2, 3, 4, 5), np.float32).transpose(0, 3, 1, 2))
    there = x.to("cuda")
    assert there.data.strides == x.data.strides
    assert there.cpu().data.strides == x.data.strides


def test_precision_is_that_of_products_alone(cuda_kernels):
    x, weight = (tinygen.tensor(values(s, 0, dtype=np.float32)) for s in ((40, 50), (30, 50)))
    exact = F.linear(x.double(), weight.double()).numpy()
    errors = {}
    for precision in ("bf16", "tf32", "fp32"):
        tinygen.set_precision(precision)
        y = F.linear(x.to("cuda"), weight.to("cuda")).cpu().numpy()
        errors[precision] = np.abs(y - exact).max() / np.abs(exact).max()
        wide = F.linear(x.double().to("cuda"), weight.double().to("cuda")).cpu().numpy()
        np.testing.assert_allclose(wide, exact, 1e-12, 1e-12)
    assert errors["fp32"] < 1e-6 < errors["tf32"] < 2**-10 < errors["bf16"] < 2**-7
