"""YOLO, version 1 (Redmon et al. 2016), on PASCAL VOC's 20 classes.

    python main.py --config=configs/yolov1_voc.py --workdir=runs/yolov1_voc --tfds_data_dir=DIR

The recipe of section 2.2 needs a GPU and has not been run. The paper starts from 20 convolutions pretrained on ImageNet, this
config from scratch. `yolov1_voc.py:fast` is Fast YOLO.
Published, not reproduced here: mAP (VOC 2007 test) 63.4, and 52.7 for Fast YOLO (table 1). For two CPU cores use
configs/yolov1_bccd.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_yolov1(config)
    datasets.use_voc_boxes(config, (448, 448))
    schedules.train_yolov1(config)
    config.data.augment.update(scale=(0.8, 1.2), translate=0.2)
    config.data.augment.update(brightness=0.5, saturation=0.5)  # in RGB; the paper's exposure and saturation are HSV's
    if variant == "fast":
        config.model.layers = 9
    small = dict(layers=9, width=0.06, depth=0.3, stride=16, grid=4, connected=16)
    return variants.vary(config, variant, model=small, others=("fast",))
