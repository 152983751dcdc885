"""A light SSD on eight images of COCO, learned by heart: does the whole detector work?

    python main.py --config=configs/ssd_coco8.py --workdir=runs/ssd_coco8 --tfds_data_dir=DIR

To expect on two CPU cores: AP50 1.000 after three minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_coco8(config)
    common.use_light_ssd(config)
    config.model.extras = ((64, 128, 2), (64, 128, 2))
    config.model.sizes = (0.06, 0.2, 0.4, 0.65, 0.9)
    config.model.ratios = ((2.0, 3.0),) * 4
    small = dict(backbone=dict(layers=11, width=0.07), fc=16, extras=((8, 16, 2), (8, 16, 2)))
    return common.vary(config, variant, model=small)
