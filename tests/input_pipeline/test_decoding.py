"""Files are decoded by their content, not by their name, and an error names a broken file."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from errors import UserError
from input_pipeline.decoding import (
    choose_white,
    decode_colours,
    decode_image,
    decode_mask,
    decode_samples,
    encode_png,
    list_images,
    list_others,
    read_header,
    read_size,
)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_png_is_exact():
    np.testing.assert_array_equal(decode_image(encode_png(PIXELS), "a.jpg"), PIXELS)


def test_transparency_is_removed_without_blending():
    image = Image.fromarray(np.dstack([PIXELS, np.zeros((5, 7), np.uint8)]))
    np.testing.assert_array_equal(decode_image(encode(image, "PNG"), "a.jpg"), PIXELS)


def test_gif_named_jpg_is_decoded():
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


def test_palette_mask_gives_indices_and_colours():
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    np.testing.assert_array_equal(decode_mask(encode(image, "PNG"), "m.png"), indices)
    np.testing.assert_array_equal(decode_colours(encode(image, "PNG"), "m.png")[0, 1], [40, 50, 60])


def test_mask_of_1_bit_gives_0_and_1():
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decode_mask(encode(image, "PNG"), "m.png"), [[0, 1]])


# Where EXIF puts the first row and the first column of the stored pixels (Exif 2.32, tag 274).
SIDES = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
SIDES |= {5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SIDES)
def test_images_follow_exif_or_keep_the_stored_view_on_request(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(PIXELS), kind, exif=exif, lossless=True)
    upright = decode_image(data, "a.jpg")
    row, column = SIDES[orientation].split()
    first_row = {"top": upright[0], "bottom": upright[-1], "left": upright[:, 0], "right": upright[:, -1]}[row]
    from_left = np.array_equal(first_row, PIXELS[0])
    assert from_left or np.array_equal(first_row[::-1], PIXELS[0])
    assert from_left == (column in ("left", "top"))
    np.testing.assert_array_equal(decode_image(data, "a.jpg", upright=False), PIXELS)
    assert read_size(data, "a.jpg") == upright.shape[:2] == decode_mask(data, "a.jpg").shape[:2]
    assert read_size(data, "a.jpg", upright=False) == (5, 7)
    assert read_header(data, "a.jpg") == ((5, 7), orientation)


def test_invalid_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 9
    data = encode(Image.fromarray(PIXELS), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data, "a.png"), PIXELS)


def join_pages(kind):
    return encode(Image.fromarray(PIXELS), kind, save_all=True, append_images=[Image.fromarray(PIXELS[::-1])] * 2)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("decode", [decode_image, decode_mask, decode_colours])
def test_images_with_several_pages_or_frames_raise_an_error(kind, decode):
    with pytest.raises(UserError, match=r"a\.x holds \d (pages|frames); store each as a file of its own"):
        decode(join_pages(kind), "a.x")


def test_extra_images_in_a_phone_jpeg_are_not_pages():
    data = encode(Image.fromarray(PIXELS), "MPO", save_all=True, append_images=[Image.fromarray(PIXELS)])
    assert decode_image(data, "a.jpg").shape == (5, 7, 3)


def write_tiff(bands, photometric, extra=(), kind=np.uint8, **more):
    """Write an uncompressed TIFF of 5x7 zeros, with only the tags of the specification."""
    bits = np.dtype(kind).itemsize * 8
    data = bytes(5 * 7 * bands * bits // 8)
    tags = {256: (3, [7]), 257: (3, [5]), 258: (3, [bits] * bands), 259: (3, [1]), 262: (3, [photometric])}
    tags |= {273: (4, [8]), 277: (3, [bands]), 278: (3, [5]), 279: (4, [len(data)])}
    tags |= {338: (3, list(extra))} if extra else {}
    tags |= {int(tag): (3, [value]) for tag, value in more.items()}
    entries, beyond = b"", b""
    start = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, (code, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'H' if code == 3 else 'I'}", *values)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", start + len(beyond))
        beyond += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", tag, code, len(values)) + place
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
        + beyond
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (write_tiff(4, 2, (0,)), "has 4 bands, and those after the first 3 are not transparency"),
        (write_tiff(4, 2), "has 4 bands"),
        (write_tiff(2, 1), "2 bands"),
        (write_tiff(5, 1, (0, 0, 0, 0)), "5 bands"),
        (write_tiff(5, 1, (0, 0, 0, 0), np.uint16), "a TIFF of 5 bands of 16 bits"),
        (write_tiff(3, 2, (), np.float32, **{"339": 3}), "32-bit floating point"),
        (write_tiff(1, 1, (), np.float64, **{"339": 3}), "floating point"),
        (write_tiff(1, 1, (), np.float32, **{"339": 3}), "floating point"),
        (write_tiff(1, 0, (), np.uint16), "with 0 as white"),
        (write_tiff(3, 2, (), np.uint16, **{"284": 2}), "interleaved"),
        (write_tiff(3, 2, (), np.uint8, **{"254": 1}), "preview"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "pillow-heif"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "a video"),
        (bytes(128) + b"DICM" + bytes(20), "DICOM"),
    ],
)
def test_content_other_than_a_grey_or_colour_image_is_named(data, words):
    with pytest.raises(UserError, match=words) as caught:
        decode_image(data, "a.tif")
    assert str(caught.value).startswith("a.tif") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bands", "photometric", "extra"), [(3, 2, ()), (4, 2, (1,)), (4, 2, (2,)), (2, 1, (2,)), (4, 5, ())]
)
def test_colour_transparency_and_cmyk_are_read(bands, photometric, extra):
    assert decode_image(write_tiff(bands, photometric, extra), "a.tif").shape == (5, 7, 3)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_colour_images_of_12_bits_are_not_black(suffix):
    values = np.random.default_rng(0).integers(0, 4096, (5, 7, 4), dtype=np.uint16)
    values[0, 0] = 4095
    data = cv2.imencode(suffix, values[..., :3])[1].tobytes()
    rgb = values[..., 2::-1]
    np.testing.assert_array_equal(decode_samples(data, "a"), rgb)
    assert choose_white(rgb.max()) == 4095
    np.testing.assert_array_equal(decode_image(data, "a", white=4095), rgb.astype(int) * 255 // 4095)
    with_alpha = cv2.imencode(".png", values)[1].tobytes()
    np.testing.assert_array_equal(decode_samples(with_alpha, "a"), rgb)


def write_ppm(values, largest, kind=b"P6"):
    body = values.astype(">u2").tobytes() if kind == b"P6" else " ".join(map(str, values.ravel())).encode()
    return kind + b"\n# by a camera\n%d %d\n%d\n" % (values.shape[1], values.shape[0], largest) + body


@pytest.mark.parametrize("kind", [b"P6", b"P3"])
def test_ppm_of_12_bits_is_not_black(kind):
    values = np.random.default_rng(0).integers(0, 4096, (5, 7, 3), dtype=np.uint16)
    np.testing.assert_array_equal(decode_samples(write_ppm(values, 65535, kind), "a"), values)
    whole = decode_samples(write_ppm(values, 4095, kind), "a")
    np.testing.assert_array_equal(whole, values.astype(int) * 65535 // 4095)
    eight = write_ppm(values // 16, 255, b"P3")
    np.testing.assert_array_equal(decode_samples(eight, "a"), (values // 16).astype(np.uint8))


@pytest.mark.parametrize("bands", [3, 4])
def test_jpeg_2000_of_12_bits_is_not_black(bands):
    values = np.random.default_rng(0).integers(0, 4096, (64, 64, bands), dtype=np.uint16)
    data = cv2.imencode(".jp2", values, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1].tobytes()
    np.testing.assert_array_equal(decode_samples(data, "a"), values[..., 2::-1])
    signed = bytearray(data)
    for component in range(bands):  # values start at -32768, where OpenCV and Pillow read different values
        signed[data.index(b"\xff\x4f\xff\x51") + 42 + 3 * component] |= 0x80
    with pytest.raises(UserError, match="store it as PNG"):
        decode_samples(bytes(signed), "a")


def test_sgi_of_16_bits_raises_an_error():
    header = struct.pack(">hBBHHHH", 474, 0, 2, 3, 7, 5, 3).ljust(512, b"\0")
    with pytest.raises(UserError, match="an SGI file of 16 bits"):
        decode_image(header + bytes(5 * 7 * 3 * 2), "a.sgi")


@pytest.mark.parametrize(
    ("peak", "white"), [(0, 65535), (255, 255), (256, 1023), (4095, 4095), (4096, 16383), (65535, 65535)]
)
def test_white_level_covers_the_largest_value(peak, white):
    assert choose_white(peak) == white


def test_values_above_the_white_level_are_white():
    values = np.array([[0, 2000, 4095, 60000]], np.uint16)
    assert decode_image(encode_png(values), "a", white=4095)[0, :, 0].tolist() == [0, 124, 255, 255]


def test_error_for_too_many_pixels_names_the_field():
    with pytest.raises(UserError, match=r"a has 35 pixels, more than config.data.max_pixels=34; raise it"):
        decode_image(encode_png(PIXELS), "a", largest=34)
    assert decode_image(encode_png(PIXELS), "a", largest=35).shape == (5, 7, 3)


def test_images_in_a_folder_are_found_by_suffix_or_content(tmp_path):
    for name in ("a.JPG", "b.jfif", "c.ppm", "d.avif", "e.jp2", "f.img", "g"):
        (tmp_path / name).write_bytes(encode(Image.fromarray(PIXELS), "PNG"))
    for name in ("h.heic", "i.cr2", "Thumbs.db", "j.mp4", ".hidden.png", "notes.txt", "k.json"):
        (tmp_path / name).write_bytes(b"something else")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert [path.name for path in list_images(tmp_path)] == [
        "a.JPG",
        "b.jfif",
        "c.ppm",
        "d.avif",
        "e.jp2",
        "f.img",
        "g",
    ]
    assert [path.name for path in list_others(tmp_path)] == ["Thumbs.db", "h.heic", "i.cr2", "j.mp4", "pipe.png"]


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: b"text", lambda data: data[: len(data) // 2]])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_broken_file_is_named(spoil, kind):
    data = encode(Image.fromarray(np.tile(PIXELS, (20, 20, 1))), kind)
    with pytest.raises(UserError, match=r"broken\.jpg") as caught:
        decode_image(spoil(data), "broken.jpg")
    assert "\n" not in str(caught.value)


def test_image_bomb_raises_an_error_before_it_is_decoded(monkeypatch):
    """The PNG of 200 KB has 1.6 billion pixels. Its orientation comes after them, so Pillow must decode them to find it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    compressor, side = zlib.compressobj(), 40_000
    pixels = b"".join(compressor.compress(bytes(1 + side // 8)) for _ in range(side)) + compressor.flush()
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)),
        (b"IDAT", pixels),
        (b"eXIf", exif),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it is decoded"))
    assert read_header(data, "bomb.png").stored == (side, side)
    for decode in (decode_image, decode_mask, decode_colours):
        with pytest.raises(UserError, match="bomb.png has 1,600,000,000 pixels, more than config.data.max_pixels=1000"):
            decode(data, "bomb.png", largest=1000)


def test_pages_are_counted_up_to_a_limit():
    page, content = Image.new("L", (2, 2)), io.BytesIO()
    page.save(content, "TIFF", save_all=True, append_images=[page] * 1100)
    with pytest.raises(UserError, match="a.tif holds many pages"):
        decode_image(content.getvalue(), "a.tif")
