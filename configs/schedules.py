"""Schedules, one function each, which set batch, steps, optimiser and learning rate."""

from ml_collections import ConfigDict


def train_on_camvid(config: ConfigDict) -> None:
    """Train from scratch for 20,000 steps of 8 with AdamW."""
    config.train.update(batch_size=8, steps=20000, log_every=20, eval_every=1000, checkpoint_every=500)
    config.optim.update(name="adamw", lr=1e-3, warmup_steps=500, weight_decay=0.05, ema=0.999)


def train_on_camvid_briefly(config: ConfigDict) -> None:
    """Train a light network from a pretrained backbone for 1,000 steps of 8."""
    config.train.update(batch_size=8, steps=1000, log_every=20, eval_every=500, checkpoint_every=250)
    config.optim.update(name="adamw", lr=2e-3, warmup_steps=100, weight_decay=0.05, ema=0.995)


def freeze_backbone(config: ConfigDict) -> None:
    """Freeze a pretrained backbone, batch statistics included."""
    config.optim.freeze = ("backbone/",)


def train_on_isbi(config: ConfigDict) -> None:
    """Train one image per step with a high momentum (Ronneberger et al. 2015, section 3)."""
    config.train.update(batch_size=1, steps=20000, log_every=50, eval_every=1000, checkpoint_every=1000)
    config.optim.update(name="sgd", lr=1e-3, momentum=0.99, weight_decay=5e-4, warmup_steps=200, ema=0.995)


def train_fcn(config: ConfigDict, *, steps: int, lr: float) -> None:
    """Train one image per step with a high momentum, as published (Shelhamer et al. 2017).

    Biases learn twice as fast."""
    config.train.update(batch_size=1, steps=steps, log_every=100, eval_every=4000, checkpoint_every=2000)
    config.optim.update(name="sgd", lr=lr, schedule="constant", momentum=0.99, weight_decay=5e-4)
    config.optim.lr_multipliers = ((".*/bias", 2.0),)


def train_ssd300(config: ConfigDict) -> None:
    """Train for 120,000 steps of 32 (Liu et al. 2016, section 3.1).

    Biases learn twice as fast, as in the released code."""
    config.train.update(batch_size=32, steps=120000, log_every=100, eval_every=5000, checkpoint_every=2500)
    config.eval.batch_size = 32
    config.optim.update(name="sgd", lr=1e-3, schedule="step", boundaries=(80 / 120, 100 / 120), momentum=0.9)
    config.optim.update(weight_decay=5e-4, lr_multipliers=((".*/bias", 2.0),))


def train_ssd300_on_coco(config: ConfigDict) -> None:
    """Train for 240,000 steps of 32 (Liu et al. 2016, section 3.4)."""
    train_ssd300(config)
    config.train.steps = 240000
    config.optim.boundaries = (160 / 240, 200 / 240)


def train_vgg_faster_rcnn(config: ConfigDict) -> None:
    """Train for 80,000 steps of one image from VGG's weights (Ren et al. 2015, section 3.1.3).

    conv1 and conv2 stay frozen. Biases learn twice as fast, as in the released code.
    """
    config.train.update(batch_size=1, steps=80000, log_every=100, eval_every=10000, checkpoint_every=2500)
    config.eval.batch_size = 4
    config.optim.update(name="sgd", lr=1e-3, schedule="step", boundaries=(60 / 80,), momentum=0.9)
    config.optim.update(weight_decay=5e-4, lr_multipliers=((".*/bias", 2.0),), freeze=("backbone/conv_[12]_",))


def train_fast_rcnn(config: ConfigDict) -> None:
    """Train for 60,000 steps of two images from VGG's weights (Girshick 2015, sections 2.3 and 4.1).

    conv1 and conv2 stay frozen. Biases learn twice as fast, as in the released code.
    """
    train_vgg_faster_rcnn(config)
    config.train.update(batch_size=2, steps=60000)
    config.optim.boundaries = (40 / 60,)


def fine_tune_rcnn(config: ConfigDict) -> None:
    """Train for 70,000 steps of 32 object and 96 background regions from VGG's weights (Girshick et al. 2014, section 2.3).

    They come from 32 images, one and three from each; the paper draws them from all images. Steps and rates are those of the
    released code for AlexNet, whose last layer learns ten times as fast; for VGG-16 it has batches of 24.
    """
    config.train.update(batch_size=32, steps=70000, log_every=100, eval_every=70000, checkpoint_every=2500)
    config.task.regions = 4
    config.eval.batch_size = 4
    config.optim.update(name="sgd", lr=1e-3, schedule="step", boundaries=(20 / 70, 40 / 70, 60 / 70), momentum=0.9)
    last = (("box_head/logits/kernel", 10.0), ("box_head/logits/bias", 20.0))
    config.optim.update(weight_decay=5e-4, lr_multipliers=(*last, (".*/bias", 2.0)))


def fine_tune_sppnet(config: ConfigDict) -> None:
    """Train the fully connected layers for 250,000 steps at 1e-3 and 50,000 at 1e-4 (He et al. 2014, section 4.1).

    The rate is ten times the paper's, as fc6 and fc7 start with random values: VGG's have 49 bins, and a pyramid has 50.
    """
    config.train.update(batch_size=2, steps=300000, log_every=100, eval_every=300000, checkpoint_every=5000)
    config.eval.batch_size = 4
    config.optim.update(name="sgd", lr=1e-3, schedule="step", boundaries=(250 / 300,), momentum=0.9)
    config.optim.update(weight_decay=5e-4, lr_multipliers=((".*/bias", 2.0),), freeze=("backbone/",))


def solve(config: ConfigDict) -> None:
    """Train nothing, and let the task solve for the variables that it adds to the frozen network of config.init_from."""
    config.train.steps = 0
    config.optim.update(warmup_steps=0, ema=0.0, lr_multipliers=(), freeze=("backbone/", "box_head/fc"))


def train_yolov1(config: ConfigDict) -> None:
    """Train for 135 epochs of the paper's 16,551 images (Redmon et al. 2016, section 2.2).

    Three epochs of warm-up come first; the paper does not give their number.
    """
    config.train.update(batch_size=64, steps=35700, log_every=100, eval_every=2600, checkpoint_every=1300)
    config.eval.batch_size = 64
    config.optim.update(name="sgd", lr=1e-2, schedule="step", boundaries=(75 / 135, 105 / 135), momentum=0.9)
    config.optim.update(weight_decay=5e-4, warmup_steps=780, warmup_from=0.1)


def train_on_coco(config: ConfigDict) -> None:
    """Train for 90,000 steps of 16 from a pretrained backbone (Lin et al. 2017, Focal Loss, section 4.1).

    Its stem and first stage stay frozen, as in torchvision's recipes.
    """
    config.train.update(batch_size=16, steps=90000, log_every=100, eval_every=10000, checkpoint_every=2500)
    config.optim.update(name="sgd", lr=1e-2, schedule="step", boundaries=(60 / 90, 80 / 90), momentum=0.9)
    config.optim.update(weight_decay=1e-4, warmup_steps=1000, warmup_from=0.001)
    config.optim.freeze = ("backbone/bottom_up/(stem|block_1)",)


def train_light_detector(config: ConfigDict, *, steps: int, every: int) -> None:
    """Train from scratch on a CPU with AdamW, with an evaluation and a checkpoint every `every` steps."""
    config.train.update(batch_size=16, steps=steps, log_every=20, eval_every=every, checkpoint_every=every)
    config.optim.update(name="adamw", lr=2e-3, warmup_steps=50, weight_decay=0.05, clip=10.0, ema=0.98)


def train_on_own(config: ConfigDict, *, steps: int) -> None:
    """Train with AdamW for `steps` of 8, scored and saved ten times."""
    train_light_detector(config, steps=steps, every=steps // 10)
    config.train.batch_size = config.eval.batch_size = 8
    config.optim.update(warmup_steps=steps // 20, ema=0.99)


def train_on_bccd(config: ConfigDict, *, steps: int = 2000) -> None:
    """Train a light detector for `steps` of 8."""
    train_light_detector(config, steps=steps, every=steps // 10)
    config.train.batch_size = 8
    config.optim.update(warmup_steps=100, ema=0.99)


def train_on_nuclei(config: ConfigDict) -> None:
    """Train a light detector for 1,000 steps of 8."""
    train_light_detector(config, steps=1000, every=250)
    config.train.batch_size = 8
    config.optim.update(warmup_steps=100, ema=0.99)


def overfit_coco8(config: ConfigDict) -> None:
    """Train a light detector for 300 steps without weight decay, with all eight images in each."""
    train_light_detector(config, steps=300, every=100)
    config.train.batch_size = 8
    config.optim.weight_decay = 0.0
