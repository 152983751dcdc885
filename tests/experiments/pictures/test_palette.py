"""The palette is fixed and its colours are distinguishable."""

import ast
import pathlib
import re

import numpy as np
import pytest
from PIL import ImageColor

from experiments.pictures import palette as colours
from experiments.pictures.palette import choose_ink, colour_mask, find_background, luminance, palette
from input_pipeline.batch import IGNORE
from tests.experiments.pictures.colours import lab


def closest_pair(points):
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    return distances[~np.eye(len(points), dtype=bool)].min()


def test_the_palette_is_fixed():
    # Golden values, because a class keeps its colour in every version.
    assert palette()[:10].tolist() == [
        [0, 114, 178], [230, 159, 0], [0, 158, 115], [213, 94, 0], [86, 180, 233], [204, 121, 167], [240, 228, 66],
        [93, 0, 23], [0, 0, 139], [116, 0, 255],
    ]  # fmt: skip
    assert palette().shape == (256, 3) and palette().dtype == np.uint8
    with pytest.raises(ValueError):
        palette()[0] = 0  # every caller shares it


# The unit is the just noticeable difference, 2.3 in CIELAB. The limits are a little below the values of the palette (11.5,
# 8.3, 3.1 and 2.6), so a worse palette fails. For more than about 20 classes, colours alone are not enough.
@pytest.mark.parametrize(("classes", "least"), [(7, 11), (21, 8), (81, 3), (255, 2.5)])
def test_colours_are_distinguishable(classes, least):
    assert len(np.unique(palette(), axis=0)) == 256
    assert closest_pair(lab(palette()[:classes])) > 2.3 * least
    assert np.linalg.norm(lab(palette()[:classes]) - lab(palette()[IGNORE:]), axis=-1).min() > 8


@pytest.mark.parametrize("cones", [colours.PROTANOPIA, colours.DEUTERANOPIA])
def test_colours_are_distinguishable_without_red_or_green_cones(cones):
    np.testing.assert_allclose(np.sum(cones, axis=1), 1, atol=1e-4)  # greys do not change
    linear = (palette()[:21] / 255) ** 2.2 @ np.transpose(cones)
    assert closest_pair(lab(255 * np.clip(linear, 0, 1) ** (1 / 2.2))) > 8


def test_pixels_without_a_class_are_hatched_in_grey():
    label = np.full((16, 16), IGNORE, np.uint8)
    label[0, 0] = 3
    drawn = colour_mask(label)
    np.testing.assert_array_equal(drawn[0, 0], palette()[3])
    assert {tuple(colour) for colour in drawn.reshape(-1, 3)[1:].tolist()} == set(colours.HATCH)


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (("background", "circle"), 0),
        (("pet", "background", "border"), 1),
        (("Void", "road"), 0),
        (("sky", "building", "road"), None),
        (("membrane", "cell"), None),
        (("backgrounds", "background_car"), None),
        ((), None),
    ],
)
def test_the_background_is_a_class_of_that_name(names, index):
    assert find_background(names) == index


NUMBERS = {(18, 32, 46), (1, 2, 3), (1, 2, 5)}  # places and ticks, which look like colours to `list_colours`


def list_colours(path):
    """List the colours in a source. They are tuples of three levels, texts of hex digits, and names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Tuple) and len(node.elts) == 3:
            levels = [own.value for own in node.elts if isinstance(own, ast.Constant)]
            if len(levels) == 3 and all(type(level) is int and 0 <= level <= 255 for level in levels):
                yield tuple(levels)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.lower()
            if re.fullmatch("#([0-9a-f]{3}|[0-9a-f]{6})", name) or name in ImageColor.colormap:
                yield name


def test_every_colour_comes_from_the_palette():
    """No other source has a colour except black and white. Outcomes differ by marks and lines."""
    folder = pathlib.Path(colours.__file__).parent
    sources = [path for path in folder.glob("*.py") if path.name != "palette.py"]
    sources += [path for name in ("results", "metrics") for path in (folder.parent / name).glob("*.py")]
    sources += [folder.parent / "compare" / name for name in ("gallery.py", "curves.py", "recall.py")]
    written = {colour for path in sources for colour in list_colours(path)}
    assert len(sources) > 20 and written - NUMBERS <= {"black", "white"}


def test_shades_and_greys_are_distinguishable_in_grey():
    """They differ in lightness, which every kind of colour vision sees."""
    for group in (colours.SHADES, (colours.INK, *colours.HATCH, colours.FAINT, (255, 255, 255))):
        lightness = np.sort(lab(np.array(group))[:, 0])
        assert np.diff(lightness).min() > 8


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (128, 128, 128)])
def test_each_colour_or_its_ink_is_visible_on_any_background(ground):
    """Frames and outlines have a border of ink, and are visible on dark and on bright images."""
    light = luminance(ground) + 0.05
    for colour in palette()[:255].tolist():
        ink = 0.0 if choose_ink(colour) == "black" else 1.0
        contrasts = [max(own, light) / min(own, light) for own in (luminance(colour) + 0.05, ink + 0.05)]
        assert max(contrasts) > 3
