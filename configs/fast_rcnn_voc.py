"""Fast R-CNN (Girshick 2015) on PASCAL VOC's 20 classes as published: VGG-16, RoI max pooling, selective search's proposals.

    python main.py --config=configs/fast_rcnn_voc.py --workdir=runs/fast_rcnn_voc --tfds_data_dir=DIR \\
        --config.pretrained=VGG16.safetensors

VGG16.safetensors has ImageNet's weights by torchvision's names; its fc6 and fc7 are the head's. The first start searches
21,503 images for proposals, for hours of one core. The recipe needs a GPU and has not been run. Published, not reproduced
here, is an mAP (11 points, on VOC 2007 test) of 70.0, and of 66.9 trained on VOC 2007 alone (table 1). A light one for two
CPU cores is configs/fast_rcnn_shapes.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_fast_rcnn(config)
    datasets.use_voc_proposals_at_600(config)
    schedules.train_fast_rcnn(config)
    return variants.vary(config, variant, model=dict(backbone=dict(layers=11, width=0.07), fc=16))
