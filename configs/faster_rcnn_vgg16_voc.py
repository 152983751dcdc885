"""Faster R-CNN (Ren et al. 2015) on PASCAL VOC's 20 classes as published, on VGG-16's level of stride 16.

    python main.py --config=configs/faster_rcnn_vgg16_voc.py --workdir=runs/faster_rcnn_voc --tfds_data_dir=DIR \\
        --config.pretrained=VGG16.safetensors

VGG16.safetensors has ImageNet weights by torchvision's names; its fc6 and fc7 fill the head. Both stages train jointly (section
3.2). The recipe needs a GPU and has not been run.
Published, not reproduced here: mAP (11 points, VOC 2007 test, 300 proposals) 73.2, and 69.9 trained on VOC 2007 alone (table
3). These networks were trained alternately in four steps, which section 3.2 calls close to joint training.
For two CPU cores use configs/faster_rcnn_shapes.py.
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
