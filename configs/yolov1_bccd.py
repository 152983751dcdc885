"""A light YOLOv1 for BCCD's blood cells of three classes, from scratch on a CPU.

    python main.py --config=configs/yolov1_bccd.py --workdir=runs/yolov1_bccd --config.data.folder.root=BCCD_Dataset/BCCD

Expected on two CPU cores: AP50 0.836, AP 0.491 on val after 33 minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_yolov1(config)
    datasets.use_bccd(config)
    schedules.train_on_bccd(config)
    return variants.vary(config, variant, model=dict(width=0.06, connected=16))
