"""What a PixelRNN shows of itself: completions, the order of drawing, receptive fields."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tinygen.models.pixelrnn import PixelRNN
from tinygen.models.pixelrnn_multiscale import MultiScalePixelRNN
from tinygen.models.pixelrnn_pictures import completions, drawing, receptive_field
from tinygen.random import Generator

RED, BLUE, YELLOW = (0.6, 0.1, 0.1), (0.1, 0.1, 0.4), (1, 1, 0)


def make(model=PixelRNN, kind="row", channels=1):
    tg.manual_seed(0)
    options = {"channels": channels, "levels": 4, "hidden": 5, "head": 6}
    return model(kind, image_size=(6, 7), **options).double()


def images(model, n):
    shape = (n, model.channels, model.height, model.width)
    return np.random.default_rng(0).integers(0, 4, shape).astype(np.float64)


@pytest.mark.parametrize(("hidden", "first"), [(0.5, 3), (0.4, 3), (0.01, 5), (1.0, 0)])
def test_completions(hidden, first):
    model = make(channels=3)
    x = images(model, 2)
    rows = completions(model, x, Generator(0), hidden=hidden, ways=3)
    assert rows.shape == (2, 5, 3, 6, 7)
    np.testing.assert_array_equal(rows[:, -1], x)
    np.testing.assert_array_equal(rows[:, :, :, :first], rows[:, -1:, :, :first].repeat(5, 1))
    assert (rows[:, 0, :, first:] == 1.5).all()
    for way in (1, 2):
        assert (rows[:, way, :, first:] != rows[:, way + 1, :, first:]).any()


def test_completions_at_a_low_temperature_are_alike():
    model = make()
    rows = completions(model, images(model, 2), Generator(0), temperature=1e-6)
    assert (rows[:, 1] == rows[:, 5]).all()


@pytest.mark.parametrize("model", [PixelRNN, MultiScalePixelRNN])
def test_drawing_shows_pixels_in_their_order(model):
    model = make(model)
    x = images(model, 2)
    frames = list(drawing(model, x, 42))
    assert (frames[0] == 1.5).all()
    np.testing.assert_array_equal(frames[-1], x)
    for drawn, frame in enumerate(frames):
        assert ((frame == x).all((0, 1)) == (model.order < drawn)).all()


def where(picture, colour):
    return np.isclose(picture, np.array(colour)[:, None, None]).all(0)


def test_a_receptive_field_shows_past_and_future():
    model = make()
    picture = receptive_field(model, images(model, 8), 4, 3)
    assert np.argwhere(where(picture, YELLOW)).tolist() == [[4, 3]]
    np.testing.assert_array_equal(where(picture, BLUE), model.order > model.order[4, 3])
    assert not where(picture, RED).any()
    # Of the row above it reaches columns up to 3, by the first convolution, and of each row
    # further up one more, by the LSTM's states.
    picture = receptive_field(model, images(model, 8), 4, 0)
    unseen = [[1, 6], [2, 5], [2, 6], [3, 4], [3, 5], [3, 6]]
    assert np.argwhere(where(picture, RED)).tolist() == unseen


def test_a_multi_scale_model_sees_the_small_image_of_its_future():
    model = make(MultiScalePixelRNN)
    picture = receptive_field(model, images(model, 8), 3, 3)
    later = model.order > model.order[3, 3]
    np.testing.assert_array_equal(where(picture, BLUE), later)
    assert not later[4, 2]
    assert picture[0, 4, 2] == picture[2, 4, 2] > 0.2  # a grey
