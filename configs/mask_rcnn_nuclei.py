"""A light Mask R-CNN on an EfficientNet-Lite0 with ImageNet weights, for the nuclei of the Data Science Bowl 2018.

    python main.py --config=configs/mask_rcnn_nuclei.py --workdir=runs/mask_rcnn_nuclei \\
        --config.data.folder.root=DSB2018 --config.pretrained=EFFICIENTNET_LITE0.safetensors

DSB2018 holds SPLIT/images and SPLIT/instances, a PNG of ids for each image; docs/models.md says where the weights are.
Expected on an H100: AP50 0.860, AP 0.531, and of masks AP50 0.865, AP 0.555, on the 50 images of val after 7 minutes next to
other trainings. Scores count 400 detections per image; COCO's limit of 100 hides a seventh of these nuclei (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_mask_rcnn(config)
    detectors.use_efficientnet_lite(config)
    datasets.use_nuclei(config)
    datasets.score_masks(config)
    datasets.use_statistics_of_efficientnet_lite(config)
    schedules.train_on_nuclei(config)
    config.model.scale = 3.0
    config.task.update(anchors=256, proposal_candidates=(1000, 600), proposals=(500, 500), regions=128)
    small = dict(backbone=dict(bottom_up=dict(width=0.25, depth=0.1), width=8), fc=16, mask_depth=1, mask_width=8)
    return variants.vary(config, variant, model=small)
