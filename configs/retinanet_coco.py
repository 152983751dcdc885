"""RetinaNet (Lin et al. 2017) on COCO 2017 with ResNet-50 and an FPN, matching torchvision's retinanet_resnet50_fpn.

    python main.py --mode=evaluate --config=configs/retinanet_coco.py --workdir=runs/retinanet_coco --tfds_data_dir=DIR \\
        --config.pretrained=RETINANET_RESNET50_FPN.safetensors

RETINANET_RESNET50_FPN.safetensors has the published weights by torchvision's names (docs/detection.md). Published by
torchvision (COCO_V1), not reproduced here: AP 36.4 on val2017. To train, omit --mode and give RESNET50.safetensors with
ImageNet weights. That recipe needs GPUs, is half as long as torchvision's and has not been run.
For two CPU cores use configs/retinanet_shapes.py or configs/retinanet_coco8.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_retinanet(config)
    config.model.backbone.bottom_up.epsilon = 0.0  # of the published weights
    datasets.use_coco(config)
    datasets.use_statistics_of_imagenet(config)
    schedules.train_on_coco(config)
    small = dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), tower=1)
    return variants.vary(config, variant, model=small)
