"""The font of all pictures, which is part of Pillow."""

from PIL import ImageFont


def load_font(size: float) -> ImageFont.FreeTypeFont:
    """Return the font whose letters are `size` pixels high."""
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType
    return font
