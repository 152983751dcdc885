"""U-Net with an EfficientNet-Lite0 from ImageNet as its contracting path on CamVid's 11 classes."""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet_efficientnet_lite(config)
    datasets.use_camvid(config)
    datasets.use_statistics_of_efficientnet_lite(config)
    schedules.train_on_camvid(config)
    if variant == "light":
        config.data.update(image_size=(192, 256), canvases=((360, 480),), augment=dict(scale=(0.5, 1.2)))
        config.train.update(steps=2000, eval_every=500, checkpoint_every=250)
        config.optim.update(lr=2e-3, warmup_steps=100, ema=0.995, lr_multipliers=(("backbone/.*", 0.2),))
    small = dict(backbone=dict(width=0.25, depth=0.1), decoder=(8, 8, 8, 8))
    return variants.vary(config, variant, model=small, others=("light",))
