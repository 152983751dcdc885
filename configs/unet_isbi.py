"""The original U-Net (Ronneberger et al. 2015) on the ISBI 2012 membranes, as published.

    python main.py --config=configs/unet_isbi.py --workdir=runs/unet_isbi --config.data.folder.root=DIR

DIR holds train/images, train/masks, val/images, val/masks (0 membrane, 1 cell, 512x512 slices) and classes.txt.
The network is unpadded, with overlap-tile, border weights and elastic deformation. The full recipe needs a GPU and has not been
run. `unet_isbi.py:light` has width 16, depth 3 and normalisation. Expected on two busy CPU cores: pixel error 0.103 and Rand
score 0.864 (at the best threshold) on val after 40 minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet(config, depth=4, width=64, padding="valid", norm="none")
    datasets.use_isbi(config)
    schedules.train_on_isbi(config)
    if variant == "light":
        variants.lighten_isbi(config)
        config.model.update(depth=3, width=16, norm="batch", dropout=0.3)
    if variant == "debug":
        config.data.margin = 20  # for depth 2
    return variants.vary(config, variant, model=dict(depth=2, width=4), others=("light",))
