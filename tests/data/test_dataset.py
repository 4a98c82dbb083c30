import doctest
import subprocess
import sys

import numpy as np
import pytest

import tinygen.data
from tinygen.data import Dataset, dataset, loader, registry, to_float


@pytest.fixture
def small():
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 1, 2, 3)
    return Dataset(images, np.array([0, 1, 0, 1, 1]), ("a", "b"), "small")


def test_length_and_shape(small):
    assert len(small) == 5
    assert small.image_shape == (1, 2, 3)


def test_repr_states_count_shape_classes_and_memory(small):
    assert repr(small) == "Dataset('small', 'train': 5 images 1×2×3, 2 classes, 0.0 MB)"


@pytest.mark.parametrize(
    "indices", [slice(1, 4), np.array([4, 0]), np.array([True, False, True, False, True])]
)
def test_take_keeps_images_and_labels_together(small, indices):
    part = small.take(indices)
    np.testing.assert_array_equal(part.images, small.images[indices])
    np.testing.assert_array_equal(part.labels, small.labels[indices])
    assert (part.classes, part.name, part.split) == (small.classes, "small", "train")


def test_take_without_labels(small):
    assert Dataset(small.images).take(slice(2)).labels is None


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 1, 3, 3)), None, "float64"),
        (np.zeros((2, 3, 3), np.uint8), None, r"\(2, 3, 3\)"),
        (np.zeros((2, 4, 3, 3), np.uint8), None, "C = 1 or 3"),
        (np.zeros((2, 1, 3, 3), np.uint8), np.zeros(3, np.int64), r"labels of shape \(3,\)"),
        (np.zeros((2, 1, 3, 3), np.uint8), np.zeros(2, np.int32), "int32"),
    ],
)
def test_wrong_arrays_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Dataset(images, labels)


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
def test_to_float_maps_the_ends_and_is_even(value_range):
    values = to_float(np.arange(256, dtype=np.uint8), value_range)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, np.linspace(*value_range, 256), atol=4e-7)


def test_to_float_reaches_one_exactly():
    ends = np.array([0, 255], dtype=np.uint8)
    assert to_float(ends).tolist() == [-1.0, 1.0]
    assert to_float(ends, (0.0, 1.0)).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("module", [dataset, loader, registry])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_import_leaves_slow_libraries_alone():
    script = (
        "import sys, tinygen\n"
        "before = set(sys.modules)\n"
        "import tinygen.data\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = output.stdout.decode().split()
    assert "tinygen.data.registry" in loaded
    assert not {"PIL", "tqdm", "scipy", "http.client", "urllib.request"}.intersection(loaded)


def test_public_names_exist():
    assert all(hasattr(tinygen.data, name) for name in tinygen.data.__all__)
