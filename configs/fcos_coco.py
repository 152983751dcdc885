"""FCOS (Tian et al. 2019) on COCO 2017, ResNet-50 and an FPN.

    python main.py --config=configs/fcos_coco.py --workdir=runs/fcos_coco --tfds_data_dir=DIR \\
        --config.pretrained=RESNET50.safetensors

RESNET50.safetensors has ImageNet's weights by torchvision's names. The recipe needs GPUs and has not been run. Published,
not reproduced here, is an AP of 39.2 on val2017 (torchvision's fcos_resnet50_fpn, COCO_V1, which trains twice as long).
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
