"""Five networks, from FCN-32s to DeepLabV3+, on the synthetic shapes with one trunk and one budget.

    python -m experiments.sweep --config=configs/segmentation_history.py --workdir=runs/segmentation --tfds_data_dir=data
    python -m benchmarks.history runs/segmentation --tfds_data_dir=data

The first command trains them, the second makes the table and the picture (RESULTS.md). `--config=FILE:METHOD` is one of them.
The trunk is a VGG-11 at quarter width with batch normalisation: the backbone of FCN and of DeepLabV3+ (ASPP at stride 16), and
the contracting path of U-Net. FCN-16s and FCN-8s are trained all at once, not from the coarser network. The budget is 9,600
training images of 96x96 pixels, 600 steps of 16.
"""

from ml_collections import ConfigDict

from configs import common, datasets, segmenters, sweeps, variants

METHODS = ("fcn32s", "fcn16s", "fcn8s", "unet", "deeplabv3plus")


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_light_vgg(config, variant if variant in METHODS else METHODS[0])
    datasets.use_shapes(config)
    config.data.image_size = (96, 96)
    config.train.update(batch_size=16, steps=600, log_every=50, eval_every=600, checkpoint_every=100)
    config.optim.update(name="adamw", lr=2e-3, warmup_steps=50, weight_decay=1e-4, ema=0.99)
    return variants.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16), others=METHODS)


def sweep() -> list[sweeps.Run]:
    return [{"name": method, "config": f"configs/segmentation_history.py:{method}"} for method in METHODS]
