"""A light YOLOv1 that overfits eight images of COCO, to check the whole detector.

    python main.py --config=configs/yolov1_coco8.py --workdir=runs/yolov1_coco8 --tfds_data_dir=DIR

Expected on two CPU cores: AP50 0.995 after two minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_yolov1(config)
    datasets.use_coco8(config)
    schedules.overfit_coco8(config)
    return variants.vary(config, variant, model=dict(width=0.06, connected=16))
