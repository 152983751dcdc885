"""A U-Net with an EfficientNet-Lite0 as its contracting path on CamVid's 11 classes, from ImageNet weights.

    python main.py --config=configs/unet_efficientnet_camvid.py:light --workdir=runs/unet_efficientnet_camvid \\
        --config.data.folder.root=DIR --config.pretrained=EFFICIENTNET_LITE0.safetensors

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 means no class) and classes.txt; docs/models.md says
where the weights are. The full recipe needs a GPU and has not been run. `:light` has crops of 192x256 and a frozen encoder.
Expected of `:light` on two busy CPU cores, trained without the drive 0006R0: mIoU 0.463 on that drive and 0.667 on val, whose
drive is in the training data, after 15 minutes. From scratch, without --config.pretrained and with --config.optim.freeze="()",
the same 1,000 steps give 0.345 and 0.542 (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet_efficientnet_lite(config)
    datasets.use_camvid(config)
    datasets.use_statistics_of_efficientnet_lite(config)
    schedules.train_on_camvid(config)
    if variant == "light":
        config.data.update(image_size=(192, 256), canvases=((360, 480),))
        config.data.augment.update(scale=(0.5, 1.2), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05)
        schedules.train_on_camvid_briefly(config)
        schedules.freeze_backbone(config)  # this is better on a drive that training has not seen
    small = dict(backbone=dict(width=0.25, depth=0.1), decoder=(8, 8, 8, 8))
    return variants.vary(config, variant, model=small, others=("light",))
