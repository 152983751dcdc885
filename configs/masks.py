"""A plain U-Net for your own images with masks, in the folders of docs/data.md.

    python main.py --mode=datacheck --config=configs/masks.py --config.data.folder.root=DIR
    python main.py --config=configs/masks.py --workdir=runs/mine --config.data.folder.root=DIR

Its logits have the full resolution, so it finds thin structures that networks of stride 2 lose. The image size is read from the
data and stored in the run. If there is only one split, --config.data.holdout=0.2 holds out a fifth of it.
`masks.py:light` trains a narrower network on a CPU: 400 steps of 4 images at 256 pixels.
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet(config, depth=4, width=32, padding="same", norm="batch", dropout=0.0)
    datasets.use_own(config)
    schedules.train_on_own(config, steps=4000)
    config.task.losses.dice.factor = 1.0  # thin structures cover few pixels
    if variant == "light":
        variants.lighten_own(config)
        config.model.update(depth=3, width=16)
    return variants.vary(config, variant, model=dict(depth=2, width=8), others=("light",))
