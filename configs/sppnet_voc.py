"""SPP-net (He et al. 2014) on PASCAL VOC 2007 as published, with VGG-16, selective search and three stages.

    python main.py --config=configs/sppnet_voc.py --workdir=runs/sppnet_voc --tfds_data_dir=DIR \\
        --config.pretrained=VGG16.safetensors
    python main.py --config=configs/sppnet_voc.py:svm --workdir=runs/sppnet_voc_svm --tfds_data_dir=DIR \\
        --config.init_from=runs/sppnet_voc
    python main.py --config=configs/sppnet_voc.py:regression --workdir=runs/sppnet_voc_regression --tfds_data_dir=DIR \\
        --config.init_from=runs/sppnet_voc_svm

The stages are those of configs/rcnn_voc.py, on features that are computed once per image. Unlike in the paper, images have one
scale, 600 pixels, not the best of five for each region, and negatives that overlap each other by 70 % stay. VGG16.safetensors
has ImageNet weights by torchvision's names; fc6 and fc7 start with random values, as the paper's were trained after a pyramid.
The second stage stores up to 164 GB in its workdir, and removes them at the end. The recipe needs a GPU and has not been run.
Published, not reproduced here: mAP (11 points, VOC 2007 test) 63.1, without difficult objects (Girshick 2015, table 1), and
59.2 with ZF-5 (He et al. 2014, section 4.2). For two CPU cores use configs/sppnet_shapes.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_sppnet(config)
    detectors.use_fine_tuning(config)
    datasets.use_voc_proposals_at_600(config)
    config.data.train_split = "train+validation"
    schedules.fine_tune_sppnet(config)
    variants.follow(config, variant)
    if variant == "regression":
        config.task.update(regression_iou=0.5, ridge=4000.0)  # of the authors' code
    return variants.vary(
        config, variant, model=dict(backbone=dict(layers=11, width=0.07), fc=16), others=variants.STAGES
    )
