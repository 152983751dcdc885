import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import common, detectors
from models import registry

PUBLISHED = 44_401_393  # torchvision's maskrcnn_resnet50_fpn: 91 classes with the background, frozen norms


def fields_of(use, **fields):
    config = common.get_config()
    use(config)
    config.model.update(fields)
    return config.model.to_dict()


def test_parameter_count_equals_the_published_network():
    model = nnx.eval_shape(
        lambda: registry.build(**fields_of(detectors.use_mask_rcnn), num_classes=90, rngs=nnx.Rngs(0))
    )
    counts = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        counts[path[0]] = counts.get(path[0], 0) + int(np.prod(leaf.shape))
    assert sum(counts.values()) == PUBLISHED
    assert counts["mask_head"] == 4 * (9 * 256 + 1) * 256 + (4 * 256 + 1) * 256 + (256 + 1) * 91


def test_masks_have_28x28_cells_per_class():
    small = dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), fc=16, mask_depth=1, mask_width=8)
    fields = fields_of(detectors.use_light_mask_rcnn, **small, dtype="bfloat16")
    model = nnx.eval_shape(lambda: registry.build(**fields, num_classes=3, rngs=nnx.Rngs(0)))
    images, regions = jax.ShapeDtypeStruct((2, 75, 109, 3), jnp.float32), jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)
    found = nnx.eval_shape(lambda m, x, r: m.segment(m.features(x, train=True), r), model, images, regions)
    assert (found.shape, found.dtype) == ((2, 5, 28, 28, 4), jnp.float32)
