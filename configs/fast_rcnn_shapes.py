"""Fast R-CNN (Girshick 2015) on the synthetic shapes, with shared features and one training stage.

    python main.py --config=configs/fast_rcnn_shapes.py --workdir=runs/fast_rcnn_shapes --tfds_data_dir=data

Expected on two CPU cores: AP50 0.961, AP 0.691 after thirteen minutes next to much other work, or about four on a quiet
machine (RESULTS.md). `:svm` replaces the softmax by SVMs, as in section 5.4.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_fast_rcnn(config)
    detectors.use_light_trunk(config)
    datasets.use_shapes_proposals(config)
    datasets.enlarge_shapes(config)
    schedules.train_light_detector(config, steps=400, every=200)
    variants.follow(config, variant)
    return variants.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16), others=variants.STAGES)
