"""The original U-Net (Ronneberger et al. 2015) on the ISBI 2012 membranes: unpadded, overlap-tile, border weights, elastic.

    python main.py --config=configs/unet_isbi.py --workdir=runs/unet_isbi --config.data.folder.root=DIR

DIR holds train/images, train/masks, val/images, val/masks (0 membrane, 1 cell, 512x512 slices) and classes.txt.
The full recipe wants a GPU and has not been run. `unet_isbi.py:light` (width 16, depth 3, normalised, 40 minutes on two
busy CPU cores) has pixel error 0.103 and Rand score 0.864 (at the best threshold) on val; RESULTS.md has its command.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    light = variant == "light"
    config.model.update(
        name="unet",
        depth=3 if light else 4,
        width=16 if light else 64,
        padding="valid",
        norm="batch" if light else "none",
        momentum=0.9,
        dropout=0.3 if light else 0.5,
    )
    config.eval.metrics = ("confusion", "partition")
    config.task.class_weights = (2.184, 0.6484)  # median frequency, by `--mode=datacheck`
    config.data.name = "image_mask"
    config.data.eval_split = "val"
    config.data.folder.instances = "components"
    config.data.weight_map = (10.0, 5.0)
    config.data.fit = "crop"
    config.data.border = "mirror"
    config.data.margin = {"light": 44, "debug": 20}.get(variant, 92)  # of depth 3, 2 and 4
    config.data.image_size = (316, 316) if light else (572, 572)
    config.data.canvases = ((604, 604),) if light else ((572, 572),)
    augment = config.data.augment
    augment.scale = (0.8, 1.3)
    augment.rotation = 180.0
    augment.elastic = (10.0, 25.0)
    augment.brightness, augment.contrast = 0.3, 0.4
    config.train.update(batch_size=1, steps=20000, log_every=50, eval_every=1000, checkpoint_every=1000)
    config.train.best = "val/Rand_max"  # the challenge ranks by the best threshold
    config.eval.update(batch_size=1, method="window", overlap=0.0, flip=True)
    config.optim.update(
        name="sgd", lr=5e-3 if light else 1e-3, momentum=0.99, weight_decay=5e-4, warmup_steps=200, ema=0.995
    )
    if light:
        config.train.update(batch_size=2, steps=1600, eval_every=400, checkpoint_every=200)
    return common.vary(config, variant, model=dict(depth=2, width=4), others=("light",))
