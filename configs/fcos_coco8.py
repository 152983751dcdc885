"""A light FCOS that overfits eight images of COCO, to check the whole detector.

    python main.py --config=configs/fcos_coco8.py --workdir=runs/fcos_coco8 --tfds_data_dir=DIR

Expected on two CPU cores: AP50 1.000, AP 1.000 (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_fcos(config)
    datasets.use_coco8(config)
    schedules.overfit_coco8(config)
    config.model.backbone.finest = 4  # objects are as small as 5x2 pixels
    small = dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), tower=1)
    return variants.vary(config, variant, model=small)
