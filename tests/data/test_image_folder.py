import mmap
import shutil
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from tinygen.data import DataError, image_folder, load_folder

from .pictures import encoded, picture, write


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture(params=["folder", "zip"])
def packed(request, tmp_path):
    """The same tests read a folder and a zip of it."""

    def pack(folder):
        return folder if request.param == "folder" else zipped(folder, tmp_path / "packed.zip")

    return pack


def test_reads_every_format_in_sorted_order(tmp_path, packed):
    folder = tmp_path / "pictures"
    for index, extension in enumerate(image_folder.EXTENSIONS):
        form = Image.registered_extensions()[extension]
        flat = np.full((9, 9, 3), 20 * index, dtype=np.uint8)
        grey = form == "PPM" and extension == ".pgm"
        data = encoded(flat[..., 0] if grey else flat, form)
        write(folder / f"sub{index % 2}" / f"{index:02}{extension.upper()}", data)
    write(folder / "sub0" / "notes.txt", b"not a picture")
    write(folder / ".hidden" / "a.png", b"hidden")
    write(folder / "__MACOSX" / "._a.png", b"resource fork")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_folder(packed(folder))
    assert data.images.shape == (len(image_folder.EXTENSIONS), 3, 9, 9)
    in_order = [*range(0, 10, 2), *range(1, 10, 2)]
    levels = data.images.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 20 * np.array(in_order), atol=2)  # JPEG may be off by 1
    assert data.classes == ("sub0", "sub1")
    assert data.labels.tolist() == 5 * [0] + 5 * [1]


def test_any_size_is_cropped_and_resized(tmp_path):
    for index, (width, height) in enumerate([(5, 40), (64, 64), (33, 7), (1, 1)]):
        write(tmp_path / f"{index}.png", encoded(picture(width, height)))
    assert load_folder(tmp_path, image_size=16).images.shape == (4, 3, 16, 16)
    assert load_folder(tmp_path, image_size=16, channels=1).images.shape == (4, 1, 16, 16)


def test_different_sizes_without_image_size_are_refused(tmp_path):
    write(tmp_path / "a.png", encoded(picture(8, 6)))
    write(tmp_path / "b.png", encoded(picture(9, 6)))
    with pytest.raises(DataError, match=r"8×6 and, for one, b.png with 9×6: give image_size"):
        load_folder(tmp_path)


def test_grey_is_found_out_unless_asked_for(tmp_path):
    for index in range(3):
        write(tmp_path / f"{index}.png", encoded(picture(channels=1)))
    assert load_folder(tmp_path).image_shape == (1, 8, 8)
    assert load_folder(tmp_path, channels=3).image_shape == (3, 8, 8)
    write(tmp_path / "3.png", encoded(picture(channels=3)))
    assert load_folder(tmp_path).image_shape == (3, 8, 8)


def test_broken_files_are_skipped_and_named(tmp_path, packed):
    folder = tmp_path / "pictures"
    good = encoded(picture())
    for name in ("cat/1.png", "cat/3.png", "dog/2.png"):
        write(folder / name, good)
    write(folder / "cat/2.png", good[: len(good) // 2])
    write(folder / "dog/1.png", b"")
    write(folder / "dog/3.jpg", b"<html>not found</html>")
    path = packed(folder)
    with pytest.warns(UserWarning, match="skipped 3 of 6") as caught:
        data = load_folder(path)
    (message,) = [str(warning.message) for warning in caught]
    assert str(path) in message
    assert "\n" not in message
    for text in ("cat/2.png (", "dog/1.png (not a picture)", "dog/3.jpg (not a picture)"):
        assert text in message
    assert "0x" not in message
    assert data.images.shape == (3, 3, 8, 8)
    assert data.labels.tolist() == [0, 0, 1]
    for image in data.images:
        np.testing.assert_array_equal(image, picture().transpose(2, 0, 1))


def test_a_damaged_zip_member_is_skipped(tmp_path):
    path = tmp_path / "pictures.zip"
    data = encoded(picture(), compress_level=0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", data)
        archive.writestr("b.png", data)
    content = bytearray(path.read_bytes())
    content[100] ^= 1  # inside a.png
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 .*a.png \(Bad CRC-32"):
        assert len(load_folder(path)) == 1


def test_the_list_of_broken_files_is_cut(tmp_path):
    write(tmp_path / "good.png", encoded(picture()))
    for index in range(25):
        write(tmp_path / f"{index}.png", b"")
    with pytest.warns(UserWarning, match="and 5 more$"):
        load_folder(tmp_path)


def test_splits_by_folder_name(tmp_path, packed):
    folder = tmp_path / "set"
    for index, name in enumerate(["train/a", "train/b", "train/c", "val/a", "val/c", "Test/x"]):
        write(folder / "outer" / name / "1.png", encoded(np.full((2, 2), index, np.uint8)))
    path = packed(folder)
    train, validation = load_folder(path), load_folder(path, split="validation")
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert train.labels.tolist() == [0, 1, 2]
    assert validation.labels.tolist() == [0, 2]
    assert validation.classes == train.classes == ("a", "b", "c")
    test = load_folder(path, split="test")
    assert (len(test), test.labels) == (1, None)


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("bus", "car", "train"):
        write(tmp_path / name / "1.png", encoded(picture()))
    assert load_folder(tmp_path).classes == ("bus", "car", "train")
    with pytest.raises(DataError, match=r"has no split 'test'; it has train$"):
        load_folder(tmp_path, split="test")


def test_no_labels_without_sub_folders(tmp_path):
    write(tmp_path / "only" / "1.png", encoded(picture()))
    write(tmp_path / "only" / "2.png", encoded(picture()))
    assert load_folder(tmp_path).labels is None
    write(tmp_path / "0.png", encoded(picture()))
    assert load_folder(tmp_path).labels is None


def test_too_much_for_memory_goes_to_a_file(tmp_path, monkeypatch):
    for index in range(5):
        write(tmp_path / "in" / f"{index}.png", encoded(picture(seed=index)))
    expected = load_folder(tmp_path / "in").images
    monkeypatch.setattr(image_folder, "MEMORY_LIMIT", 5 * 3 * 8 * 8 - 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = load_folder(tmp_path / "in").images
    base = images
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)
    assert type(images) is np.ndarray
    np.testing.assert_array_equal(images, expected)
    assert not list((tmp_path / "cache" / "tinygen").iterdir())


def test_too_much_for_the_disk_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "in" / "a.png", encoded(picture()))
    monkeypatch.setattr(image_folder, "MEMORY_LIMIT", 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"1 pictures of 8×8 need 0.0 GB.*smaller image_size"):
        load_folder(tmp_path / "in")


def test_missing_empty_and_wrong_paths(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder or zip file .*nowhere"):
        load_folder(tmp_path / "nowhere")
    write(tmp_path / "empty" / "a.txt", b"text")
    with pytest.raises(
        DataError, match=r"no pictures in .*empty: looked at 1 files.*\.jpg.*\.webp"
    ):
        load_folder(tmp_path / "empty")
    with pytest.raises(DataError, match=r"a\.txt is neither a folder nor a whole zip"):
        load_folder(tmp_path / "empty" / "a.txt")


def test_a_truncated_zip_is_named(tmp_path):
    write(tmp_path / "in" / "a.png", encoded(picture()))
    path = zipped(tmp_path / "in", tmp_path / "cut.zip")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cut\.zip is neither a folder nor a whole zip"):
        load_folder(path)


def test_nothing_readable_is_one_line(tmp_path):
    write(tmp_path / "a.png", b"")
    with pytest.raises(DataError, match=r"no picture can be read; a.png: not a picture$"):
        load_folder(tmp_path)
