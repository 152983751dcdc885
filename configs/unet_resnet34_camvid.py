"""A U-Net with a ResNet-34 as its contracting path on CamVid's 11 classes, from scratch.

    python main.py --config=configs/unet_resnet34_camvid.py --workdir=runs/unet_resnet34_camvid --config.data.folder.root=DIR

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 means no class) and classes.txt.
The full recipe needs a GPU and has not been run.
`unet_resnet34_camvid.py:light` has half width and crops of 192x256. Expected on two busy CPU cores: mIoU 0.618 on val at
360x480 after 55 minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet_resnet34(config)
    datasets.use_camvid(config)
    schedules.train_on_camvid(config)
    if variant == "light":
        config.model.update(backbone=dict(width=0.5), decoder=(96, 64, 48, 32))
        config.data.update(image_size=(192, 256), canvases=((360, 480),), augment=dict(scale=(0.5, 1.2)))
        config.train.update(steps=3000, eval_every=500, checkpoint_every=250)
        config.optim.update(lr=2e-3, warmup_steps=100, ema=0.995)
    small = dict(backbone=dict(layers=10, width=0.125), decoder=(8, 8, 8, 8))
    return variants.vary(config, variant, model=small, others=("light",))
