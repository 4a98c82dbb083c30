"""Convolution on a GPU: every version and tile against the definition.

Small whole numbers are exact in float32, TF32 and bfloat16, and so are their sums: on those every
version must give the very numbers of the definition. What rounding costs is tested apart, against
bounds that follow from the lengths of the mantissas.
"""

from __future__ import annotations

import contextlib
import json
from unittest import mock

import numpy as np
import pytest
from gpu import to_cpu, to_gpu
from helpers import LAYOUTS, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygen_kernels.layout import is_channels_last
from tinygen_kernels.reference import conv as reference

layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**20)
# Half a unit in the last place: of the factors, rounded to nearest.
ROUNDING = {"fp32": 0.0, "tf32": 2.0**-11, "bf16": 2.0**-8}
# Of a sum of products: float32, which tensor cores cut off instead of rounding.
ADDITION = 2.0**-23
TILES = [("fp32", *tile) for tile in [(128, 128), (64, 64), (128, 32)]] + [
    (arithmetic, *tile)
    for arithmetic in ("tf32", "bf16")
    for tile in [(128, 128), (128, 64), (64, 64), (128, 32)]
]
tiles = pytest.mark.parametrize("tile", TILES, ids=lambda t: "-".join(map(str, t)))


def pairs(low: int, high: int):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw, groups=(1,), channels=(1, 3, 4, 5, 8, 12)):
    """Shapes of input and weight, and options: channels that 4 divides, and others."""
    groups = draw(st.sampled_from(groups))
    c, o = (groups * draw(st.sampled_from(channels)) for _ in range(2))
    options = {
        "stride": draw(pairs(1, 3)),
        "padding": draw(pairs(0, 3)),
        "dilation": draw(pairs(1, 3)),
        "groups": groups,
    }
    kernel_size = draw(pairs(1, 4))
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 6))
        for k, p, d in zip(kernel_size, options["padding"], options["dilation"], strict=True)
    ]
    return (draw(st.integers(1, 2)), c, *size), (o, c // groups, *kernel_size), options


def case(x, weight, stride=1, padding=0, dilation=1, groups=1):
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return x, weight, {**{k: (v, v) for k, v in options.items()}, "groups": groups}


SPECIAL = {
    "1x1": case((2, 5, 4, 3), (7, 5, 1, 1)),
    "covers the input": case((3, 8, 4, 3), (7, 8, 4, 3)),
    "covers the input, stride 2": case((3, 5, 4, 3), (7, 5, 4, 3), stride=2),
    "a DCGAN's layer": case((2, 12, 8, 8), (20, 12, 4, 4), stride=2, padding=1),
    "stride above the kernel": case((2, 4, 11, 10), (4, 4, 2, 2), stride=3),
    "padding above the kernel": case((2, 18, 4, 5), (3, 18, 2, 2), padding=3),
    "one output far inside": case((1, 2, 9, 9), (3, 2, 3, 3), stride=9, dilation=4),
    "more phases than the core takes": case((1, 3, 11, 12), (4, 3, 5, 5), stride=5, padding=2),
    "more taps than the core takes": case((1, 2, 18, 18), (3, 2, 17, 17)),
    "depthwise": case((2, 6, 7, 8), (6, 1, 3, 3), padding=1, groups=6),
    "several tiles": case((3, 5, 13, 12), (70, 5, 3, 3), padding=1),
    "no input channels": case((2, 0, 5, 5), (3, 0, 3, 3)),
    "no output channels": case((2, 3, 5, 5), (0, 3, 3, 3)),
    "no images": case((0, 3, 5, 5), (4, 3, 3, 3)),
}


def whole(shape, dtype, rng) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(dtype)


def normal(shape, dtype, rng) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def products(kernels, problem, numbers, seed=0, dtype=np.float32, arrange=lambda x: x):
    """Output, input gradient and weight gradient, with bias and without."""
    x_shape, weight_shape, options = problem
    rng = np.random.default_rng(seed)
    out_size = [
        (i + 2 * p - d * (k - 1) - 1) // s + 1
        for i, k, s, p, d in zip(
            x_shape[2:], weight_shape[2:], options["stride"], options["padding"],
            options["dilation"], strict=True,
        )
    ]  # fmt: skip
    shapes = x_shape, weight_shape, (x_shape[0], weight_shape[0], *out_size)
    x, weight, grad = (arrange(numbers(shape, dtype, rng)) for shape in shapes)
    bias, channels_bias = (arrange(numbers((n,), dtype, rng)) for n in (len(weight), x_shape[1]))
    sizes = {"input_size": x_shape[2:], **options}
    return {
        "y": kernels.conv2d(x, weight, bias, **options),
        "y without bias": kernels.conv2d(x, weight, **options),
        "gx": kernels.conv2d_input_grad(grad, weight, **sizes),
        "gx with bias": kernels.conv2d_input_grad(grad, weight, channels_bias, **sizes),
        "gw": kernels.conv2d_weight_grad(x, grad, kernel_size=weight_shape[2:], **options),
    }


def check_exact(conv, problem, seed=0, dtype=np.float32, layout="C"):
    expected = products(reference, problem, whole, seed, dtype)
    found = products(conv, problem, whole, seed, dtype, lambda x: to_gpu(in_layout(x, layout)))
    for name, value in found.items():
        assert value.dtype == dtype
        assert is_channels_last(value), name
        np.testing.assert_array_equal(to_cpu(value), expected[name], err_msg=name)


def computing_with(gemm, *config):
    """Every product in this arithmetic, with this tile and so many splits."""
    return mock.patch.object(gemm, "choose", return_value=gemm.Config(*config))


@tiles
@settings(max_examples=8)
@given(problems(), st.integers(1, 3), seeds)
def test_every_tile_equals_the_definition(cuda_kernels, tile, problem, splits, seed):
    with computing_with(cuda_kernels("gemm"), *tile, splits):
        check_exact(cuda_kernels("conv"), problem, seed)


@tiles
def test_every_tile_on_more_than_one_of_it(cuda_kernels, tile):
    problem = case((2, 17, 7, 9), (132, 17, 2, 2), padding=1)
    with computing_with(cuda_kernels("gemm"), *tile, 2):
        check_exact(cuda_kernels("conv"), problem)


@settings(max_examples=25)
@given(problems(groups=(1, 1, 2, 3), channels=(1, 2, 4)), layouts, seeds)
def test_every_layout_equals_the_definition(cuda_kernels, problem, layout, seed):
    check_exact(cuda_kernels("conv"), problem, seed, layout=layout)


@settings(max_examples=15)
@given(problems(groups=(1, 1, 2, 3), channels=(1, 2, 4)), layouts, seeds)
def test_float64_equals_the_definition(cuda_kernels, problem, layout, seed):
    check_exact(cuda_kernels("conv"), problem, seed, np.float64, layout)


@settings(max_examples=15)
@given(problems(groups=(1, 2, 3), channels=(1, 2, 4)), seeds)
def test_the_plain_version_equals_the_definition(cuda_kernels, problem, seed):
    conv = cuda_kernels("conv")
    with mock.patch.object(conv, "planned", return_value=None):
        check_exact(conv, problem, seed)


@pytest.mark.parametrize("problem", SPECIAL.values(), ids=SPECIAL.keys())
def test_special_cases(cuda_kernels, problem):
    check_exact(cuda_kernels("conv"), problem)


# -------------------------------------------------------------------------------------- rounding


def absolute(shape, dtype, rng):
    return np.abs(normal(shape, dtype, rng))


@pytest.mark.parametrize("mode", ROUNDING)
@pytest.mark.parametrize("name", ["a DCGAN's layer", "covers the input", "several tiles"])
def test_rounding_stays_within_its_bound(cuda_kernels, mode, name):
    """|error| <= (2u + u²) Σ|a||b| of the factors, and a rounding of Σ|a||b| for each addition."""
    problem = SPECIAL[name]
    with cuda_kernels("precision").precision(mode):
        found = products(cuda_kernels("conv"), problem, normal, arrange=to_gpu)
    exact = products(reference, problem, lambda *args: normal(*args).astype(np.float64))
    sizes = products(reference, problem, lambda *args: absolute(*args).astype(np.float64))
    longest = max(np.prod(problem[0]), np.prod(problem[1]))  # terms of any of the sums
    u = ROUNDING[mode]
    for key, value in found.items():
        bound = (2 * u + u * u + longest * ADDITION) * sizes[key]
        error = np.abs(to_cpu(value) - exact[key])
        assert (error <= bound).all(), (key, (error / bound).max())
        assert u == 0 or error.max() > u / 20 * np.median(sizes[key]), f"{key}: nothing rounded"


def test_float64_is_not_rounded(cuda_kernels):
    problem = SPECIAL["a DCGAN's layer"]
    expected = products(reference, problem, normal, dtype=np.float64)
    found = products(cuda_kernels("conv"), problem, normal, dtype=np.float64, arrange=to_gpu)
    for name, value in found.items():
        np.testing.assert_allclose(to_cpu(value), expected[name], 1e-12, 1e-12, err_msg=name)


def test_long_sums_keep_their_digits(cuda_kernels):
    """Weight gradients over many pixels, of values with a common part, in every version."""
    conv, precision = cuda_kernels("conv"), cuda_kernels("precision")
    rng = np.random.default_rng(0)
    # Halves and quarters: exact as factors in any mode, so that only the sum can lose.
    x = rng.integers(2, 6, (4, 2, 30, 30)).astype(np.float32) / 4
    grad = rng.integers(2, 6, (4, 3, 30, 30)).astype(np.float32) / 4 + np.float32(2**-6)
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    options["kernel_size"] = (3, 3)
    expected = reference.conv2d_weight_grad(*(a.astype(np.float64) for a in (x, grad)), **options)
    for mode in precision.MODES:
        with precision.precision(mode):
            found = to_cpu(conv.conv2d_weight_grad(to_gpu(x), to_gpu(grad), **options))
        np.testing.assert_allclose(found, expected, 1e-5, err_msg=mode)


@pytest.mark.parametrize("mode", ROUNDING)
def test_nan_and_infinity_reach_every_result_that_reads_them(cuda_kernels, mode):
    rng = np.random.default_rng(0)
    options = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    x = rng.standard_normal((2, 4, 13, 12)).astype(np.float32)
    weight = rng.uniform(1, 2, (5, 4, 4, 4)).astype(np.float32)
    grad = rng.standard_normal((2, 5, 6, 6)).astype(np.float32)
    x[0, 1, 2, 3], x[1, 2, 9, 9] = np.nan, np.inf
    grad[0, 1, 1, 2], grad[1, 2, 4, 4] = np.nan, -np.inf
    for name, args, sizes in [
        ("conv2d", (x, weight), {}),
        ("conv2d_input_grad", (grad, weight), {"input_size": (13, 12)}),
        ("conv2d_weight_grad", (x, grad), {"kernel_size": (4, 4)}),
    ]:
        with np.errstate(invalid="ignore"):  # NumPy warns of Inf - Inf
            expected = getattr(reference, name)(*args, **sizes, **options)
        with cuda_kernels("precision").precision(mode):
            function = getattr(cuda_kernels("conv"), name)
            value = to_cpu(function(*map(to_gpu, args), **sizes, **options))
        assert np.isnan(expected).any()
        np.testing.assert_array_equal(np.isnan(value), np.isnan(expected), err_msg=name)
        infinite = np.isinf(expected)
        np.testing.assert_array_equal(np.isinf(value), infinite, err_msg=name)
        np.testing.assert_array_equal(value[infinite], expected[infinite], err_msg=name)


# ---------------------------------------------------------------------------------------- choice


def dcgan_products(conv, batch=128):
    """All products of a 64x64 discriminator, of which the generator's are mirror images."""
    layers = [(3, 64, 64), (64, 128, 32), (128, 256, 16), (256, 512, 8)]
    for c, o, side in layers:
        shape = conv.Shape(
            batch, c, (side, side), o, (side // 2, side // 2), (4, 4), (2, 2), (1, 1), (1, 1), 1
        )
        for build in (conv.output_product, conv.input_grad_product, conv.weight_grad_product):
            yield build(shape, (True, True))


@contextlib.contextmanager
def limits(gemm, processors, shared):
    """A GPU of so many multiprocessors, and bytes of shared memory for a block."""
    with mock.patch.object(gemm, "_limits", return_value=(processors, shared)):
        gemm._cheapest.cache_clear()
        yield
    gemm._cheapest.cache_clear()


def test_choices_keep_the_gpu_busy_and_fit_it(cuda_kernels):
    conv, gemm, precision = map(cuda_kernels, ("conv", "gemm", "precision"))
    for mode in precision.MODES:
        with precision.precision(mode), limits(gemm, 132, 2**17):
            for p in dcgan_products(conv):
                config = gemm.choose(p)
                assert config in gemm.candidates(p)
                assert config.arithmetic == mode
                tiles = -(-p.m // config.m) * -(-p.n // config.n) * p.phases * config.splits
                assert tiles >= 0.9 * 132, (p.key(mode), config)


def test_a_gpu_with_little_shared_memory_gets_small_tiles(cuda_kernels):
    conv, gemm, precision = map(cuda_kernels, ("conv", "gemm", "precision"))
    with precision.precision("fp32"), limits(gemm, 68, 2**16):
        for p in dcgan_products(conv):
            found = gemm.candidates(p)
            assert found
            assert all((c.m, c.n) != (128, 128) for c in found)


def test_a_measured_choice_goes_before_the_model(cuda_kernels):
    conv, gemm, precision = map(cuda_kernels, ("conv", "gemm", "precision"))
    product = next(dcgan_products(conv))
    key = product.key(precision.arithmetic())
    assert tuple(json.loads(json.dumps(key))) == key
    measured = gemm.candidates(product)[-1]
    assert measured != gemm.choose(product)
    with mock.patch.object(gemm.MEASURED, "get", {key: measured}.get):
        assert gemm.choose(product) == measured


@given(st.integers(0, 2**31 - 1), st.integers(1, 2**30), st.integers(-1, 1))
def test_division_by_multiplication(cuda_kernels, n, d, near):
    n = min(max(n // d * d + near, 0), 2**31 - 1)
    _, multiplier, shift = cuda_kernels("gemm_problem").divisor(d)
    assert multiplier < 2**32
    assert ((n * multiplier >> 32) + n) >> shift == n // d
    assert (n * multiplier >> 32) + n < 2**32


# -------------------------------------------------------------------------------------- precision


def test_modes_of_precision(cuda_kernels):
    precision = cuda_kernels("precision")
    before = precision.get()
    with contextlib.suppress(KeyError), precision.precision("bf16"):
        assert precision.get() == "bf16"
        raise KeyError
    assert precision.get() == before != "bf16"
    with pytest.raises(ValueError, match="'fp16' is no mode, choose one of fp32, tf32, bf16"):
        precision.set("fp16")


def test_a_gpu_without_tensor_cores_computes_in_float32(cuda_kernels):
    precision = cuda_kernels("precision")
    with mock.patch.object(precision, "_capability", return_value=75):
        for mode in precision.MODES:
            with precision.precision(mode):
                assert precision.arithmetic() == "fp32"
                check_exact(cuda_kernels("conv"), SPECIAL["1x1"])


# --------------------------------------------------------------------------------------- launches


def test_a_second_dtype_is_refused(cuda_kernels):
    conv = cuda_kernels("conv")
    x, weight = np.ones((1, 4, 5, 5), np.float32), np.ones((4, 4, 3, 3))
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    with pytest.raises(TypeError, match="weight is float64, the kernel reads float32"):
        conv.conv2d(to_gpu(x), to_gpu(weight), **options)
    with pytest.raises(TypeError, match="is float64, the kernel reads float32"):
        conv.conv2d_weight_grad(to_gpu(weight), to_gpu(x), **options | {"kernel_size": (3, 3)})


def test_sizes_beyond_32_bits_are_left_to_the_plain_kernels(cuda_kernels):
    conv = cuda_kernels("conv")
    builders = conv.output_product, conv.input_grad_product, conv.weight_grad_product
    one = 1, 1
    shape = conv.Shape(2**14, 64, (32, 32), 4, (32, 32), one, one, (0, 0), one, 1)
    assert not any(build(shape, one) for build in builders)
    assert all(build(shape._replace(n=2**13), one) for build in builders)
    far = shape._replace(n=1, kernel=(2, 1), dilation=(2**15, 1), padding=(2**14, 0))
    assert conv.output_product(far, one) is None
    assert conv.weight_grad_product(far, one) is None


def test_a_plain_launch_larger_than_its_grid(cuda_kernels):
    conv = cuda_kernels("conv")
    with mock.patch.object(conv, "MOST_BLOCKS", 1):
        check_exact(conv, SPECIAL["depthwise"])


@settings(max_examples=12)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["C", "offset"]),
    st.integers(1, 2**20),
)
def test_channels_go_last(cuda_kernels, shape, dtype, layout, grid):
    transpose = cuda_kernels("transpose")
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    with mock.patch.object(transpose, "MOST_BLOCKS", grid):
        found = transpose.channels_last(to_gpu(in_layout(x, layout)))
    assert is_channels_last(found)
    np.testing.assert_array_equal(to_cpu(found), x)


def test_inputs_are_left_alone(cuda_kernels):
    seen = []

    def remember(x):
        seen.append((to_gpu(x), x))
        return seen[-1][0]

    products(cuda_kernels("conv"), SPECIAL["several tiles"], normal, arrange=remember)
    assert len(seen) == 5
    for array, before in seen:
        np.testing.assert_array_equal(to_cpu(array), before)
