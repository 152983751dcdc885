"""Mask R-CNN (He et al. 2017) on COCO 2017 with ResNet-50 and an FPN, matching torchvision's maskrcnn_resnet50_fpn.

    python main.py --mode=evaluate --config=configs/mask_rcnn_r50_fpn_coco.py --workdir=runs/mask_rcnn_coco \\
        --config.data.folder.root=COCO --config.pretrained=MASKRCNN_RESNET50_FPN.safetensors

COCO holds annotations/instances_train2017.json and instances_val2017.json, and the images in train2017 and val2017; tfds's
COCO has no masks. MASKRCNN_RESNET50_FPN.safetensors has the published weights by torchvision's names (docs/detection.md).
Published by torchvision (COCO_V1), not reproduced here: AP 37.9 of boxes and 34.6 of masks on val2017. To train, omit --mode
and give RESNET50.safetensors with ImageNet weights. That recipe needs GPUs, is half as long as torchvision's and has not been
run. A step of two images of 800x1344 takes 4.5 GB of a GPU, 2.4 GB in bfloat16 (RESULTS.md).
For two CPU cores use configs/mask_rcnn_shapes.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_mask_rcnn(config)
    config.model.backbone.bottom_up.epsilon = 0.0  # of the published weights
    datasets.use_coco_masks(config)
    datasets.use_statistics_of_imagenet(config)
    schedules.train_on_coco(config)
    small = dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), fc=16, mask_depth=1, mask_width=8)
    return variants.vary(config, variant, model=small)
