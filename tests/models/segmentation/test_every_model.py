"""Every segmentation model, at 64x64 and small widths, has the right shape, has gradients and can overfit a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models import registry
from tests.models.drawn import disturb, draw

CLASSES, SIZE = 3, 64
NORM = dict(norm="batch", momentum=0.9)
VGG = dict(name="vgg", layers=11, width=0.1, norm="none", momentum=0.9)
RESNET = dict(name="resnet", layers=10, width=0.25, output_stride=16, **NORM)
FCN = dict(name="fcn", backbone=VGG, stride=8, fc=16, dropout=0.0, upsampling="learned", skip_scales=(1.0, 1.0))
UNET = dict(name="unet", depth=1, width=8, norm="none", momentum=0.9, dropout=0.0)
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
    "pix2pix": dict(name="pix2pix", width=8, depth=3, dropout=0.0, discriminator=8, norm="group", momentum=0.9),
    "deeplabv3plus": dict(
        name="deeplabv3plus",
        backbone=RESNET,
        aspp=16,
        rates=(2,),
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


# Frozen norms compile in half the time. The gradients of batch normalisation have their own tests.
FROZEN = dict(norm="frozen")
MODELS["unet_mobilenetv2, frozen"] = MODELS["unet_mobilenetv2"] | FROZEN
MODELS["unet_backbone, frozen"] = MODELS["unet_backbone, vgg"] | FROZEN
MODELS["deeplabv3plus, frozen"] = MODELS["deeplabv3plus"] | FROZEN | dict(backbone=RESNET | FROZEN)
# Other models cover most of their parts, and these parts have their own tests.
SLOW = (
    "fcn, padded by 100",
    "unet_backbone, resnet",
    "unet_backbone, vgg",
    "unet_backbone, mobilenet_v2",
    "unet_backbone, frozen",
    "unet_mobilenetv2",
    "deeplabv3plus",
)
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]


@pytest.mark.parametrize("name", NAMES)
def test_forward_pass_gradients_and_overfitting_one_batch(name):
    """The gradients include those of the discriminator's loss if the model has a discriminator."""

    def build():
        return registry.build(**MODELS[name], dtype="float32", rngs=nnx.Rngs(0), num_classes=CLASSES)

    # The slow models start from their own initial values. Noise is added, because a layer of zeros blocks the gradients of the
    # layers before it in the first step.
    model = disturb(build() if name in SLOW else draw(build), 0.05)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, (2, 4, 4)).repeat(16, 1).repeat(16, 2)
    images = (label[..., None] - 1 + rng.uniform(-0.5, 0.5, (2, SIZE, SIZE, 3))).astype(np.float32)

    def loss(params):
        model = nnx.merge(graphdef, params, rest, copy=True)
        logits = model(images, train=True, rngs=nnx.Rngs(0))
        margin = (SIZE - logits.shape[1]) // 2
        truth = label[:, margin : SIZE - margin, margin : SIZE - margin]
        pixels = optax.softmax_cross_entropy_with_integer_labels(logits, truth).mean()
        patches = 0.0
        if getattr(model, "discriminator", None) is not None:
            verdict = model.discriminate(images, jax.nn.one_hot(label, CLASSES), train=True)
            patches = optax.sigmoid_binary_cross_entropy(verdict, jnp.ones_like(verdict)).mean()
        return pixels + patches, (pixels, logits)

    evaluate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    mean = square = jax.tree.map(lambda value: np.zeros(value.shape, np.float32), params)
    losses = []
    for number in range(60):
        (_, (pixels, logits)), gradients = evaluate(params)
        losses.append(float(pixels))
        # Adam in numpy, because XLA takes seconds to compile it for many parameters.
        gradients = jax.tree.map(np.asarray, gradients)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradients)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, square, gradients)
        rate = 1e-2 * np.sqrt(1 - 0.999 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        params = jax.tree.map(
            lambda p, m, s, rate=rate: np.asarray(p - rate * m / (np.sqrt(s) + 1e-8)), params, mean, square
        )
        if number == 0:
            side = SIZE - 16 if MODELS[name].get("padding") == "valid" else SIZE
            assert logits.shape == (2, side, side, CLASSES) and logits.dtype == jnp.float32
            for path, gradient in nnx.to_flat_state(gradients):
                assert np.isfinite(gradient[...]).all() and np.abs(gradient[...]).max() > 0, path
    assert losses[-1] < 0.3 * losses[0], losses
