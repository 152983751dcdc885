"""The U-Net-256 generator of pix2pix (Isola et al. 2017) with its 70x70 PatchGAN on CamVid's 11 classes, from scratch.

    python main.py --config=configs/pix2pix_camvid.py --workdir=runs/pix2pix_camvid --config.data.folder.root=DIR

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 means no class) and classes.txt.
The full recipe needs a GPU and has not been run.
`pix2pix_camvid.py:generator` trains the generator without the discriminator.
`pix2pix_camvid.py:light` has width 24 and depth 6. Expected on two busy CPU cores: mIoU 0.421 on val at 360x480 after
18 minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    (segmenters.use_pix2pix_generator if variant == "generator" else segmenters.use_pix2pix)(config)
    datasets.use_camvid(config)
    schedules.train_on_camvid(config)
    # Whole images at 256x256, as in the paper: feature maps are halved eight times.
    config.data.update(fit="stretch", image_size=(256, 256))
    config.data.augment.scale = (0.8, 1.6)
    if variant == "light":
        variants.lighten_camvid(config, steps=900)
        config.model.update(depth=6, width=24, dropout=0.3, discriminator=16)
    return variants.vary(config, variant, model=dict(depth=4, width=4, discriminator=4), others=("light", "generator"))
