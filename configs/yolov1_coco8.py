"""A light YOLOv1 on eight images of COCO, learned by heart: does the whole detector work?

    python main.py --config=configs/yolov1_coco8.py --workdir=runs/yolov1_coco8 --tfds_data_dir=DIR

To expect on two CPU cores: AP50 0.995 after two minutes (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_coco8(config)
    common.use_light_yolov1(config)
    return common.vary(config, variant, model=dict(width=0.06, connected=16))
