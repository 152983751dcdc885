"""The MobileNetV2 U-Net on your own images and masks.

    .venv/bin/python main.py --config=configs/unet_masks.py --workdir=runs/mine --config.data.folder.root=DIR

DIR holds train/images, train/masks, val/images, val/masks (a PNG mask for each image, paired by name) and classes.txt.
"""

from ml_collections import ConfigDict

from configs import common, datasets, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet_mobilenetv2(config)
    datasets.use_image_masks(config)
    config.train.update(batch_size=8, steps=4000, log_every=20, eval_every=500, checkpoint_every=500)
    config.optim.update(name="adamw", lr=1e-3, warmup_steps=100, weight_decay=1e-2, ema=0.99)
    return variants.vary(config, variant, model=dict(width=0.1, depth=0.3, decoder=(16, 16, 8, 8)))
