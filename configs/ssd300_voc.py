"""SSD300 (Liu et al. 2016) on PASCAL VOC's 20 classes with VGG-16.

    python main.py --config=configs/ssd300_voc.py --workdir=runs/ssd300_voc --tfds_data_dir=DIR \\
        --config.pretrained=VGG16.safetensors

VGG16.safetensors has ImageNet weights by torchvision's names, with fc6 and fc7, which are subsampled here.
The recipe needs a GPU and has not been run.
Published, not reproduced here: mAP (11 points, VOC 2007 test) 77.2 with the zoom-out of section 3.6, and 74.3 without it (table
1). For two CPU cores use configs/ssd_bccd.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_ssd300(config)
    datasets.use_voc_boxes(config, (300, 300))
    datasets.use_statistics_of_imagenet(config)
    schedules.train_ssd300(config)
    config.data.augment.update(zoom_out=(0.5, 4.0), iou_crop=True)
    config.data.augment.update(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05)
    small = dict(backbone=dict(layers=11, width=0.07), fc=16, extras=((8, 16, 2),))
    boxes = dict(sizes=(0.2, 0.4, 0.6, 0.8), ratios=((2.0,), (2.0,), (2.0,)))
    return variants.vary(config, variant, model=small | boxes)
