"""U-Net with a ResNet-34 as its contracting path on CamVid's 11 classes, from scratch.

    python main.py --config=configs/unet_resnet34_camvid.py --workdir=runs/unet_resnet34_camvid --config.data.folder.root=DIR

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 is void) and classes.txt.
The full recipe wants a GPU and has not been run.
`unet_resnet34_camvid.py:light` (half width, 192x256 crops, 55 minutes on two busy CPU cores) has mIoU 0.618 on val
at 360x480; RESULTS.md has its command.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_camvid(config)
    backbone = dict(name="resnet", layers=34, width=1.0, norm="batch", momentum=0.9, output_stride=32)
    config.model.update(
        name="unet_backbone", backbone=backbone, decoder=(256, 128, 64, 32), norm="batch", momentum=0.9, dropout=0.1
    )
    if variant == "light":
        config.model.backbone.width = 0.5
        config.model.decoder = (96, 64, 48, 32)
        config.data.image_size = (192, 256)
        config.data.augment.scale = (0.5, 1.2)
        config.train.update(steps=3000, eval_every=500, checkpoint_every=250)
        config.optim.update(lr=2e-3, warmup_steps=100, ema=0.995)
    return common.vary(
        config, variant, model=dict(backbone=dict(layers=10, width=0.125), decoder=(8, 8, 8, 8)), others=("light",)
    )
