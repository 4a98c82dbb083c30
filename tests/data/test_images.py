import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygen.data.images import conform, decode

from .pictures import encoded, picture


def as_nchw(pixels):
    return pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None]


@pytest.mark.parametrize("channels", [1, 3])
def test_decode_keeps_the_pixels_of_a_lossless_file(channels):
    pixels = picture(7, 5, channels=channels)
    decoded = decode(encoded(pixels), None, channels)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, as_nchw(pixels)[0])


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    image_size=st.integers(1, 50),
    depth=st.sampled_from([1, 3]),
    channels=st.sampled_from([1, 3]),
)
def test_arrays_and_files_are_resized_alike(width, height, image_size, depth, channels):
    """Pillow rounds to bytes between its two passes and in the grey step: 2 levels in all."""
    pixels = picture(width, height, channels=depth, seed=width * height)
    of_file = decode(encoded(pixels), image_size, channels)
    of_array = conform(as_nchw(pixels), image_size, channels)[0]
    assert of_file.shape == of_array.shape == (channels, image_size, image_size)
    assert np.abs(of_file.astype(int) - of_array).max() <= 2


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
@pytest.mark.parametrize("image_size", [3, 11, 64])
def test_a_flat_picture_stays_flat(value, image_size):
    images = np.full((2, 3, 28, 20), value, dtype=np.uint8)
    assert (conform(images, image_size, 1) == value).all()


def test_halving_is_a_weighted_mean():
    """By hand: a triangle of half-width 2 weighs 1 3 3 1, and loses a 1 at the border."""
    line = np.array([[10, 20, 60, 200]], dtype=np.uint8).repeat(4, axis=0)
    expected = [(3 * 10 + 3 * 20 + 60) / 7, (20 + 3 * 60 + 3 * 200) / 7]
    result = conform(line[None, None], 2, None)[0, 0]
    np.testing.assert_array_equal(result, np.rint([expected, expected]))


def test_the_crop_is_central():
    images = np.zeros((1, 1, 4, 10), dtype=np.uint8)
    images[..., 3:7] = 200
    assert (conform(images, 4, None) == 200).all()
    assert (decode(encoded(images[0, 0]), 4, 1) == 200).all()


def test_conform_leaves_matching_arrays_alone():
    images = as_nchw(picture(8, 8))
    assert conform(images, 8, 3) is images
    assert conform(images, None, None) is images


def test_conform_of_many_and_of_none():
    many = picture(6, 6 * 2100, channels=1).reshape(2100, 1, 6, 6)  # three blocks
    result = conform(many, 3, None)
    np.testing.assert_array_equal(result[2050], conform(many[2050:2051], 3, None)[0])
    assert conform(many[:0], 3, 3).shape == (0, 3, 3, 3)
    assert conform(conform(many[:0], None, 3), None, 1).shape == (0, 1, 6, 6)


def test_transparency_turns_white():
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)  # black, but to be seen only where alpha is 255
    pixels[0, 0, 3] = 255
    assert decode(encoded(pixels), None, 1).tolist() == [[[0, 255], [255, 255]]]
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    decoded = decode(encoded(palette, transparency=1), None, 3)
    assert decoded[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_16_bit_grey_is_scaled_not_clipped():
    pixels = np.array([[0, 256, 40_000, 65_535]], dtype=np.uint16)
    assert decode(encoded(pixels), None, 1).tolist() == [[[0, 1, 156, 255]]]


def test_one_bit_pictures():
    pixels = Image.fromarray(np.array([[False, True]]))
    assert decode(encoded(pixels), None, 1).tolist() == [[[0, 255]]]


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        decode(encoded(Image.new("F", (2, 2)), "TIFF"), None, 1)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    data = encoded(Image.new("L", (6, 3)), "JPEG", exif=exif)
    assert decode(data, None, 1).shape == (1, 6, 3)


@pytest.mark.parametrize("image_size", [16, 64, 100])
def test_a_large_jpeg_shrinks_as_well_as_its_pixels(image_size):
    texture = conform(picture(16, 16, channels=1)[None, None], 512, None)[0, 0]
    shrunk = decode(encoded(texture, "JPEG", quality=95), image_size, 1)
    expected = conform(texture[None, None], image_size, None)[0]
    assert np.abs(shrunk.astype(int) - expected).mean() < 1


def test_the_first_frame_of_an_animation():
    frames = [Image.new("L", (4, 4), value) for value in (50, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data, None, 1) == 50).all()
