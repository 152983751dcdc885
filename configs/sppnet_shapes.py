"""SPP-net with a softmax (He et al. 2014) on the synthetic shapes, with features of a trained R-CNN.

    python main.py --config=configs/sppnet_shapes.py --workdir=runs/sppnet_shapes --tfds_data_dir=data \\
        --config.init_from=runs/rcnn_shapes

The features are computed once per image. The trunk comes from a run of configs/rcnn_shapes.py and stays frozen.
Expected on two CPU cores: AP50 0.955, AP 0.666 after seven minutes next to much other work (RESULTS.md). `:svm` and
`:regression` are the later stages of the paper, as in configs/rcnn_shapes.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_sppnet(config)
    detectors.use_light_trunk(config)
    datasets.use_shapes_proposals(config)
    datasets.enlarge_shapes(config)
    schedules.train_light_detector(config, steps=400, every=200)
    variants.follow(config, variant)
    return variants.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16), others=variants.STAGES)
