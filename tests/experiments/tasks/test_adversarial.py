"""Discriminator and generator share one loss, and each gets its own gradients. Evaluation has no discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import pix2pix_camvid
from errors import UserError
from experiments.run import pretrained, sharding
from experiments.run import state as states
from experiments.run.checkpoints import Checkpoints
from experiments.run.directory import resolve
from experiments.run.optim import make_optimizer
from experiments.run.step import compile_step, make_train_step
from experiments.tasks.base import total_loss
from experiments.tasks.registry import make_task

CLASSES = ("a", "b", "c")


def make(**fields):
    config = pix2pix_camvid.get_config("debug")
    config.task.losses.dice.factor = 0.0
    config.model.update(dict(norm="group", dropout=0.0, depth=2) | fields)
    return config


def make_batch(size=4, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, (size, 32, 32)).astype(np.uint8)
    label[: size // 2, :16] = 255
    batch = {
        "image": rng.integers(0, 256, (size, 32, 32, 3), np.uint8),
        "label": label,
        "example_mask": np.ones(size, bool),
    }
    return batch


def draw_variables(shapes):
    """Draw kernels, scales near 1 and small biases."""
    rng = np.random.default_rng(0)
    return {
        name: (float(name.endswith("scale")) + 0.1 * rng.standard_normal(own.shape)).astype(np.float32)
        for name, own in shapes.items()
    }


@pytest.fixture(scope="module")
def setting():
    config = make()
    architecture, shapes, _ = states.describe(config, 3)
    return config, make_task(config, CLASSES), architecture, draw_variables(shapes)


def objectives(architecture, variables, batch, mean, std):
    """Compute the three parts of section 3. They are means over patches, and labelled pixels weight the images."""
    model = architecture.merge(variables)
    image = (batch["image"].astype(np.float32) - mean) / std
    known = (batch["label"] != 255)[..., None]
    truth = jax.nn.one_hot(batch["label"], 3)
    logits = model(image, train=True, rngs=nnx.Rngs(0))
    predicted = jnp.where(known, jax.nn.softmax(logits), 0.0)
    share = known.sum((1, 2, 3)) / known.sum()
    real, fake = (model.discriminate(image, maps, train=True)[..., 0] for maps in (truth, predicted))

    def mean_of(patches):
        return jnp.sum(share * patches.mean((1, 2)))

    log_p = jax.nn.log_softmax(logits)
    pixels = -jnp.sum(jnp.where(known, truth * log_p, 0.0)) / known.sum()
    generator = mean_of(-jax.nn.log_sigmoid(fake))
    discriminator = 0.5 * (mean_of(-jax.nn.log_sigmoid(real)) + mean_of(-jax.nn.log_sigmoid(-fake)))
    return pixels, generator, discriminator


def test_generator_and_discriminator_have_the_gradients_of_their_losses(setting):
    _, task, architecture, variables = setting
    batch = make_batch()

    def ours(variables, batch):
        model = architecture.merge(variables)
        terms, logs = task.loss(task.apply(model, batch, train=True, rngs=nnx.Rngs(0)), batch)
        return total_loss(terms), {name: mean.value() for name, mean in (terms | logs).items()}

    @jax.jit
    def plainly(variables, batch):
        parts, pull = jax.vjp(lambda v: objectives(architecture, v, batch, task.mean, task.std), variables)
        return parts, pull((1.0, 0.01, 0.0))[0], pull((0.0, 0.0, 1.0))[0]

    (total, logs), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(variables, batch)
    (pixels, generator, discriminator), of_generator, of_discriminator = plainly(variables, batch)
    assert float(total) == pytest.approx(float(pixels + 0.01 * generator + discriminator), rel=1e-5)
    assert float(logs["generator"]) == pytest.approx(float(generator), rel=1e-5)
    assert float(logs["discriminator"]) == pytest.approx(float(discriminator), rel=1e-5)
    for name, value in gradient.items():
        expected = of_discriminator if name.startswith("discriminator/") else of_generator
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-6, err_msg=name)
        assert np.abs(value).max() > 0, name


def test_evaluation_has_the_pixel_loss_only(setting):
    _, task, architecture, variables = setting
    batch = make_batch()

    @jax.jit
    def loss(variables, batch):
        return task.loss(task.apply(architecture.merge(variables), batch, train=False, rngs=None), batch)

    terms, logs = loss(architecture.lasting(variables), batch)
    assert terms.keys() == {"cross_entropy"} and logs.keys() == {"pixel_accuracy"}
    whole, _ = loss(variables, batch)
    assert float(terms["cross_entropy"].total) == pytest.approx(float(whole["cross_entropy"].total), rel=1e-6)


def test_discriminator_is_trained_but_not_averaged_and_not_loaded(setting, tmp_path):
    config, task, architecture, variables = setting
    config = config.copy_and_resolve_references()
    config.optim.update(ema=0.9, name="sgd", lr=0.1, schedule="constant", warmup_steps=0)
    names = sorted(variables)
    optimizer = make_optimizer(config.optim, 10, names)
    state = jax.jit(lambda own: states.create(own, names, optimizer, architecture.lasting(own)))(variables)
    assert any(name.startswith("discriminator/") for name in state.params)
    assert not any(name.startswith("discriminator/") for name in state.ema)
    mesh = sharding.make_mesh(config.mesh)
    batch = sharding.put_batch(make_batch(), mesh)
    before = {name: np.array(value) for name, value in state.params.items()}
    key = jax.random.key(0)
    step = compile_step(make_train_step(config, task, architecture, optimizer), state, batch, key)
    state, _ = step(state, batch, key)
    assert all(not np.array_equal(before[name], state.params[name]) for name in names)
    assert (
        state.ema.keys()
        == architecture.lasting(variables).keys()
        == states.evaluation_weights(state, architecture).keys()
    )
    (tmp_path / "config.json").write_text(resolve(config))
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, state, {"class_names": CLASSES})
    checkpoints.close()
    for weights in ("ema", "raw"):
        loaded, found, _ = pretrained.load_run(config, tmp_path, "last", weights)
        assert not any(name.startswith("discriminator/") for name in found)
        assert loaded.merge(found).discriminator is None


def test_optim_partition_gives_the_discriminator_its_own_optimiser(setting):
    """The generator uses SGD, and the discriminator uses AdamW with another learning rate."""
    config, _, _, variables = setting
    optim = config.optim.copy_and_resolve_references()
    optim.update(name="sgd", lr=1.0, schedule="constant", warmup_steps=0, momentum=0.0, weight_decay=0.0)
    optim.partition = (("discriminator/", (("name", "adamw"), ("lr", 0.25))),)
    optimizer = make_optimizer(optim, 10, sorted(variables))
    gradients = {name: np.full_like(value, 3.0) for name, value in variables.items()}
    updates, _ = jax.jit(lambda: optimizer.update(gradients, optimizer.init(variables), variables))()
    for name, update in updates.items():
        # The first step of Adam is lr times the sign of the gradient. The step of SGD is the gradient.
        np.testing.assert_allclose(update, -0.25 if name.startswith("discriminator/") else -3.0, rtol=1e-5)


def test_model_without_a_discriminator_raises_a_one_line_error():
    config = make(discriminator=0)
    architecture, shapes, _ = states.describe(config, 3)
    task = make_task(config, CLASSES)
    with pytest.raises(UserError, match="model.discriminator is 0") as caught:
        jax.eval_shape(
            lambda variables, batch: task.apply(architecture.merge(variables), batch, train=True, rngs=nnx.Rngs(0)),
            shapes,
            make_batch(),
        )
    assert "\n" not in str(caught.value)
    config.model.name = "unet"
    with pytest.raises(UserError, match="'adversarial_segmentation' needs a model with a discriminator"):
        make_task(config, CLASSES)
