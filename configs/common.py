"""The fields every experiment has, with their defaults. A config file changes what is its own; code never supplies a default.

Sizes are (height, width) in pixels, rates are per optimiser step, and `every` fields count optimiser steps.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A complete config without a model: the experiment's file adds `model.name` and the fields of that model."""
    config = ConfigDict()
    config.seed = 0
    config.mesh = (1, -1, 1)  # devices along ('member', 'data', 'fsdp'); -1 takes all that are left

    config.model = ConfigDict(dict(name="", dtype="float32"))  # dtype of the computation; parameters are always float32
    config.pretrained = ""  # a local .safetensors file with weights of the backbone
    config.init_from = ""  # the workdir of another run whose parameters this one starts from

    config.task = ConfigDict(dict(name="segmentation", label_smoothing=0.0))

    config.data = ConfigDict()
    config.data.name = "shapes"  # shapes, oxford_iiit_pet or image_mask
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.image_size = (128, 128)  # of a training example
    config.data.canvases = ((128, 128),)  # of evaluation: each image takes the one nearest to its shape
    config.data.fit = "stretch"  # stretch or letterbox: how an image comes to its size
    config.data.mean = (127.5, 127.5, 127.5)  # subtracted from RGB 0..255, then divided by std, on the device
    config.data.std = (127.5, 127.5, 127.5)
    config.data.num_threads = 2  # that read, decode and augment
    config.data.prefetch = 8  # training batches made ahead
    config.data.folder = folder = ConfigDict()  # image_mask only
    folder.root = ""  # holds SPLIT/images and SPLIT/masks
    folder.classes = "classes.txt"  # a name a line, or `name red green blue` for colour masks
    folder.ignore_value = 255  # grey or palette index in the mask that is no class
    folder.drop_unreadable = False  # True: leave files that cannot be decoded out of the index, and count them
    config.data.augment = augment = ConfigDict()  # training only
    augment.flip = 0.5  # probability of a mirror image, left for right
    augment.scale = (1.0, 1.0)  # zoom, log-uniform
    augment.aspect = 1.0  # stretch of height against width, log-uniform in [1/aspect, aspect]
    augment.rotation = 0.0  # degrees, uniform in [-rotation, rotation]
    augment.crop = True  # a random position when the zoomed image and the output differ in size; else the centre
    augment.elastic = (0.0, 8.0)  # displacement's standard deviation and its smoothing, pixels of the output
    augment.brightness = 0.0  # factor in [1 - b, 1 + b]
    augment.contrast = 0.0
    augment.saturation = 0.0
    augment.hue = 0.0  # shift in [-h, h] turns of the colour wheel

    config.train = ConfigDict()
    config.train.batch_size = 16  # examples of one optimiser step, over all devices
    config.train.steps = 1000
    config.train.log_every = 20
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    config.train.keep = 2  # newest checkpoints kept, the best one beside them
    config.train.best = "val/mIoU"  # the metric that names the best checkpoint; larger is better

    config.eval = ConfigDict(dict(batch_size=16, pictures=8))  # pictures: predictions drawn beside the truth

    config.optim = optim = ConfigDict()
    optim.name = "adamw"  # adamw or sgd
    optim.lr = 1e-3
    optim.schedule = "cosine"  # constant, cosine, poly or step
    optim.warmup_steps = 0  # linear, from zero
    optim.final = 0.0  # cosine and poly end at this fraction of lr
    optim.power = 0.9  # poly
    optim.boundaries = (0.6, 0.8)  # step: fractions of the run
    optim.decay = 0.1  # step: the factor at each boundary
    optim.momentum = 0.9  # sgd
    optim.betas = (0.9, 0.999)  # adamw
    optim.weight_decay = 0.0  # of kernels; biases and normalisation are left alone
    optim.clip = 0.0  # global norm; 0: none
    optim.accumulate = 1  # micro-batches that make one step's batch
    optim.ema = 0.0  # decay of the parameters' moving average; 0: none
    optim.rates = ()  # ((regular expression of a parameter path, factor on lr), ...): the first match counts
    optim.freeze = ()  # regular expressions of parameter paths kept as they are, batch statistics included

    config.wandb = ConfigDict()
    config.wandb.mode = "auto"  # auto (online with an account, else offline), online, offline or disabled
    config.wandb.project = "dense-prediction"
    config.wandb.entity = ""
    config.wandb.name = ""
    config.wandb.group = ""
    config.wandb.tags = ()
    return config


def vary(config: ConfigDict, variant: str, model: dict) -> ConfigDict:
    """The experiment itself, or its `debug` variant: made data, small images, few steps, no W&B, `model`'s fields shrunk.

    Raises ValueError for any other name behind the colon.
    """
    if variant not in ("", "debug"):
        raise ValueError(f"--config: there is no variant {variant!r}; write FILE.py or FILE.py:debug")
    if variant == "debug":
        config.model.update(model)
        config.data.name = "shapes"
        config.data.train_split, config.data.eval_split = "train", "validation"
        config.data.image_size = (64, 64)
        config.data.canvases = ((64, 64),)
        config.train.update(batch_size=4, steps=6, log_every=1, eval_every=3, checkpoint_every=3)
        config.eval.update(batch_size=8, pictures=2)
        config.optim.warmup_steps = min(config.optim.warmup_steps, 2)
        config.wandb.mode = "disabled"
    return config
