"""Masks and pictures are read back exactly from their files."""

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from experiments.pictures.palette import palette
from experiments.pictures.png import write_mask, write_new_png, write_png

RNG = np.random.default_rng(0)


def test_mask_file_keeps_indices_and_shows_colours(tmp_path):
    label = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_mask(tmp_path / "new" / "mask.png", label)
    with Image.open(tmp_path / "new" / "mask.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), label)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), palette()[label])


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_a_png_is_exact(tmp_path, shape):
    picture = RNG.integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "picture.png", picture)
    with Image.open(tmp_path / "picture.png") as back:
        np.testing.assert_array_equal(np.asarray(back), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_folder_that_cannot_be_created_raises_a_one_line_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="picture.png: cannot be written"):
        write_png(tmp_path / "file" / "picture.png", np.zeros((2, 2), np.uint8))


def test_new_png_does_not_replace_a_file(tmp_path):
    first, other = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8)
    assert write_new_png(tmp_path / "a/x.png", first) == tmp_path / "a/x.png"
    before = (tmp_path / "a/x.png").stat().st_mtime_ns
    assert write_new_png(tmp_path / "a/x.png", first) == tmp_path / "a/x.png", "an equal picture keeps its file"
    assert (tmp_path / "a/x.png").stat().st_mtime_ns == before
    assert write_new_png(tmp_path / "a/x.png", other) == tmp_path / "a/x-2.png"
    assert write_new_png(tmp_path / "a/x.png", other) == tmp_path / "a/x-2.png"
    assert write_new_png(tmp_path / "a/x.png", other + 1) == tmp_path / "a/x-3.png"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a/x.png")), first)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a/x-3.png")), other + 1)
