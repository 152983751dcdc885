"""DeepLabV3+ (Chen et al. 2018) with an atrous ResNet-50 on CamVid's 11 classes, from scratch.

    python main.py --config=configs/deeplabv3plus_camvid.py --workdir=runs/deeplabv3plus_camvid --config.data.folder.root=DIR

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 means no class) and classes.txt.
The full recipe needs a GPU and has not been run.
`deeplabv3plus_camvid.py:light` has a ResNet-18 at half width. Expected on two busy CPU cores: mIoU 0.543 on val at 360x480
after 16 minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_deeplabv3plus(config)
    datasets.use_camvid(config)
    schedules.train_on_camvid(config)
    if variant == "light":
        variants.lighten_camvid(config, steps=900)
        config.model.update(backbone=dict(layers=18, width=0.5), aspp=96, rates=(3, 6, 9), decoder=64, low_level=24)
    small = dict(backbone=dict(layers=10, width=0.125), aspp=8, decoder=8, low_level=8)
    return variants.vary(config, variant, model=small, others=("light",))
