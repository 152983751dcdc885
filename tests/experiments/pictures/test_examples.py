"""The same examples give the same bytes, and a damaged file is an error that a reader can catch."""

import io

import numpy as np
import pytest
from PIL import Image

from experiments.pictures.examples import DrawnExample, DrawnExamples, encode_webp, read_examples, write_examples


def make():
    tiles = {
        name: encode_webp(np.full((4, 6, 3), level, np.uint8)) for name, level in (("truth", 20), ("prediction", 200))
    }
    return DrawnExamples(["</script>", "b"], [DrawnExample(3, "../a/ä.png", tiles), DrawnExample(7, "b", tiles)])


def test_written_examples_are_read_back(tmp_path):
    for name in ("one", "two"):
        write_examples(tmp_path / f"{name}.zip", make())
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes(), "equal examples give equal bytes"
    assert read_examples(tmp_path / "one.zip") == make()
    tile = np.asarray(Image.open(io.BytesIO(make().examples[0].tiles["prediction"])))
    assert tile.shape == (4, 6, 3) and abs(tile.astype(int) - 200).max() < 4


def test_a_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "a.zip"
    write_examples(path, make())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="zip"):
        read_examples(path)
