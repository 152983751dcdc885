"""A light SSD that overfits eight images of COCO, to check the whole detector.

    python main.py --config=configs/ssd_coco8.py --workdir=runs/ssd_coco8 --tfds_data_dir=DIR

Expected on two CPU cores: AP50 1.000 after three minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_ssd(config)
    datasets.use_coco8(config)
    schedules.overfit_coco8(config)
    config.model.update(
        extras=((64, 128, 2), (64, 128, 2)), sizes=(0.06, 0.2, 0.4, 0.65, 0.9), ratios=((2.0, 3.0),) * 4
    )
    small = dict(backbone=dict(layers=11, width=0.07), fc=16, extras=((8, 16, 2), (8, 16, 2)))
    return variants.vary(config, variant, model=small)
