"""A light YOLOv1 on eight images of COCO, to overfit: does the whole detector work?

    python main.py --config=configs/yolov1_coco8.py --workdir=runs/yolov1_coco8 --tfds_data_dir=DIR

To expect on two CPU cores: AP50 0.995 after two minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_yolov1(config)
    datasets.use_coco8(config)
    schedules.overfit_coco8(config)
    return variants.vary(config, variant, model=dict(width=0.06, connected=16))
