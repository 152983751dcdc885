"""Variants of an experiment, named after the colon of `--config=FILE.py:NAME`, such as `debug` and `light`."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from configs import detectors, schedules
from errors import UserError

STAGES = {"svm": detectors.use_svms, "regression": detectors.use_box_regression}  # of R-CNN, in their order
PROPOSED = ("fast_rcnn", "svm", "box_regression")  # tasks that need proposals


def vary(config: ConfigDict, variant: str, model: dict, others: Iterable[str] = ()) -> ConfigDict:
    """Return `config`, or its `debug` variant with the fields of `model`.

    `others` are variants that the experiment's file has applied already. Raises UserError for any other `variant`.
    """
    if variant not in ("", "debug", *others):
        known = " or ".join(f"FILE.py:{name}" for name in ("debug", *others))
        raise UserError(f"--config: there is no variant {variant!r}; write FILE.py or {known}")
    if variant == "debug":
        config.model.update(model)
        debug(config)
    return config


def follow(config: ConfigDict, variant: str) -> None:
    """Turn `config` into the later stage of R-CNN that `variant` names, if any, without training the network."""
    if variant in STAGES:
        STAGES[variant](config)
        schedules.solve(config)


def debug(config: ConfigDict) -> None:
    """Use the synthetic dataset, small images, few steps and no W&B, so that the same code runs in seconds."""
    of_labels = "losses" in config.task
    if of_labels:
        config.task.class_weights = ()
    side = 64 + 2 * config.data.margin
    config.data.update(name="shapes", train_split="train", eval_split="validation[:24]", fit="stretch")
    config.data.update(weight_map=(0.0, 5.0), image_size=(side, side), canvases=())
    config.train.update(batch_size=4, steps=min(6, config.train.steps), log_every=1, eval_every=3, checkpoint_every=3)
    config.train.best = "val/mIoU" if of_labels else "val/AP50"
    of_masks = tuple(name for name in config.eval.metrics if name == "coco_masks")
    config.eval.metrics = ("confusion", "boundary") if of_labels else ("coco", *of_masks, "confusion")
    config.eval.update(batch_size=8, pictures=2)
    config.optim.warmup_steps = min(config.optim.warmup_steps, 2)
    config.wandb.mode = "disabled"
    if config.task.name in PROPOSED:  # seconds, not minutes
        config.data.update(train_split="train[:32]", eval_split="validation[:16]", max_proposals=50)


def lighten_own(config: ConfigDict) -> None:
    """Shrink the recipe for a user's data for a CPU, to 256 pixels at the longer side and 400 steps of 4."""
    config.data.longest = 256
    schedules.train_on_own(config, steps=400)
    config.train.batch_size = 4


def lighten_camvid(config: ConfigDict, *, steps: int) -> None:
    """Shrink CamVid for ten to twenty minutes on a CPU, with whole images at 192x256. Scores are still at 360x480."""
    config.data.update(fit="stretch", image_size=(192, 256))
    config.data.augment.scale = (0.8, 1.6)
    config.train.update(batch_size=8, steps=steps, log_every=20, eval_every=300, checkpoint_every=100)
    config.optim.update(lr=2e-3, warmup_steps=100, ema=0.99)


def lighten_isbi(config: ConfigDict) -> None:
    """Shrink ISBI for a CPU, with a U-Net of depth 3 on smaller tiles."""
    config.data.update(margin=44, image_size=(316, 316), canvases=((604, 604),))
    config.train.update(batch_size=2, steps=1600, eval_every=400, checkpoint_every=200)
    config.optim.lr = 5e-3
