"""Batches depend only on the seed and their number, for any number of processes."""

import collections
import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.common import get_config
from errors import UserError
from input_pipeline.batch import IGNORE, OBJECTS, check_batch
from input_pipeline.loader import TrainLoader, draw_row
from input_pipeline.masks import Mask, collect
from input_pipeline.objects import area
from input_pipeline.truths import make_truth


class Squares:
    """A synthetic source. Each image shows its index."""

    class_names = ("background", "square")
    fingerprint, dropped = "", ()

    def __init__(self, sizes):
        self.sizes = list(sizes)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i) -> dict[str, np.ndarray]:
        label = np.zeros(self.sizes[i], np.uint8)
        label[2:5, 1:6] = 1
        return {"image": np.full((*self.sizes[i], 3), i, np.uint8), "label": label}

    def name(self, i):
        return f"square_{i}"

    def size(self, i):
        return self.sizes[i]


class Rectangles(Squares):
    """Images with objects. Only the k-th rectangle, of class k, is bright in colour channel k.

    By default three boxes are drawn that do not overlap. Class 1 is always a crowd, and class 2 is always difficult.
    """

    class_names = ("red", "green", "blue")

    def __init__(self, sizes, boxes=None):
        super().__init__(sizes)
        self.boxes = boxes

    def __getitem__(self, i):
        rng, (height, width) = np.random.default_rng(i), self.sizes[i]
        boxes = (
            [draw_box(rng, height, width // 3, k * width // 3) for k in range(3)] if self.boxes is None else self.boxes
        )
        boxes = np.array(boxes, np.float64).reshape(-1, 4)
        classes = np.arange(len(boxes), dtype=np.int32)
        image, masks = np.zeros((height, width, 3), np.uint8), np.zeros((len(boxes), height, width), bool)
        for k, (top, left, bottom, right) in enumerate(boxes.astype(int)):
            masks[k, top:bottom, left:right] = True
            image[masks[k], k % 3] = 240
        flags = {"crowd": classes == 1, "difficult": classes == 2, "area": area(boxes)}
        return {"image": image, "boxes": boxes, "classes": classes, "masks": collect(map(Mask, masks))} | flags


def draw_box(rng, height, width, left):
    """Draw a box in a column of this width, with sides between a quarter and the whole of the column."""
    (top, bottom), (near, far) = (
        (start := int(rng.integers(side * 3 // 4)), int(rng.integers(start + side // 4, side + 1)))
        for side in (height, width)
    )
    return top, left + near, bottom, left + far


def make_data(canvases=((8, 8),), fit="stretch", **augment):
    data = get_config().data
    data.update(image_size=(8, 8), canvases=canvases, fit=fit, prefetch=2)
    data.augment.update(augment)
    return data


def make_objects(fit="stretch", **augment):
    data = make_data(fit=fit, **augment)
    data.update(image_size=(64, 80), max_boxes=16, mean=(0.0, 0.0, 0.0), shortest=(48, 72))
    return data


def load(source, data, need="label", **options):
    return TrainLoader(source, make_truth((need,), data), data, **options)


def draw_objects(source, index, data, seed):
    return draw_row(source, make_truth(("boxes",), data), index, data.augment, np.random.default_rng(seed))


def take(loader, count):
    batches = list(itertools.islice(loader, count))
    loader.close()
    return batches


COLOURS = dict(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
STRONG = dict(scale=(0.7, 1.4), rotation=20.0, elastic=(1.0, 3.0), **COLOURS)
SOURCE = Squares([(10, 12)] * 7)


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


@pytest.mark.parametrize("process_count", [2, 4])
def test_number_of_processes_does_not_change_the_global_batches(process_count):
    data = make_data(**STRONG)
    whole = take(load(SOURCE, data, batch_size=8, seed=3), 5)
    parts = [
        take(load(SOURCE, data, batch_size=8, seed=3, process_index=i, process_count=process_count), 5)
        for i in range(process_count)
    ]
    for n, batch in enumerate(whole):
        check_batch(batch, ("label",))
        assert_equal(batch, {key: np.concatenate([part[n][key] for part in parts]) for key in batch})


def test_state_is_the_number_of_the_next_batch():
    data = make_data(**STRONG)
    loader = load(SOURCE, data, batch_size=3, seed=1)
    batches = []
    for n in range(6):
        assert loader.get_state() == n
        batches.append(next(loader))
    loader.set_state(2)
    assert loader.get_state() == 2
    for n in (2, 3, 4):
        assert_equal(next(loader), batches[n])
    loader.close()
    resumed = load(SOURCE, data, batch_size=3, seed=1)
    resumed.set_state(5)
    assert_equal(next(resumed), batches[5])
    assert resumed.get_state() == 6
    resumed.close()


def test_threads_and_prefetch_have_no_effect_on_batches():
    data = make_data(**STRONG)
    first = take(load(SOURCE, data, batch_size=3, seed=1), 4)
    data.update(num_threads=1, prefetch=1)
    for one, other in zip(first, take(load(SOURCE, data, batch_size=3, seed=1), 4), strict=True):
        assert_equal(one, other)


def test_each_epoch_has_a_new_order_of_all_examples():
    batches = take(load(SOURCE, make_data(), batch_size=7, seed=0), 3)
    epochs = [batch["image_id"] for batch in batches]
    assert all(set(epoch) == set(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_augmentation_changes_per_epoch_and_depends_on_the_seed():
    source, data = Squares([(10, 12)]), make_data(**STRONG)
    first, second = take(load(source, data, batch_size=2, seed=0), 2)
    other = take(load(source, data, batch_size=2, seed=1), 1)[0]
    assert (first["to_original"] != second["to_original"]).any()
    assert (first["to_original"] != other["to_original"]).any()


def test_fewer_examples_than_a_batch_are_repeated():
    batch = take(load(Squares([(10, 12)] * 2), make_data(), batch_size=6, seed=0), 1)[0]
    assert collections.Counter(batch["image_id"].tolist()) == {0: 3, 1: 3}


def test_open_loader_does_not_keep_the_interpreter_alive():
    program = """
        import numpy as np
        from configs.common import get_config
        from input_pipeline.loader import TrainLoader
        from input_pipeline.truths import make_truth

        example = {"image": np.zeros((8, 8, 3), np.uint8), "label": np.zeros((8, 8), np.uint8)}
        data = get_config().data
        next(TrainLoader([example] * 4, make_truth(("label",), data), data, batch_size=2, seed=0))
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout.strip()) == (0, "done"), result.stderr


def test_weight_map_is_computed_for_the_crop():
    """Two objects are one pixel apart. For any crop, only the background between them has a high weight."""

    class Pair(Squares):
        def __getitem__(self, i):
            instances = np.zeros(self.sizes[i], np.int32)
            instances[:, 2:6], instances[:, 8:12] = 1, 2
            return {"image": np.zeros((*self.sizes[i], 3), np.uint8), "label": (instances > 0).astype(np.uint8)} | {
                "instances": instances
            }

    source, data = Pair([(16, 16)]), make_data(fit="crop")
    data.update(image_size=(16, 16), weight_map=(10.0, 2.0))
    with pytest.raises(UserError, match="folder.instances"):
        load(SOURCE, data, batch_size=2, seed=0)
    for batch in take(load(source, data, batch_size=2, seed=0), 3):
        check_batch(batch, ("label", "weight_map"))
        between = np.zeros((2, 16, 16), bool)
        between[:, :, 6:8] = True  # the gap is in the middle, so a flip does not move it
        between[batch["to_original"][:, 0, 0] < 0] = between[0][:, ::-1]
        assert batch["weight_map"].dtype == np.float32
        assert ((batch["weight_map"] > 3) == between).all()
        assert (batch["weight_map"][batch["label"] == 1] == 1).all()


def test_crop_keeps_the_scale_and_reaches_every_border():
    """Even with a margin, every row and column of the image can get labels."""
    image = np.arange(24 * 30, dtype=np.uint8).reshape(24, 30)
    seen = np.zeros(image.shape, bool)

    class Counted(Squares):
        def __getitem__(self, i):
            return {"image": np.repeat(image[..., None], 3, -1), "label": np.zeros(image.shape, np.uint8)}

    data = make_data(fit="crop", flip=0.0)
    data.update(image_size=(16, 20), margin=4, border="mirror")
    for batch in take(load(Counted([image.shape]), data, batch_size=8, seed=0), 40):
        for label, matrix in zip(batch["label"], batch["to_original"], strict=True):
            assert np.allclose(matrix[:, :2], np.eye(2))
            rows, columns = np.mgrid[4:12, 4:16][:, label[4:12, 4:16] != IGNORE] + 0.5
            seen[(rows + matrix[1, 2]).astype(int), (columns + matrix[0, 2]).astype(int)] = True
    assert seen.any(0).all() and seen.any(1).all()


def test_image_smaller_than_the_crop_is_padded_and_ignored_outside():
    for border in ("mean", "mirror"):
        data = make_data(fit="crop", flip=0.0)
        data.update(image_size=(9, 9), border=border)
        batch = take(load(Squares([(1, 1)]), data, batch_size=1, seed=0), 1)[0]
        assert (batch["label"] != IGNORE).sum() == 1
        colours = set(np.unique(batch["image"]).tolist())
        assert colours == ({0} if border == "mirror" else {0, 128})


SSD = dict(zoom_out=(0.5, 4.0), iou_crop=True)
JITTER = dict(scale=(0.1, 2.0), aspect=1.3)
EVERYTHING = dict(**SSD, **COLOURS, scale=(0.7, 1.4), rotation=20.0, mosaic=0.5, mixup=0.5, copy_paste=0.5)
PICTURES = Rectangles([(60, 90), (100, 70), (40, 40), (130, 200), (64, 80)])
AUGMENTS = {
    "nothing": dict(flip=0.0),
    "flip": dict(flip=1.0),
    "jitter": JITTER,
    "zoom_out": dict(zoom_out=(1.0, 4.0)),
    "ssd": SSD,
    "ssd and jitter": SSD | JITTER,
    "mosaic": dict(mosaic=1.0),
    "mosaic of everything": dict(mosaic=1.0, **SSD, **JITTER),
    "rotation": dict(rotation=40.0),
    "copy_paste": dict(copy_paste=1.0),
    "copy_paste and jitter": dict(copy_paste=1.0, scale=(0.5, 2.0)),
}


def spread(box, by):
    """Return the pixels in 64x80 whose centres are in the box, enlarged (or, if negative, shrunk) by `by`."""
    top, left, bottom, right = box
    y, x = np.mgrid[:64, :80] + 0.5
    return (y > top - by) & (y < bottom + by) & (x > left - by) & (x < right + by)


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop", "shortest"])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, len(PICTURES) - 1))
def test_bright_pixels_fill_their_box(name, fit, seed, index):
    """The tolerance is one pixel, or a quarter of a pixel of the stored image, because scaled corners are smooth.

    With SSD's crops, objects with a centre outside have no box. Rotated or covered rectangles do not fill their box.
    """
    data = make_objects(fit, min_visible=0.0, **AUGMENTS[name])
    row = draw_objects(PICTURES, index, data, seed)
    boxes, classes = row["boxes"][row["valid"]], row["classes"][row["valid"]]
    np.testing.assert_array_equal(row["crowd"][row["valid"]], classes == 1)
    np.testing.assert_array_equal(row["difficult"][row["valid"]], classes == 2)
    assert row["boxes_lost"] == 0
    within = max(1.0, 0.25 / np.abs(np.diag(row["to_original"])).min())
    bright = row["image"] > 120
    boxed = np.zeros_like(bright)
    for box, kind in zip(boxes, classes, strict=True):
        if not ("rotation" in name or "copy_paste" in name):
            assert bright[spread(box, -within), kind].all()
        boxed[spread(box, 1), kind] = True
    if "iou_crop" not in AUGMENTS[name]:
        assert not (bright & ~boxed).any()


def test_examples_under_known_maps_equal_expected_boxes():
    source = Rectangles([(32, 40)], [[4, 8, 12, 32]])
    row = draw_objects(source, 0, make_objects(flip=0.0), 0)
    np.testing.assert_allclose(row["boxes"][0], [8, 16, 24, 64])
    np.testing.assert_allclose(row["to_original"], [[0.5, 0, 0], [0, 0.5, 0]])
    row = draw_objects(source, 0, make_objects(flip=1.0, scale=(0.5, 0.5), crop=False), 0)
    np.testing.assert_allclose(row["boxes"][0], [16 + 4, 20 + 40 - 32, 16 + 12, 20 + 40 - 8])
    assert row["valid"].sum() == 1 and row["original_size"].tolist() == [32, 40]
    row = draw_objects(source, 0, make_objects("shortest", flip=1.0, crop=False), 0)  # 48x60 pixels, at the top left
    np.testing.assert_allclose(row["boxes"][0], [6, 60 - 48, 18, 60 - 12])
    assert not row["image"][48:].any() and not row["image"][:, 60:].any()


def test_crops_keep_objects_with_centres_inside():
    """An object stays if its centre is in the patch, for any visible part. A crowd always stays."""
    source, kept, dropped = Rectangles([(64, 80)]), 0, 0
    for seed in range(60):
        data = make_objects(iou_crop=True, flip=0.0, min_visible=0.0)
        row = draw_objects(source, 0, data, seed)
        (left, top), (right, bottom) = row["to_original"] @ [0, 0, 1], row["to_original"] @ [80, 64, 1]
        boxes = source[0]["boxes"]
        y, x = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        inside = (y >= top - 1e-3) & (y < bottom - 1e-3) & (x >= left - 1e-3) & (x < right - 1e-3)
        seen = (boxes[:, 2] > top + 1e-3) & (boxes[:, 0] < bottom - 1e-3)
        seen &= (boxes[:, 3] > left + 1e-3) & (boxes[:, 1] < right - 1e-3)
        wanted = np.flatnonzero(np.where(source[0]["crowd"], seen, inside))
        np.testing.assert_array_equal(row["classes"][row["valid"]], wanted)
        kept, dropped = kept + inside.sum(), dropped + (~inside).sum()
    assert kept > 20 and dropped > 20


def test_min_visible_drops_objects_with_a_small_visible_part():
    source, data = Rectangles([(32, 40)], [[0, 15, 32, 25]]), make_objects(flip=0.0, scale=(2.0, 2.0))
    for least in (0.0, 0.4):
        data.augment.min_visible = least
        shares = []
        for seed in range(80):
            row = draw_objects(source, 0, data, seed)
            shares += (area(row["boxes"][row["valid"]]) / (128 * 40)).tolist()
        assert min(shares) >= least
        assert len(shares) > 20 if least == 0 else 0 < len(shares) < 80
    assert max(shares) == pytest.approx(0.5), "half of the height is visible"


@pytest.mark.parametrize("augment", [SSD | COLOURS, EVERYTHING], ids=["ssd", "all"])
def test_batches_of_objects_depend_only_on_the_seed_and_the_number(augment):
    data = make_objects(**augment)
    whole = take(load(PICTURES, data, "boxes", batch_size=4, seed=3), 4)
    parts = [
        take(load(PICTURES, data, "boxes", batch_size=4, seed=3, process_index=i, process_count=2), 4) for i in range(2)
    ]
    other = take(load(PICTURES, data, "boxes", batch_size=4, seed=4), 4)
    for n, batch in enumerate(whole):
        check_batch(batch, OBJECTS)
        assert_equal(batch, {key: np.concatenate([part[n][key] for part in parts]) for key in batch})
        assert (batch["image"] != other[n]["image"]).any()
    resumed = load(PICTURES, data, "boxes", batch_size=4, seed=3)
    resumed.set_state(3)
    assert_equal(next(resumed), whole[3])
    resumed.close()


@pytest.mark.parametrize("copy_paste", [0.0, 0.5])
@pytest.mark.parametrize("boxes", [[], None], ids=["none", "three"])
def test_images_without_objects_are_valid(copy_paste, boxes):
    augment = EVERYTHING | dict(mosaic=0.5, copy_paste=copy_paste)
    data, source = make_objects(**augment), Rectangles([(20, 30), (30, 20)], boxes)
    seen = 0
    for batch in take(load(source, data, "boxes", batch_size=4, seed=0), 4):
        check_batch(batch, OBJECTS)
        seen += batch["valid"].sum()
    assert (seen > 0) == (boxes is None)


def test_objects_above_the_maximum_are_counted():
    boxes = [[0, 0, 8, 8], [0, 0, 4, 4], [0, 0, 16, 20], [0, 0, 2, 2], [0, 0, 6, 6]]
    data, source = make_objects(flip=0.0), Rectangles([(32, 40)], boxes)
    data.max_boxes = 2
    batch = take(load(source, data, "boxes", batch_size=2, seed=0), 1)[0]
    check_batch(batch, OBJECTS)
    np.testing.assert_array_equal(batch["classes"], [[0, 2], [0, 2]])
    np.testing.assert_array_equal(batch["boxes_lost"], [3, 3])


def test_mixed_examples_come_from_the_whole_source():
    """The first quadrant of a mosaic is the example itself. Each of the others may be any example."""
    data = make_objects(mosaic=1.0, flip=0.0)
    source = Rectangles([(32, 40)] * 6)
    areas = [area(source[i]["boxes"])[0] for i in range(6)]
    assert len(set(areas)) == 6
    partners = set()
    for seed in range(40):
        row = draw_objects(source, 2, data, seed)
        assert row["image_id"] == 2
        own = row["boxes"][:3]
        matrix = np.linalg.inv(np.vstack([row["to_original"], [0, 0, 1]]))
        np.testing.assert_allclose(own, source[2]["boxes"] * np.tile(np.diag(matrix)[1::-1], 2), rtol=1e-5)
        right, bottom = np.diag(matrix)[:2] * (40, 32)
        assert 0.25 * 80 - 1 <= right <= 0.75 * 80 + 1 and 0.25 * 64 - 1 <= bottom <= 0.75 * 64 + 1
        # The area of the red object in the last quadrant identifies its example.
        share = area(row["boxes"][9]) / ((80 - right) * (64 - bottom))
        partners.add(int(np.argmin([abs(share - one / (32 * 40)) for one in areas])))
    assert partners == set(range(6))


def test_mixup_has_the_objects_of_two_examples():
    data = make_objects(mixup=1.0, flip=0.0)
    row = draw_objects(Rectangles([(64, 80)]), 0, data, 0)
    assert row["valid"].sum() == 6
    np.testing.assert_array_equal(row["boxes"][:3], row["boxes"][3:6])
    np.testing.assert_array_equal(row["image"], Rectangles([(64, 80)])[0]["image"])  # mixed with itself


class Unmasked(Rectangles):
    def __getitem__(self, i):
        example = super().__getitem__(i)
        del example["masks"]
        return example


@pytest.mark.parametrize(
    ("need", "augment", "source", "words"),
    [
        ("boxes", {}, SOURCE, "config.task.name needs boxes, but config.data.name='shapes' has only label; "),
        (
            "boxes",
            dict(copy_paste=0.5),
            Unmasked([(64, 80)]),
            "copy_paste needs masks, but .*'shapes' has only boxes; ",
        ),
        ("label", {}, PICTURES, "config.task.name needs label, but .*'shapes' has only boxes and masks; "),
    ],
)
def test_source_without_the_ground_truth_raises_an_error(need, augment, source, words):
    with pytest.raises(UserError, match=words) as caught:
        load(source, make_objects(**augment), need, batch_size=2, seed=0)
    assert "\n" not in str(caught.value)
