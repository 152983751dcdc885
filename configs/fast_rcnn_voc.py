"""Fast R-CNN (Girshick 2015) on PASCAL VOC's 20 classes as published, with VGG-16 and selective search.

    python main.py --config=configs/fast_rcnn_voc.py --workdir=runs/fast_rcnn_voc --tfds_data_dir=DIR \\
        --config.pretrained=VGG16.safetensors

VGG16.safetensors has ImageNet weights by torchvision's names; its fc6 and fc7 fill the head. The first start searches proposals
in 21,503 images, which takes hours of one core. The recipe needs a GPU and has not been run.
Published, not reproduced here: mAP (11 points, VOC 2007 test) 70.0, and 66.9 trained on VOC 2007 alone (table 1).
For two CPU cores use configs/fast_rcnn_shapes.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_fast_rcnn(config)
    datasets.use_voc_proposals_at_600(config)
    schedules.train_fast_rcnn(config)
    return variants.vary(config, variant, model=dict(backbone=dict(layers=11, width=0.07), fc=16))
