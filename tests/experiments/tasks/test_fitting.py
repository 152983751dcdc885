"""k-means equals hand-computed clusters, and proposed fields equal those that made the objects."""

import numpy as np
import pytest

from experiments.tasks.fitting import cluster, measure, propose_anchors, propose_default_boxes


def make_boxes(shapes, rng=None):
    """Place boxes of these (height, width) at random."""
    corners = np.random.default_rng(0).uniform(0, 50, (len(shapes), 2))
    return np.concatenate([corners, corners + shapes], -1)


def test_clusters_equal_hand_computed_clusters():
    values = np.array([5.0, 1.0, 9.0, 2.0, 10.0, 6.0])
    np.testing.assert_allclose(cluster(values, np.ones(6), 3), [1.5, 5.5, 9.5])
    np.testing.assert_allclose(cluster(values, np.array([1, 3, 1, 1, 1, 1.0]), 3), [1.25, 5.5, 9.5])


def test_values_without_weight_do_not_move_a_centre():
    np.testing.assert_allclose(cluster(np.array([1.0, 2.0, 50.0]), np.array([1.0, 1.0, 0.0]), 1), [1.5])


def test_equal_values_give_the_requested_number_of_centres():
    np.testing.assert_allclose(cluster(np.full(5, 3.0), np.ones(5), 3), [3.0] * 3)


def test_sizes_are_square_roots_of_areas_in_the_given_unit():
    size, shape = measure(np.array([[0, 0, 8, 32], [10, 10, 20, 20]], float))
    np.testing.assert_allclose(np.exp(size), [16, 10])
    np.testing.assert_allclose(np.exp(shape), [4, 1])
    size, shape = measure(np.array([[0, 0, 8, 32]], float), (16, 64))
    np.testing.assert_allclose((np.exp(size), np.exp(shape)), [[0.5], [1]])


def test_proposed_default_boxes_have_the_sizes_of_the_objects():
    """Half of the boxes have size 0.1 of the input, half have 0.4. All are twice as wide as high in these units."""
    scale = np.repeat([0.1, 0.4], 20)[:, None]
    boxes = make_boxes(scale * [200 / np.sqrt(2), 100 * np.sqrt(2)])
    proposed = list(propose_default_boxes(boxes, np.ones(40), (200, 100), maps=3))
    assert proposed[0]["sizes"] == pytest.approx((0.1, 0.4, 0.6, 0.9), rel=0.01) and "ratios" not in proposed[0]
    assert proposed[3]["ratios"] == ((2.0,),) * 3
    for fields in proposed:
        assert len(fields["sizes"]) == 4 and np.all(np.diff(fields["sizes"]) > 0)


def test_square_objects_keep_the_ratios_of_the_model():
    boxes = make_boxes(np.full((9, 2), 30.0))
    assert all("ratios" not in fields for fields in propose_default_boxes(boxes, np.ones(9), (100, 100), maps=2))


@pytest.mark.parametrize("octaves", [1, 2])
def test_proposed_anchors_start_at_the_smallest_objects(octaves):
    """Sizes of 24, 48 and 96 at strides of 8, 16 and 32 give a scale of 3."""
    sizes = np.repeat([24.0, 48.0, 96.0], 10)
    sizes = np.concatenate([sizes * 2 ** (octave / octaves) for octave in range(octaves)])
    boxes = make_boxes(np.stack([sizes * 2, sizes / 2], -1))
    fields = next(iter(propose_anchors(boxes, np.ones(len(boxes)), (8, 16, 32), octaves, spans=False)))
    assert fields == {"scale": 3.0}
    wide = next(
        own for own in propose_anchors(boxes, np.ones(len(boxes)), (8, 16, 32), octaves, spans=False) if own != fields
    )
    assert wide["ratios"] == (0.25,) and wide["octaves"] == 1


def test_proposed_anchors_of_one_level_span_the_object_sizes():
    """Boxes of 128, 256 and 512 pixels at a stride of 16 give the published scale 8 and three octaves that span 3."""
    boxes = make_boxes(np.repeat([128.0, 256.0, 512.0], 7)[:, None] * [1, 1])
    fields = next(iter(propose_anchors(boxes, np.ones(21), (16,), 3, spans=True)))
    assert fields == {"scale": pytest.approx(8, rel=0.01), "span": pytest.approx(3, rel=0.01)}
