import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io

from tinygen.data import DataError, formats, load
from tinygen.data.registry import DATASETS

from .pictures import encoded, write


def place(root, name, split):
    """Where the files of a set belong."""
    return [root / file.path for file in DATASETS[name].splits[split]]


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes())


def test_idx(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)
    for path, array in zip(place(tmp_path, "mnist", "train"), (images, labels), strict=True):
        write(path, idx(array))
    data = load("mnist", root=tmp_path, download=False)
    np.testing.assert_array_equal(data.images[:, 0], images)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.labels.dtype == np.int64
    assert data.images.flags.writeable


GOOD_IMAGES = idx(np.zeros((3, 4, 4), np.uint8))
GOOD_LABELS = idx(np.zeros(3, np.uint8))
DAMAGED_IDX = {  # what is wrong: (images, labels, the file to be named)
    "truncated": (GOOD_IMAGES[:-10], GOOD_LABELS, "images"),
    "a web page": (b"<html>", GOOD_LABELS, "images"),
    "empty": (b"", GOOD_LABELS, "images"),
    "flipped bits": (GOOD_IMAGES[:15] + b"\xff\xff" + GOOD_IMAGES[17:], GOOD_LABELS, "images"),
    "half a header": (gzip.compress(b"\0\0\x08\3\0\0\0\3"), GOOD_LABELS, "images"),
    "floats": (gzip.compress(b"\0\0\x0d\1\0\0\0\0"), GOOD_LABELS, "images"),
    "a byte too many": (gzip.compress(b"\0\0\x08\1\0\0\0\2abc"), GOOD_LABELS, "images"),
    "labels as images": (GOOD_LABELS, GOOD_LABELS, "images"),
    "truncated labels": (GOOD_IMAGES, GOOD_LABELS[:-9], "labels"),
    "more labels": (GOOD_IMAGES, idx(np.zeros(4, np.uint8)), "labels"),
    "images as labels": (GOOD_IMAGES, GOOD_IMAGES, "labels"),
    "no such class": (GOOD_IMAGES, idx(np.array([0, 1, 10], np.uint8)), "labels"),
}


@pytest.mark.parametrize(("images", "labels", "named"), DAMAGED_IDX.values(), ids=DAMAGED_IDX)
def test_a_damaged_idx_file_is_named(tmp_path, images, labels, named):
    paths = place(tmp_path, "mnist", "test")
    for path, content in zip(paths, (images, labels), strict=True):
        write(path, content)
    with pytest.raises(DataError) as caught:
        load("mnist", split="test", root=tmp_path, download=False)
    assert str(paths[named == "labels"]) in str(caught.value)
    assert "\n" not in str(caught.value)


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_cifar10(tmp_path):
    records = np.zeros((10_000, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(10_000) % 10
    records[:, 1:] = np.arange(3072) // 12  # the planes follow each other: red is dark, blue light
    names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    (path,) = place(tmp_path, "cifar10", "test")
    members = {"batches.meta.txt": names.encode(), "test_batch.bin": records.tobytes()}
    write(path, tar_of(members))
    data = load("cifar10", split="test", root=tmp_path, download=False)
    assert data.images.shape == (10_000, 3, 32, 32)
    np.testing.assert_array_equal(data.images[17], (np.arange(3072) // 12).reshape(3, 32, 32))
    assert [data.classes[label] for label in data.labels[8:11]] == ["ship", "truck", "airplane"]
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz .*data_batch_1\.bin"):
        load("cifar10", root=tmp_path, download=False)
    for content in (path.read_bytes()[:1000], tar_of({**members, "test_batch.bin": b"short"})):
        write(path, content)
        with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is damaged"):
            load("cifar10", split="test", root=tmp_path, download=False)


def test_svhn(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    (path,) = place(tmp_path, "svhn", "test")
    path.parent.mkdir()
    scipy.io.savemat(path, {"X": images, "y": np.array([[1], [9], [10], [2]], np.uint8)})
    data = load("svhn", split="test", root=tmp_path, download=False)
    np.testing.assert_array_equal(data.images[3, 2], images[:, :, 2, 3])
    assert data.labels.tolist() == [1, 9, 0, 2]
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text" * 100):
        write(path, content)
        with pytest.raises(DataError, match=r"test_32x32\.mat is damaged"):
            load("svhn", split="test", root=tmp_path, download=False)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_npz(tmp_path, channels):
    shape = (5, 6, 4) if channels is None else (5, 6, 4, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "mine.npz"
    np.savez(path, images=images, labels=[2, 0, 1, 0, 2])
    data = load(path)
    assert data.image_shape == (channels or 1, 6, 4)
    np.testing.assert_array_equal(data.images[3, 0], images.reshape(5, 6, 4, -1)[3, ..., 0])
    assert data.labels.tolist() == [2, 0, 1, 0, 2]
    assert data.classes == ("0", "1", "2")
    np.savez(path, images=images)
    assert load(path).labels is None
    with pytest.raises(DataError, match=r"mine\.npz has no split 'test'"):
        load(path, split="test")


IMAGES = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    "arrays",
    [
        {"pictures": IMAGES},
        {"images": IMAGES.astype(float)},
        {"images": IMAGES[0]},
        {"images": np.array([None, 1], dtype=object)},
        {"images": IMAGES, "labels": [0, 1, 2]},
        {"images": IMAGES, "labels": [0, -1]},
        {"images": IMAGES, "labels": [0, 2], "classes": ["a", "b"]},
        {"images": IMAGES, "labels": [0.0, 1.0]},
        {"images": np.zeros((2, 3, 3, 2), np.uint8)},
    ],
)
def test_a_wrong_npz_is_named(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"mine\.npz"):
        load(path)


def test_a_damaged_npz_is_named(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).bytes(1000))
    whole = path.read_bytes()
    for content in (whole[:500], b"", whole[:300] + bytes(100) + whole[400:], b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"mine\.npz is damaged"):
            load(path)
    with pytest.raises(DataError, match=r"missing\.npz"):
        load(tmp_path / "missing.npz")


def write_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_omniglot_is_inverted(tmp_path):
    drawing = np.full((105, 105), True)
    drawing[40:60, 50] = False  # ink is 0 in the files
    (path,) = place(tmp_path, "omniglot", "train")
    names = ["Greek/character02/a.png", "Greek/character01/b.png", "Latin/character01/c.png"]
    write_zip(path, {f"images_background/{name}": encoded(drawing) for name in names})
    data = load("omniglot", root=tmp_path, download=False)
    np.testing.assert_array_equal(data.images[0, 0], np.where(drawing, 0, 255))
    assert data.classes == ("Greek/character01", "Greek/character02", "Latin/character01")
    assert data.labels.tolist() == [0, 1, 2]
    small = load("omniglot", root=tmp_path, download=False, image_size=28, channels=3)
    assert small.image_shape == (3, 28, 28)


@pytest.mark.parametrize("unpacked", [False, True])
def test_tiny_imagenet(tmp_path, unpacked):
    (path,) = place(tmp_path, "tiny-imagenet", "train")

    def flat(level):
        return encoded(np.full((64, 64, 3), level, np.uint8))

    root = "tiny-imagenet-200"
    write_zip(
        path,
        {
            f"{root}/wnids.txt": "n02\nn01\n",
            f"{root}/train/n01/images/n01_0.png": flat(10),
            f"{root}/train/n02/images/n02_0.png": flat(20),
            f"{root}/train/n02/images/n02_1.png": flat(21),
            f"{root}/test/images/test_0.png": flat(90),
            f"{root}/val/images/val_0.png": flat(50),
            f"{root}/val/images/val_1.png": flat(51),
            f"{root}/val/val_annotations.txt": (
                "val_0.png\tn02\t0\t0\t9\t9\nval_1.png\tn01\t0\t0\t9\t9\n"
            ),
        },
    )
    if unpacked:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(path.parent)
        path.unlink()
    train = load("tiny-imagenet", root=tmp_path, download=False)
    assert train.images[:, 1, 5, 5].tolist() == [10, 20, 21]
    assert train.labels.tolist() == [0, 1, 1]
    validation = load("tiny-imagenet", split="validation", root=tmp_path, download=False)
    assert validation.images[:, 1, 5, 5].tolist() == [50, 51]
    assert validation.labels.tolist() == [1, 0]
    assert train.classes == validation.classes == ("n01", "n02")


def test_tiny_imagenet_without_its_tables(tmp_path):
    (path,) = place(tmp_path, "tiny-imagenet", "train")
    write_zip(
        path, {"tiny-imagenet-200/train/n01/images/a.png": encoded(np.zeros((4, 4, 3), "u1"))}
    )
    with pytest.raises(DataError, match=r"tiny-imagenet-200\.zip .*wnids\.txt"):
        load("tiny-imagenet", root=tmp_path, download=False)


def test_celeba_is_split_by_number(tmp_path):
    (path,) = place(tmp_path, "celeba", "train")
    numbers = (1, 162_770, 162_771, 182_637, 182_638, 202_599)
    write_zip(
        path,
        {
            f"img_align_celeba/{number:06}.png": encoded(np.full((218, 178, 3), index, np.uint8))
            for index, number in enumerate(numbers)
        },
    )
    for split, levels in (("train", [0, 1]), ("validation", [2, 3]), ("test", [4, 5])):
        data = load("celeba", split=split, root=tmp_path, download=False, image_size=16)
        assert data.images[:, 0, 3, 3].tolist() == levels
        assert data.labels is None
    assert load("celeba", root=tmp_path, download=False).image_shape == (3, 218, 178)


def test_a_missing_part_of_celeba_is_named(tmp_path):
    (path,) = place(tmp_path, "celeba", "train")
    write_zip(path, {"img_align_celeba/000001.png": encoded(np.zeros((4, 4, 3), np.uint8))})
    with pytest.raises(DataError, match=r"img_align_celeba\.zip has no pictures of this split"):
        load("celeba", split="test", root=tmp_path, download=False)


def test_hold_out_tenth():
    def read(paths, request):
        return formats.Arrays(np.arange(25), np.arange(25) % 3, ("a", "b", "c"))

    reader = formats.hold_out_tenth(read)
    validation = reader([], formats.Request("validation"))
    train = reader([], formats.Request("train"))
    assert validation.images.tolist() == [9, 19]
    assert sorted([*train.images, *validation.images]) == list(range(25))
    np.testing.assert_array_equal(train.labels, train.images % 3)
