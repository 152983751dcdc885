"""R-CNN (Girshick et al. 2014) on the synthetic shapes, with one run of the network per region.

    python main.py --config=configs/rcnn_shapes.py --workdir=runs/rcnn_shapes --tfds_data_dir=data
    python main.py --config=configs/rcnn_shapes.py:svm --workdir=runs/rcnn_svm --tfds_data_dir=data \\
        --config.init_from=runs/rcnn_shapes
    python main.py --config=configs/rcnn_shapes.py:regression --workdir=runs/rcnn_regression --tfds_data_dir=data \\
        --config.init_from=runs/rcnn_svm

The first command trains the network with a softmax and boxes, which is a complete detector. The others are the paper's later
stages on its features: one linear SVM per class, then one regression of boxes per class.
Expected on two CPU cores: AP50 0.960, AP 0.736 after seven minutes next to other trainings; then 0.953, 0.731 and 0.961, 0.755
after eleven minutes each next to much other work (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_rcnn(config)
    detectors.use_light_trunk(config)
    config.model.update(size=48, context=4, chunk=200)
    datasets.use_shapes_proposals(config)
    schedules.train_light_detector(config, steps=800, every=800)
    config.train.batch_size, config.task.regions = 4, 16
    variants.follow(config, variant)
    return variants.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16), others=variants.STAGES)
