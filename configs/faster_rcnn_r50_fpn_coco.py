"""Faster R-CNN (Ren et al. 2015) on COCO 2017, ResNet-50 and an FPN, where torchvision's fasterrcnn_resnet50_fpn stands.

    python main.py --mode=evaluate --config=configs/faster_rcnn_r50_fpn_coco.py --workdir=runs/faster_rcnn_coco \\
        --tfds_data_dir=DIR --config.pretrained=FASTERRCNN_RESNET50_FPN.safetensors

FASTERRCNN_RESNET50_FPN.safetensors has the published weights by torchvision's names (docs/detection.md). Published by
torchvision for them (COCO_V1), not reproduced here, is an AP of 37.0 on val2017. To train instead, leave --mode out and give
RESNET50.safetensors, ImageNet's weights; that recipe needs GPUs, is half as long as torchvision's and has not been run.
A light one for two CPU cores is configs/faster_rcnn_shapes.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_faster_rcnn(config)
    config.model.backbone.bottom_up.epsilon = 0.0  # of the published weights
    datasets.use_coco(config)
    datasets.use_statistics_of_imagenet(config)
    schedules.train_on_coco(config)
    small = dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), fc=16)
    return variants.vary(config, variant, model=small)
