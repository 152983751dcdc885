"""The U-Net of Ronneberger et al. (2015), padded and normalised, on CamVid's 11 classes, from scratch.

    python main.py --config=configs/unet_camvid.py --workdir=runs/unet_camvid --config.data.folder.root=DIR

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 means no class) and classes.txt.
The full recipe needs a GPU and has not been run.
`unet_camvid.py:light` has width 12. Expected on two busy CPU cores: mIoU 0.428 on val at 360x480 after
13 minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet(config, depth=4, width=64, padding="same", norm="batch")
    datasets.use_camvid(config)
    schedules.train_on_camvid(config)
    if variant == "light":
        variants.lighten_camvid(config, steps=450)
        config.model.update(width=12, dropout=0.2)
    return variants.vary(config, variant, model=dict(depth=2, width=4), others=("light",))
