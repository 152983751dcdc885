"""R-CNN (Girshick et al. 2014) on PASCAL VOC 2007 as published, with VGG-16, selective search and three stages.

    python main.py --config=configs/rcnn_voc.py --workdir=runs/rcnn_voc --tfds_data_dir=DIR \\
        --config.pretrained=VGG16.safetensors
    python main.py --config=configs/rcnn_voc.py:svm --workdir=runs/rcnn_voc_svm --tfds_data_dir=DIR \\
        --config.init_from=runs/rcnn_voc
    python main.py --config=configs/rcnn_voc.py:regression --workdir=runs/rcnn_voc_regression --tfds_data_dir=DIR \\
        --config.init_from=runs/rcnn_voc_svm

The network is fine-tuned to classify warped regions. Then one linear SVM per class learns on its stored fc7, and one linear
regression of boxes on its stored pool5. VGG16.safetensors has ImageNet weights by torchvision's names. The second stage stores
up to 164 GB in its workdir, and removes them at the end. The recipe needs a GPU and has not been run.
Published, not reproduced here: mAP (11 points, VOC 2007 test) 66.0 (Girshick 2015, table 1), and 58.5 with AlexNet (Girshick et
al. 2014, table 2). For two CPU cores use configs/rcnn_shapes.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_rcnn(config)
    detectors.use_fine_tuning(config)
    datasets.use_voc_proposals(config)
    schedules.fine_tune_rcnn(config)
    variants.follow(config, variant)
    return variants.vary(
        config,
        variant,
        model=dict(backbone=dict(layers=11, width=0.07), size=32, context=2, fc=16),
        others=variants.STAGES,
    )
