"""Every segmentation model, at 64x64 and small widths, has the right shape, has gradients and can overfit a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models import registry

CLASSES, SIZE = 3, 64
NORM = dict(norm="batch", momentum=0.9)
VGG = dict(name="vgg", layers=16, width=0.1, norm="none", momentum=0.9)
RESNET = dict(name="resnet", layers=10, width=0.25, output_stride=16, **NORM)
FCN = dict(name="fcn", backbone=VGG, stride=8, fc=16, dropout=0.0, upsampling="learned", skip_scales=(1.0, 1.0))
UNET = dict(name="unet", depth=2, width=8, norm="none", momentum=0.9, dropout=0.0)
MODELS = {
    "fcn": FCN | dict(padding="same"),
    "fcn, padded by 100": FCN | dict(padding="paper"),
    "unet": UNET | dict(padding="same"),
    "unet, unpadded": UNET | dict(padding="valid"),
    "unet_backbone, resnet": dict(name="unet_backbone", backbone=RESNET, decoder=(8, 8, 8), dropout=0.0, **NORM),
    "unet_backbone, vgg": dict(name="unet_backbone", backbone=VGG, decoder=(8, 8, 8, 8, 8), dropout=0.0, **NORM),
    "unet_backbone, mobilenet_v2": dict(
        name="unet_backbone",
        backbone=dict(name="mobilenet_v2", width=0.1, depth=0.1, variant="torchvision", **NORM),
        decoder=(8, 8, 8, 8),
        dropout=0.0,
        **NORM,
    ),
    "unet_mobilenetv2": dict(
        name="unet_mobilenetv2", width=0.1, depth=0.1, variant="keras", decoder=(8, 8, 8, 8), **NORM
    ),
    "pix2pix": dict(name="pix2pix", width=8, depth=6, dropout=0.0, discriminator=8, norm="group", momentum=0.9),
    "deeplabv3plus": dict(
        name="deeplabv3plus",
        backbone=RESNET,
        aspp=16,
        rates=(2, 4, 6),
        decoder=16,
        low_level=8,
        separable=True,
        dropout=0.0,
        **NORM,
    ),
}


def test_every_segmentation_model_is_tested():
    here = {name for name, place in registry.MODELS.items() if place.startswith("models.segmentation.")}
    assert {fields["name"] for fields in MODELS.values()} == here


# Other models cover most of their parts, and these parts have their own tests.
SLOW = ("fcn, padded by 100", "unet_backbone, vgg", "unet_backbone, mobilenet_v2")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]


@pytest.mark.parametrize("name", NAMES)
def test_forward_pass_gradients_and_overfitting_one_batch(name):
    """The gradients include those of the discriminator's loss if the model has a discriminator."""
    model = registry.build(**MODELS[name], dtype="float32", rngs=nnx.Rngs(0), num_classes=CLASSES)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    # Noise is added, because a layer of zeros blocks the gradients of the layers before it in the first step.
    params = jax.tree.map(lambda value: value + 0.05 * rng.standard_normal(value.shape).astype(np.float32), params)
    label = rng.integers(0, CLASSES, (2, 4, 4)).repeat(16, 1).repeat(16, 2)
    images = jnp.asarray((label[..., None] - 1 + rng.uniform(-0.5, 0.5, (2, SIZE, SIZE, 3))), jnp.float32)

    def loss(params):
        model = nnx.merge(graphdef, params, rest, copy=True)
        logits = model(images, train=True, rngs=nnx.Rngs(0))
        margin = (SIZE - logits.shape[1]) // 2
        truth = jnp.asarray(label[:, margin : SIZE - margin, margin : SIZE - margin])
        pixels = optax.softmax_cross_entropy_with_integer_labels(logits, truth).mean()
        patches = 0.0
        if getattr(model, "discriminator", None) is not None:
            verdict = model.discriminate(images, jax.nn.one_hot(label, CLASSES), train=True)
            patches = optax.sigmoid_binary_cross_entropy(verdict, jnp.ones_like(verdict)).mean()
        return pixels + patches, (pixels, logits)

    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        (_, (pixels, logits)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, pixels, logits, gradients

    state, losses = optimizer.init(params), []
    for number in range(60):
        params, state, pixels, logits, gradients = step(params, state)
        losses.append(float(pixels))
        if number == 0:
            side = SIZE - 40 if MODELS[name].get("padding") == "valid" else SIZE
            assert logits.shape == (2, side, side, CLASSES) and logits.dtype == jnp.float32
            for path, gradient in nnx.to_flat_state(gradients):
                assert np.isfinite(gradient[...]).all() and np.abs(gradient[...]).max() > 0, path
    assert losses[-1] < 0.3 * losses[0], losses
