"""The MobileNetV2 U-Net on your own images and masks.

    .venv/bin/python main.py --config=configs/unet_masks.py --workdir=runs/mine --config.data.folder.root=DIR

DIR holds train/images, train/masks, val/images, val/masks (a PNG mask for each image, paired by name) and classes.txt.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    config.model.update(
        name="unet_mobilenetv2",
        width=1.0,
        depth=1.0,
        variant="keras",
        norm="batch",
        momentum=0.9,
        decoder=(512, 256, 128, 64),
    )
    config.data.name = "image_mask"
    config.data.eval_split = "val"
    config.data.image_size = (256, 256)
    config.data.canvases = ((256, 256),)
    augment = config.data.augment
    augment.scale = (0.8, 1.6)
    augment.rotation = 10.0
    augment.brightness, augment.contrast, augment.saturation, augment.hue = 0.3, 0.3, 0.3, 0.02
    config.train.update(batch_size=8, steps=4000, log_every=20, eval_every=500, checkpoint_every=500)
    config.optim.update(name="adamw", lr=1e-3, warmup_steps=100, weight_decay=1e-2, ema=0.99)
    return common.vary(config, variant, model=dict(width=0.1, depth=0.3, decoder=(16, 16, 8, 8)))
