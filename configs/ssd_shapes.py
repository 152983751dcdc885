"""A light SSD on the synthetic shapes, trained in minutes without a download.

    python main.py --config=configs/ssd_shapes.py --workdir=runs/ssd_shapes --tfds_data_dir=data

Expected on two CPU cores: AP50 0.980, AP 0.643 after two minutes (RESULTS.md).
`ssd_shapes.py:resnet` has the trunk of configs/fast_rcnn_shapes.py, for comparison.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_ssd(config)
    if variant == "resnet":
        detectors.use_light_resnet_ssd(config)
    datasets.use_shapes_boxes(config, (96, 96))
    schedules.train_light_detector(config, steps=600, every=150)
    small = dict(backbone=dict(layers=11, width=0.07), fc=16, extras=((8, 16, 2),))
    return variants.vary(config, variant, model=small, others=("resnet",))
