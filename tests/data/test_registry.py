import os
from pathlib import Path

import numpy as np
import pytest

from tinygen.data import DATASETS, DataError, load
from tinygen.data.download import EMBEDDED

from .pictures import encoded, picture, write


@pytest.fixture
def large_sets():
    """The folder of the larger sets; where it is not given, these tests are skipped."""
    if "TINYGEN_DATA" not in os.environ:
        pytest.skip("TINYGEN_DATA is not set")
    return Path(os.environ["TINYGEN_DATA"])


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No set but the embedded ones, and a fault where the network is used."""
    monkeypatch.setenv("TINYGEN_DATA", str(tmp_path))

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.usefixtures("offline")
def test_the_default_set():
    train, validation = load(), load(split="validation")
    assert (train.name, len(train), len(validation)) == ("fashion-small", 9000, 1000)
    assert train.image_shape == (1, 28, 28)
    assert train.classes[9] == "Ankle boot"
    assert np.bincount(np.concatenate([train.labels, validation.labels])).tolist() == 10 * [1000]
    assert train.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert not {image.tobytes() for image in train.images}.intersection(
        image.tobytes() for image in validation.images
    )


@pytest.mark.usefixtures("offline")
def test_the_colour_set():
    train, validation = load("emoji"), load("emoji", split="validation")
    assert (len(train), len(validation)) == (1702, 189)
    assert train.image_shape == (3, 64, 64)
    assert len(train.classes) == 9
    pictures = np.concatenate([train.images, validation.images])
    assert len({image.tobytes() for image in pictures}) == len(pictures)
    corners = pictures[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).mean() > 0.9  # a plain ground
    colours = pictures.max(axis=1) - pictures.min(axis=1)
    assert (colours.max(axis=(1, 2)) > 64).mean() > 0.8


@pytest.mark.usefixtures("offline")
def test_the_embedded_files_are_small_and_licensed():
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert "MIT License" in (EMBEDDED / "fashion-mnist" / "LICENSE").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE" in (EMBEDDED / "emoji" / "OFL.txt").read_text(encoding="utf-8")


@pytest.mark.usefixtures("offline")
def test_the_embedded_file_serves_the_full_set_too():
    test, train = load("fashion-mnist", split="test"), load()
    np.testing.assert_array_equal(test.images[:9], train.images[:9])
    assert len(test) == 10_000


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("image_size", "channels"), [(32, None), (64, 3), (None, 3)])
def test_size_and_channels(image_size, channels):
    data = load(split="validation", image_size=image_size, channels=channels)
    side = image_size or 28
    assert data.image_shape == (channels or 1, side, side)
    assert data.images.max() > 200


@pytest.mark.parametrize("name", DATASETS)
def test_an_unknown_split_lists_the_splits(name):
    with pytest.raises(DataError) as caught:
        load(name, split="dev")
    expected = ", ".join(DATASETS[name].splits)
    assert str(caught.value) == f"{name} has no split 'dev'; it has {expected}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("minst", "'mnist'"), ("cifar-10", "'cifar10'"), ("tiny_imagenet", "'tiny-imagenet'")],
)
def test_an_unknown_name_lists_the_names_and_the_closest(name, hint):
    with pytest.raises(
        DataError, match=f"data set or folder '{name}'; did you mean {hint}"
    ) as caught:
        load(name)
    assert str(caught.value).endswith(f"known sets: {', '.join(DATASETS)}")


def test_an_unknown_name_like_no_other():
    with pytest.raises(DataError, match="'qqq'; known sets: fashion-small"):
        load("qqq")


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="image_size=0"):
        load(image_size=0)
    with pytest.raises(ValueError, match="channels=2"):
        load(channels=2)


def test_folders_by_path_and_by_name(tmp_path, monkeypatch):
    write(tmp_path / "pictures" / "a.png", encoded(picture()))
    assert load(tmp_path / "pictures").image_shape == (3, 8, 8)
    assert load(str(tmp_path / "pictures"), image_size=4, channels=1).image_shape == (1, 4, 4)
    monkeypatch.chdir(tmp_path)
    assert load("pictures").name == "pictures"
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match="no pictures in mnist"):
        load(Path("mnist"))  # a Path is a folder, even where a set has its name
    for missing in ("no/where", "nowhere.zip", Path("nowhere")):
        with pytest.raises(DataError, match=f"there is no folder or zip file {missing}"):
            load(missing)


def test_a_missing_set_says_where_it_belongs(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is not at hand") as caught:
        load("mnist", root=tmp_path, download=False)
    assert str(tmp_path / "mnist" / "train-images-idx3-ubyte.gz") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "split", "size", "shape", "first_labels", "mean"),
    [
        ("mnist", "train", 60_000, (1, 28, 28), [5, 0, 4, 1, 9], 0.1307),
        ("mnist", "test", 10_000, (1, 28, 28), [7, 2, 1, 0, 4], 0.1325),
        ("fashion-mnist", "train", 60_000, (1, 28, 28), [9, 0, 0, 3, 0], 0.2860),
        ("omniglot", "test", 13_180, (1, 105, 105), [0, 0, 0, 0, 0], 0.0844),
    ],
)
def test_the_large_sets(large_sets, name, split, size, shape, first_labels, mean):
    if not (large_sets / name).is_dir():
        pytest.skip(f"no {name} in TINYGEN_DATA")
    data = load(name, split=split, download=False)
    assert (len(data), data.image_shape) == (size, shape)
    assert data.labels[:5].tolist() == first_labels
    assert data.images.mean() / 255 == pytest.approx(mean, abs=5e-4)
    counts = np.bincount(data.labels, minlength=len(data.classes))
    assert counts.min() > 0.85 * counts.mean()
