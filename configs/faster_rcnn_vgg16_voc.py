"""Faster R-CNN (Ren et al. 2015) on PASCAL VOC's 20 classes as published: VGG-16, one level of stride 16, RoI max pooling.

    python main.py --config=configs/faster_rcnn_vgg16_voc.py --workdir=runs/faster_rcnn_voc --tfds_data_dir=DIR \\
        --config.pretrained=VGG16.safetensors

VGG16.safetensors has ImageNet's weights by torchvision's names; its fc6 and fc7 are the head's. Both stages learn jointly
(section 3.2). The recipe needs a GPU and has not been run. Published, not reproduced here, is an mAP (11 points, on VOC 2007
test, 300 proposals) of 73.2, and of 69.9 trained on VOC 2007 alone (table 3): of networks trained in four steps by turns,
which section 3.2 calls close to joint training. A light one for two CPU cores is configs/faster_rcnn_shapes.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_vgg_faster_rcnn(config)
    datasets.use_voc_boxes_at_600(config)
    datasets.use_statistics_of_imagenet(config)
    schedules.train_vgg_faster_rcnn(config)
    config.data.augment.crop = False
    small = dict(backbone=dict(layers=11, width=0.07), scale=1.0, fc=16)
    return variants.vary(config, variant, model=small)
