"""Grids, animations and plots: right pixels in the right place, and files that open."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygen.train import pictures


def test_bytes_do_not_depend_on_the_other_values():
    assert pictures.to_uint8([-1, 0, 1]).tolist() == [0, 128, 255]
    assert pictures.to_uint8([-5.0, 5.0]).tolist() == [0, 255]
    assert pictures.to_uint8([0, 0.5, 1], (0, 1)).tolist() == [0, 128, 255]
    every = np.arange(256)
    assert (pictures.to_uint8(every / 127.5 - 1) == every).all()  # bytes survive the round trip


@given(
    n=st.integers(1, 11),
    channels=st.sampled_from([1, 3]),
    columns=st.none() | st.integers(1, 12),
    scale=st.none() | st.integers(1, 3),
)
def test_every_image_stands_in_its_cell(n, channels, columns, scale):
    height, width, padding = 4, 5, 2
    images = np.arange(n).reshape(n, 1, 1, 1) + np.zeros((channels, height, width))
    picture = pictures.grid(
        images, columns=columns, scale=scale, padding=padding, value_range=(0, 255)
    )
    scale = scale or 13  # 64 / 5
    columns = min(n, columns or int(np.ceil(np.sqrt(n))))
    rows = -(-n // columns)
    assert picture.shape == (
        rows * (height * scale + padding) + padding,
        columns * (width * scale + padding) + padding,
        channels,
    )
    for i in range(n):
        y = padding + (i // columns) * (height * scale + padding)
        x = padding + (i % columns) * (width * scale + padding)
        assert (picture[y : y + height * scale, x : x + width * scale] == i).all()
        assert (picture[y - 1, x] == pictures.GREY).all()
        assert (picture[y + height * scale, x] == pictures.GREY).all()


def test_grid_names_what_it_expects():
    for shape in [(4, 2, 8, 8), (8, 8), (0, 1, 8, 8)]:
        with pytest.raises(ValueError, match="expected images"):
            pictures.grid(np.zeros(shape))


def test_pairs_stand_side_by_side():
    left, right = np.full((3, 1, 8, 8), -1.0), np.full((3, 1, 8, 8), 1.0)
    picture = pictures.pairs(left, right, columns=1)
    assert picture[10, 10] == 0
    assert picture[10, -10] == 255


@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_animation_open_again(tmp_path, channels):
    rng = np.random.default_rng(0)
    frames, written = [], []
    for step in range(5):
        images = rng.uniform(-1, 1, (4, channels, 1, 1)) + np.zeros((8, 8))
        picture = pictures.grid(images)
        frames.append(tmp_path / f"step-{step}.png")
        pictures.save_png(frames[-1], picture)
        with Image.open(frames[-1]) as image:
            assert (np.asarray(image).reshape(picture.shape) == picture).all()
        written.append(picture)
    pictures.animate(tmp_path / "training.gif", frames, max_frames=3)
    with Image.open(tmp_path / "training.gif") as animation:
        assert animation.n_frames == 3
        for frame, picture in enumerate([written[0], written[2], written[4]]):
            animation.seek(frame)
            shown = np.asarray(animation.convert("RGB")).astype(int)
            assert np.abs(shown - picture.astype(int)).max() <= (0 if channels == 1 else 12)
        assert animation.info["duration"] > 1500


def test_one_frame_and_none(tmp_path):
    pictures.save_png(tmp_path / "a.png", pictures.grid(np.zeros((1, 3, 8, 8))))
    pictures.animate(tmp_path / "a.gif", [tmp_path / "a.png"])
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 1
    with pytest.raises(ValueError, match="no frames"):
        pictures.animate(tmp_path / "b.gif", [])


def test_plot_draws_every_panel(tmp_path):
    metrics = {"step": [1, 2, 3], "loss_d": [1.4, 1.3, 1.2], "D(x)": [0.5, 0.6, 0.7]}
    path = tmp_path / "losses.png"
    pictures.plot(path, metrics, [["loss_d"], ["D(x)"]])
    with Image.open(path) as image:
        colours = set(image.convert("RGB").get_flattened_data())
    assert (31, 119, 180) in colours  # matplotlib's first line colour
    with pytest.raises(KeyError):
        pictures.plot(path, metrics, [["no such column"]])
