"""Files are decoded by their content, not by their name, and a broken one is named."""

import io

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from input_pipeline.decoding import decode_colours, decode_image, decode_mask, encode_png, read_size


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_png_is_exact():
    np.testing.assert_array_equal(decode_image(encode_png(PIXELS), "a.jpg"), PIXELS)


def test_transparency_is_dropped_not_blended():
    image = Image.fromarray(np.dstack([PIXELS, np.zeros((5, 7), np.uint8)]))
    np.testing.assert_array_equal(decode_image(encode(image, "PNG"), "a.jpg"), PIXELS)


def test_a_gif_named_jpg_loads():
    image = Image.fromarray(np.full((5, 7, 3), (255, 0, 0), np.uint8))
    np.testing.assert_array_equal(decode_image(encode(image, "GIF"), "a.jpg"), np.asarray(image))


def test_cmyk_and_grey_become_rgb():
    assert decode_image(encode(Image.new("CMYK", (7, 5)), "JPEG"), "a.jpg").shape == (5, 7, 3)
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(decode_image(encode_png(grey), "a.png"), np.repeat(grey[..., None], 3, -1))


def test_16_bit_grey_keeps_its_range():
    values = np.array([[0, 257, 65535]], np.uint16)
    np.testing.assert_array_equal(decode_image(encode_png(values), "a.png")[..., 0], [[0, 1, 255]])
    np.testing.assert_array_equal(decode_mask(encode_png(values), "a.png"), values)


def test_a_palette_mask_gives_indices_and_colours():
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    np.testing.assert_array_equal(decode_mask(encode(image, "PNG"), "m.png"), indices)
    np.testing.assert_array_equal(decode_colours(encode(image, "PNG"), "m.png")[0, 1], [40, 50, 60])


def test_a_one_bit_mask_gives_0_and_1():
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decode_mask(encode(image, "PNG"), "m.png"), [[0, 1]])


def test_pixels_are_taken_as_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(PIXELS), "JPEG", exif=exif)
    assert decode_image(data, "a.jpg").shape[:2] == read_size(data, "a.jpg") == (5, 7)


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: b"text", lambda data: data[: len(data) // 2]])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_broken_file_is_named(spoil, kind):
    data = encode(Image.fromarray(np.tile(PIXELS, (20, 20, 1))), kind)
    with pytest.raises(UserError, match=r"broken\.jpg") as caught:
        decode_image(spoil(data), "broken.jpg")
    assert "\n" not in str(caught.value)
