"""FCOS (Tian et al. 2019) on COCO 2017, ResNet-50 and an FPN, where torchvision's fcos_resnet50_fpn stands.

    python main.py --mode=evaluate --config=configs/fcos_coco.py --workdir=runs/fcos_coco --tfds_data_dir=DIR \\
        --config.pretrained=FCOS_RESNET50_FPN.safetensors

FCOS_RESNET50_FPN.safetensors has the published weights by torchvision's names (docs/detection.md). Published by
torchvision for them (COCO_V1), not reproduced here, is an AP of 39.2 on val2017. To train instead, leave --mode out and give
RESNET50.safetensors, ImageNet's weights; that recipe needs GPUs, is half as long as torchvision's and has not been run.
Light ones for two CPU cores are configs/fcos_shapes.py and configs/fcos_coco8.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_fcos(config)
    datasets.use_coco(config)
    datasets.use_statistics_of_imagenet(config)
    schedules.train_on_coco(config)
    small = dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), tower=1)
    return variants.vary(config, variant, model=small)
