"""The views of an evaluation show every image once for any number of processes, and windows cover the image."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.common import get_config
from errors import UserError
from input_pipeline.augment import geometry
from input_pipeline.batch import IGNORE, OBJECTS, blank, check_batch, list_canvases
from input_pipeline.truths import make_truth
from input_pipeline.views import ViewBatches, check_views, choose_canvas, plan_views
from tests.input_pipeline.test_loader import Rectangles, Squares


def make(canvases=((8, 8),), fit="stretch", margin=0, border="mean", **evaluation):
    config = get_config()
    config.data.update(canvases=canvases, fit=fit, margin=margin, border=border, image_size=canvases[0])
    config.eval.update(evaluation)
    return config


def batches(source, config, need="label", **process):
    views = ViewBatches(source, make_truth((need,), config.data), config.data, config.eval, **process)
    for batch, pieces in views:
        yield batch, pieces
        for index in {piece.index for piece in pieces}:
            assert views.example(index)["image"].shape[:2] == source.size(index)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 11),
    rows=st.integers(1, 3),
    process_count=st.sampled_from([1, 2, 4]),
    canvases=st.sampled_from([((64, 64),), ((64, 64), (48, 96), (96, 48))]),
    fit=st.sampled_from(["stretch", "letterbox"]),
    method=st.sampled_from(["whole", "window"]),
    flip=st.booleans(),
    scales=st.sampled_from([(1.0,), (1.0, 0.5)]),
)
def test_every_view_of_every_image_is_seen_once(count, rows, process_count, canvases, fit, method, flip, scales):
    source = Squares([(80, 80), (60, 130), (140, 70)][i % 3] for i in range(count))
    config = make(canvases, fit, method=method, flip=flip, scales=scales, batch_size=rows * process_count)
    shards = [list(batches(source, config, process_index=i, process_count=process_count)) for i in range(process_count)]
    shapes = [[batch["image"].shape for batch, _ in shard] for shard in shards]
    assert all(shape == shapes[0] for shape in shapes), "every process runs the same steps"
    seen = []
    for process, shard in enumerate(shards):
        for batch, pieces in shard:
            check_batch(batch, ("label",))
            assert len(batch["image"]) == rows and batch["example_mask"].sum() == len(pieces)
            assert (batch["label"][~batch["example_mask"]] == IGNORE).all()
            for row, piece in enumerate(pieces):
                assert piece.index % process_count == process, "one process has all views of an image"
                assert batch["image_id"][row] == piece.index in batch["image"][row]
                seen.append((piece.index, piece.view.canvas, piece.view.matrix.tobytes()))
    planned = [
        (index, view.canvas, view.matrix.tobytes())
        for index in range(count)
        for view in plan_views(source.size(index), config.data, config.eval)
    ]
    assert sorted(seen) == sorted(planned)


def test_few_images_are_in_progress_at_the_same_time():
    """This holds for any number of images, although their views have canvases of two sizes."""

    class Watched(Squares):
        loaded = 0

        def __getitem__(self, i):
            Watched.loaded += 1
            return super().__getitem__(i)

    source = Watched([(70, 90), (90, 70)] * 50)
    config = make(((64, 96), (96, 64)), scales=(1.0, 0.5), batch_size=2)
    views = ViewBatches(source, make_truth(("label",), config.data), config.data, config.eval)
    done: dict[int, int] = {}
    for _, pieces in views:
        for piece in pieces:
            done[piece.index] = done.get(piece.index, 0) + 1
            if done[piece.index] == piece.count:
                views.release(piece.index)
        finished = sum(done[index] == 2 for index in done)
        assert Watched.loaded - finished <= 16
    assert Watched.loaded == 100, "an image is decoded once, for any number of its views"


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    canvas=st.tuples(st.integers(52, 130), st.integers(52, 130)),
    margin=st.sampled_from([0, 5, 10]),
    overlap=st.sampled_from([0.0, 0.3, 0.5]),
    scale=st.sampled_from([1.0, 0.5, 1.7]),
)
def test_windows_cover_the_image_at_aligned_offsets(size, canvas, margin, overlap, scale):
    config = make((canvas,), margin=margin, method="window", overlap=overlap, scales=(scale,))
    covered = np.zeros(size, int)
    for view in plan_views(size, config.data, config.eval):
        assert view.canvas == canvas
        to_original = np.linalg.inv(view.matrix)
        offset = to_original[:2, 2] / np.diag(to_original)[:2] + margin
        np.testing.assert_allclose(offset % 32 % 31.999, 0, atol=2e-3)
        rows, columns = (
            np.flatnonzero((place >= margin - 1e-6) & (place <= side - margin + 1e-6))
            for place, side in (
                (view.matrix[1, 1] * (np.arange(size[0]) + 0.5) + view.matrix[1, 2], canvas[0]),
                (view.matrix[0, 0] * (np.arange(size[1]) + 0.5) + view.matrix[0, 2], canvas[1]),
            )
        )
        covered[np.ix_(rows, columns)] += 1
    assert covered.all()


def test_mirrored_view_shows_the_mirrored_image():
    config = make(((8, 12),), flip=True)
    plain, mirrored = plan_views((10, 13), config.data, config.eval)
    image = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)
    one, other = (geometry.warp_image(image, view.matrix, view.canvas, (0, 0, 0)) for view in (plain, mirrored))
    assert np.abs(one[:, ::-1].astype(int) - other).max() <= 1
    assert plain.counted and not mirrored.counted


def test_labels_count_once_in_the_loss():
    config = make(((64, 64),), flip=True, scales=(1.0, 0.5), batch_size=1)
    labelled = [(batch["label"] != IGNORE).any() for batch, _ in batches(Squares([(64, 64)]), config)]
    assert labelled == [True, False, False, False]


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("margin", [0, 2])
def test_method_canvas_scores_the_resized_image(fit, margin):
    config = make(((12, 12), (12, 16)), fit, margin, method="canvas", batch_size=1)
    views = ViewBatches(Squares([(30, 30), (30, 45)]), make_truth(("label",), config.data), config.data, config.eval)
    for (batch, pieces), width in zip(views, (12, 16), strict=True):
        example = views.example(pieces[0].index)
        # For fit=crop it is the largest canvas, because no canvas contains these images.
        size = (12 - 2 * margin, (16 if fit == "crop" else width) - 2 * margin)
        assert example["label"].shape == size
        inside = batch["label"][0, margin : margin + size[0], margin : margin + size[1]]
        np.testing.assert_array_equal(inside, example["label"])


def test_crop_uses_the_smallest_canvas_that_contains_the_image():
    config = make(((64, 64), (40, 96), (128, 128)), fit="crop", margin=4)
    assert choose_canvas((20, 80), config.data) == (40, 96)
    assert choose_canvas((56, 56), config.data) == (64, 64)
    assert choose_canvas((57, 56), config.data) == (128, 128)
    windows = plan_views((121, 20), config.data, config.eval)
    assert len(windows) == 2 and {view.canvas for view in windows} == {(128, 128)}, (
        "images that are too large need windows"
    )


def make_shortest(canvases, shortest, **fields):
    config = make(canvases, fit="shortest", **fields)
    config.data.shortest = shortest
    return config


def test_shortest_uses_the_smallest_canvas_for_the_scaled_image():
    config = make_shortest(((96, 96), (64, 128), (128, 64), (64, 96)), (64, 107))
    for size, canvas, scaled in (
        ((100, 100), (64, 96), (64, 64)),
        ((100, 125), (64, 96), (64, 80)),
        ((300, 1000), (64, 128), (32, 107)),
        ((427, 640), (64, 96), (64, 95)),
        ((427, 700), (64, 128), (64, 104)),
        ((700, 427), (128, 64), (104, 64)),
        ((60, 40), (128, 64), (96, 64)),
    ):
        (view,) = plan_views(size, config.data, config.eval)
        assert view.canvas == canvas
        np.testing.assert_allclose(view.matrix, np.diag([scaled[1] / size[1], scaled[0] / size[0], 1.0]))


def test_zooms_multiply_the_scale_of_shortest():
    config = make_shortest(((64, 128),), (64, 107), scales=(1.0, 0.5, 1.5), flip=True)
    views = plan_views((50, 70), config.data, config.eval)
    assert [view.canvas for view in views] == [(64, 128)] * 2 + [(32, 64)] * 2 + [(96, 192)] * 2
    for view, scaled in zip(views, ((64, 89),) * 2 + ((32, 44),) * 2 + ((96, 134),) * 2, strict=True):
        mirrored = view.matrix[0, 0] < 0
        corners = np.sort((view.matrix @ np.array([[0, 0, 1], [70, 50, 1]]).T)[:2])
        left = view.canvas[1] - scaled[1] if mirrored else 0
        np.testing.assert_allclose(corners, [[left, left + scaled[1]], [0, scaled[0]]], atol=1e-9)


def test_windows_of_shortest_cover_the_scaled_image():
    config = make_shortest(((64, 64),), (64, 128), method="window", overlap=0.0)
    first, second = plan_views((100, 200), config.data, config.eval)
    np.testing.assert_allclose(first.matrix, geometry.scaling(0.64, 0.64))
    np.testing.assert_allclose(second.matrix, geometry.translation(-64, 0) @ geometry.scaling(0.64, 0.64))


def test_canvas_too_small_for_fit_shortest_raises_an_error():
    """The error names the image before it is decoded, even with a single canvas."""
    config = make_shortest(((64, 96),), (64, 107), batch_size=1)
    source = Squares([(64, 64), (60, 40)])
    with pytest.raises(UserError) as caught:
        list(batches(source, config))
    message = str(caught.value)
    assert "\n" not in message and message.startswith("square_1: config.data.shortest=(64, 107)")
    assert "60x40" in message and "96x64" in message and "add (96, 64) to config.data.canvases" in message


def test_shortest_is_not_scored_on_its_canvas():
    config = make_shortest(((64, 96),), (64, 107), method="canvas")
    with pytest.raises(UserError, match="config.eval.method='canvas' does not work with config.data.fit='shortest'"):
        check_views(make_truth(("label",), config.data), config.data, config.eval)


def test_shortest_fills_the_canvas_with_the_mean_at_the_right_and_bottom():
    config = make_shortest(((64, 96),), (32, 64), batch_size=1)
    config.data.mean = (10.0, 20.0, 30.4)
    ((batch, _),) = batches(Squares([(16, 20)]), config)
    (image,) = batch["image"]
    assert (image[:32, :40] == image[0, 0]).all() and image[0, 0].tolist() != [10, 20, 30]
    assert (image[32:] == [10, 20, 30]).all() and (image[:, 40:] == [10, 20, 30]).all()
    assert (batch["label"][0] != IGNORE).sum() == 32 * 40
    np.testing.assert_allclose(batch["to_original"][0], [[0.5, 0, 0], [0, 0.5, 0]])


@pytest.mark.parametrize("scale", [0.75, 1.25, 1.5])
def test_zoomed_crop_has_a_canvas_that_contains_it(scale):
    config = make(((360, 480),), fit="crop", scales=(scale,))
    (view,) = plan_views((360, 480), config.data, config.eval)
    corners = view.matrix @ np.array([[0, 0, 1], [480, 360, 1]]).T
    np.testing.assert_allclose(corners[0, 1] - corners[0, 0], scale * 480)
    assert (corners[:2] >= 0).all() and (corners[:2, 1] <= view.canvas[::-1]).all()


def test_margin_is_context_and_mirrored_at_the_border():
    config = make(((12, 12),), fit="crop", margin=2, border="mirror", batch_size=1)
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)

    class One(Squares):
        def __getitem__(self, i):
            return {"image": np.repeat(image[..., None], 3, -1), "label": np.ones((8, 8), np.uint8)}

    batch, _ = next(batches(One([(8, 8)]), config))
    np.testing.assert_array_equal(batch["image"][0, ..., 0], np.pad(image, 2, mode="reflect"))
    np.testing.assert_array_equal(batch["label"][0], np.pad(np.ones((8, 8)), 2, constant_values=IGNORE))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (dict(scales=()), "eval.scales"),
        (dict(margin=4), "data.margin"),
    ],
)
def test_invalid_fields_raise_a_one_line_error(fields, name):
    config = make(**fields)
    with pytest.raises(UserError, match=f"config.{name}") as caught:
        check_views(make_truth(("label",), config.data), config.data, config.eval)
    assert "\n" not in str(caught.value)


def test_image_size_is_the_canvas_without_canvases():
    config = make(((48, 64),))
    config.data.canvases = ()
    assert list_canvases(config.data) == [(48, 64)] == [choose_canvas((10, 400), config.data)]
    config.data.update(image_size=(32, 32), canvases=((48, 64), (64, 48)))
    assert list_canvases(config.data) == [(48, 64), (64, 48)]


def test_margin_that_covers_the_canvas_raises_an_error():
    config = make(((16, 16),), margin=4)
    truth = make_truth(("label",), config.data)
    config.data.canvases = ((16, 16), (32, 8))
    with pytest.raises(UserError, match=r"config.data.margin=4 leaves nothing of config.data.canvases=\(32, 8\)"):
        check_views(truth, config.data, config.eval)


def test_abandoned_evaluation_ends():
    iterator = iter(batches(Squares([(10, 12)] * 7), make(batch_size=1)))
    list(itertools.islice(iterator, 2))
    iterator.close()


def test_abandoned_evaluation_loads_no_more_images():
    class Counted(Squares):
        loaded = 0

        def __getitem__(self, i):
            Counted.loaded += 1
            time.sleep(0.02)
            return super().__getitem__(i)

    config = make(batch_size=16)
    config.data.num_threads = 1
    iterator = iter(batches(Counted([(10, 12)] * 64), config))
    next(iterator)
    iterator.close()
    assert Counted.loaded < 40


def test_image_that_changes_its_size_is_named():
    class Shrinking(Squares):
        def size(self, i):
            return (100, 100)

    config = make(((64, 64),), method="window")
    with pytest.raises(UserError, match="square_0 is 10x10 now"):
        list(batches(Shrinking([(10, 10)]), config))


def make_detection(canvases=((64, 80),), **fields):
    config = make(canvases, **fields)
    config.data.max_boxes = 4
    return config


def test_views_have_the_boxes_inside_them():
    """The views are a stretched image, then windows of 64x64 at columns 0 and 32 with their parts of the boxes."""
    source = Rectangles([(32, 40)], [[4, 8, 12, 32], [0, 0, 32, 40]])
    (batch, _), *_ = batches(source, make_detection(flip=True, batch_size=2), "boxes")
    check_batch(batch, OBJECTS)
    np.testing.assert_array_equal(batch["boxes"][0, :2], [[8, 16, 24, 64], [0, 0, 64, 80]])
    np.testing.assert_array_equal(batch["valid"].sum(1), [2, 0])  # boxes of the mirrored image do not count
    np.testing.assert_array_equal(batch["crowd"][0], [False, True, False, False])

    source = Rectangles([(64, 96)], [[4, 8, 12, 32], [10, 20, 30, 90]])
    (batch, _), *_ = batches(source, make_detection(((64, 64),), method="window", batch_size=2), "boxes")
    np.testing.assert_array_equal(batch["boxes"][0, :2], [[4, 8, 12, 32], [10, 20, 30, 64]])
    np.testing.assert_array_equal(batch["boxes"][1, :1], [[10, 0, 30, 58]])
    np.testing.assert_array_equal(batch["valid"].sum(1), [2, 1])
    np.testing.assert_array_equal(batch["classes"][1, 0], 1)


def test_rows_without_objects_are_valid():
    """Such rows are images without objects, images that are only predicted, and padding of a batch."""

    class Files(Squares):
        def __getitem__(self, i):
            return {"image": super().__getitem__(i)["image"]}

    for source in (Rectangles([(10, 12)] * 3, []), Files([(10, 12)] * 3)):
        for batch, _ in batches(source, make_detection(batch_size=2), "boxes"):
            check_batch(batch, OBJECTS)
            assert not batch["valid"].any() and not batch["boxes"].any() and not batch["boxes_lost"].any()


@pytest.mark.parametrize("need", ["label", "boxes"])
def test_blank_row_equals_the_padding_row_of_a_batch(need):
    source = (Squares if need == "label" else Rectangles)([(10, 12)])
    config = make_detection(batch_size=2)
    ((batch, _),) = batches(source, config, need)
    filler = blank((64, 80), make_truth((need,), config.data).blank((64, 80)))
    assert filler.keys() == batch.keys()
    for key, value in filler.items():
        np.testing.assert_array_equal(batch[key][1], value, err_msg=key)
        assert batch[key].dtype == value.dtype
    assert not filler["example_mask"]


def test_evaluation_is_not_augmented():
    config = make_detection(fit="letterbox", batch_size=2)
    plain = list(batches(Rectangles([(60, 90), (100, 70)]), config, "boxes"))
    config.data.augment.update(
        dict(flip=1.0, scale=(0.1, 0.2), rotation=90.0, zoom_out=(1.0, 4.0), iou_crop=True, min_visible=1.0),
        **dict(mosaic=1.0, mixup=1.0, copy_paste=1.0, brightness=1.0),
    )
    for (one, _), (other, _) in zip(plain, batches(Rectangles([(60, 90), (100, 70)]), config, "boxes"), strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_boxes_are_not_scored_on_a_canvas():
    config = make_detection(method="canvas")
    with pytest.raises(UserError, match="config.eval.method='canvas'") as caught:
        check_views(make_truth(("boxes",), config.data), config.data, config.eval)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "evaluation",
    [dict(flip=True, scales=(1.0, 0.5)), dict(method="window", overlap=0.0, flip=True)],
    ids=["zooms", "windows"],
)
def test_every_view_has_the_proposals_inside_it(evaluation):
    """This includes mirrored and zoomed views, although their ground truth does not count."""

    class Proposed(Rectangles):
        def __getitem__(self, i):
            return super().__getitem__(i) | {"proposals": np.array([[4, 8, 12, 32], [10, 20, 30, 90]], np.float32)}

    source, config = Proposed([(64, 96)], [[4, 8, 12, 32]]), make_detection(((64, 64),), batch_size=2, **evaluation)
    config.data.max_proposals = 3
    truth, counted, views = make_truth(("boxes", "proposals"), config.data), 0, 0
    for batch, pieces in ViewBatches(source, truth, config.data, config.eval):
        check_batch(batch, truth.keys)
        for row, piece in enumerate(pieces):
            expected = []
            for top, left, bottom, right in source[0]["proposals"]:
                x, y, _ = piece.view.matrix @ np.array([[left, top, 1], [right, bottom, 1]]).T
                (left, right), (top, bottom) = np.sort(x.clip(0, piece.view.canvas[1])), np.sort(y)
                expected += [[top, left, bottom, right]] if right > left else []
            assert expected and batch["proposal_mask"][row].sum() == len(expected)
            np.testing.assert_allclose(batch["proposals"][row, : len(expected)], expected, atol=1e-4)
            assert batch["valid"][row].any() <= piece.view.counted
            counted, views = counted + batch["valid"][row].any(), views + 1
        assert not batch["proposal_mask"][len(pieces) :].any()
    assert views == 4 and counted == 1
