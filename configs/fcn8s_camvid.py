"""FCN-8s (Long, Shelhamer and Darrell 2015), all at once, on CamVid's 11 classes, from scratch.

    python main.py --config=configs/fcn8s_camvid.py --workdir=runs/fcn8s_camvid --config.data.folder.root=DIR

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 is void) and classes.txt.
From VGG-16's weights instead (with batch normalisation, torchvision's names), which want images normalised as theirs were:
`--config.pretrained=VGG16_BN.safetensors --config.data.mean='(123.675,116.28,103.53)' --config.data.std='(58.395,57.12,57.375)'`.
The full recipe wants a GPU and has not been run.
`fcn8s_camvid.py:light` (quarter width, 20 minutes on two busy CPU cores) has mIoU 0.551 on val
at 360x480; RESULTS.md has its command.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_camvid(config)
    config.model.update(
        name="fcn",
        backbone=dict(name="vgg", layers=16, width=1.0, norm="batch", momentum=0.9),
        stride=8,
        fc=4096,
        dropout=0.5,
        padding="same",
        upsampling="learned",
        skip_scales=(1.0, 1.0),
    )
    if variant == "light":
        common.lighten_camvid(config)
        config.model.update(backbone=dict(width=0.25), fc=256, dropout=0.2)
        config.train.steps = 600
    return common.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16), others=("light",))
