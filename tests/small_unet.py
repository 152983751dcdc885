"""The debug variant of the demo with the U-Net that compiles fastest, for tests of runs whose model does not matter.

python main.py --config=tests/small_unet.py --workdir=runs/small
"""

from ml_collections import ConfigDict

from configs import segmenters, unet_shapes


def get_config(variant: str = "") -> ConfigDict:
    config = unet_shapes.get_config(variant or "debug")
    segmenters.use_unet(config, depth=1, width=4, padding="same", norm="batch", dropout=0.0)
    return config
