"""FCN-8s (Long, Shelhamer and Darrell 2015), trained all at once on CamVid's 11 classes, from scratch.

    python main.py --config=configs/fcn8s_camvid.py --workdir=runs/fcn8s_camvid --config.data.folder.root=DIR

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 means no class) and classes.txt.
To start from VGG-16's weights (with batch normalisation, torchvision's names), normalise images as in their training:
`--config.pretrained=VGG16_BN.safetensors --config.data.mean='(123.675,116.28,103.53)'
--config.data.std='(58.395,57.12,57.375)'`. The full recipe needs a GPU and has not been run.
`fcn8s_camvid.py:light` has a quarter of the width. Expected on two busy CPU cores: mIoU 0.551 on val at 360x480 after
20 minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_fcn(config, stride=8, norm="batch", padding="same", upsampling="learned")
    datasets.use_camvid(config)
    schedules.train_on_camvid(config)
    if variant == "light":
        variants.lighten_camvid(config, steps=600)
        config.model.update(backbone=dict(width=0.25), fc=256, dropout=0.2)
    return variants.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16), others=("light",))
