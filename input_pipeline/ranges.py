"""The ranges of single fields of config.data, checked before anything is made."""

from ml_collections import ConfigDict

from errors import UserError


def check_ranges(data: ConfigDict) -> None:
    """Raises UserError unless each field of config.data is in its range, whatever the others say."""

    def is_size(value) -> bool:
        return isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)

    if not is_size(data.image_size):
        raise UserError(f"config.data.image_size={data.image_size} is not a (height, width); write '(128, 128)'")
    if not isinstance(data.canvases, tuple) or not all(map(is_size, data.canvases)):
        raise UserError(
            f"config.data.canvases={data.canvases} is not a tuple of (height, width); write '((128, 128),)'"
        )
    for field in ("num_threads", "max_boxes"):
        if data[field] < 1:
            raise UserError(f"config.data.{field}={data[field]} is out of its range; it must be 1 or more")
    if data.border not in ("mean", "mirror"):
        raise UserError(f"config.data.border={data.border!r} is unknown; choose mean or mirror")
    augment = data.augment
    low, high = augment.scale
    deviation, smoothing = augment.elastic
    if len(augment.zoom_out) != 2:
        raise UserError(f"config.data.augment.zoom_out={augment.zoom_out} is not a (probability, largest factor)")
    probability, largest = augment.zoom_out
    rules = {
        "flip": (0 <= augment.flip <= 1, "a probability, 0 to 1"),
        "scale": (0 < low <= high, "two positive factors, the smaller one first"),
        "aspect": (augment.aspect >= 1, "a factor of at least 1"),
        "translate": (0 <= augment.translate < 1, "a share of the sides, 0 to below 1"),
        "rotation": (0 <= augment.rotation <= 180, "0 to 180 degrees"),
        "elastic": (deviation >= 0 and smoothing > 0, "a deviation of at least 0 and a smoothing above 0"),
        "zoom_out": (0 <= probability <= 1 and largest >= 1, "a probability, 0 to 1, and a factor of at least 1"),
        "min_visible": (0 <= augment.min_visible <= 1, "a share, 0 to 1"),
        "mosaic": (0 <= augment.mosaic <= 1, "a probability, 0 to 1"),
        "mixup": (0 <= augment.mixup <= 1, "a probability, 0 to 1"),
        "copy_paste": (0 <= augment.copy_paste <= 1, "a probability, 0 to 1"),
        "brightness": (0 <= augment.brightness <= 1, "0 to 1"),
        "contrast": (0 <= augment.contrast <= 1, "0 to 1"),
        "saturation": (0 <= augment.saturation <= 1, "0 to 1"),
        "hue": (0 <= augment.hue <= 0.5, "0 to 0.5 turns"),
    }
    for field, (holds, wanted) in rules.items():
        if not holds:
            raise UserError(f"config.data.augment.{field}={augment[field]} is out of its range: {wanted}")
