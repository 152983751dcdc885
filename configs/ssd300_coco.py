"""SSD300 (Liu et al. 2016) on COCO 2017 with VGG-16 and the default boxes of torchvision's ssd300_vgg16.

    python main.py --mode=evaluate --config=configs/ssd300_coco.py --workdir=runs/ssd300_coco --tfds_data_dir=DIR \\
        --config.pretrained=SSD300_VGG16.safetensors

SSD300_VGG16.safetensors has the published weights by torchvision's names (docs/detection.md). Published by torchvision,
not reproduced here: AP 25.1 on val2017. To train, omit --mode and give ImageNet weights of VGG-16 with fc6 and fc7. That is the
paper's recipe; it needs GPUs and has not been run.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_torchvision_ssd300(config)
    datasets.use_coco_stretched(config, (300, 300))
    datasets.use_statistics_of_vgg_ssd(config)
    schedules.train_ssd300_on_coco(config)
    config.data.augment.update(zoom_out=(0.5, 4.0), iou_crop=True)
    config.data.augment.update(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05)
    small = dict(backbone=dict(layers=11, width=0.07), fc=16, extras=((8, 16, 2),))
    boxes = dict(sizes=(0.2, 0.4, 0.6, 0.8), ratios=((2.0,), (2.0,), (2.0,)), steps=())
    return variants.vary(config, variant, model=small | boxes)
