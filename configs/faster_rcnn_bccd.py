"""A light Faster R-CNN on an EfficientNet-Lite0 with ImageNet weights, for BCCD's blood cells of three classes.

    python main.py --config=configs/faster_rcnn_bccd.py --workdir=runs/faster_rcnn_bccd \\
        --config.data.folder.root=BCCD_Dataset/BCCD --config.pretrained=EFFICIENTNET_LITE0.safetensors

docs/models.md says where the weights are.
Expected on an H100: AP50 0.908, AP 0.597 on val after five minutes next to other trainings. From scratch, without
--config.pretrained, the same 400 steps give AP50 0.864, AP 0.516 (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_faster_rcnn(config)
    detectors.use_efficientnet_lite(config)
    datasets.use_bccd_enlarged(config)
    datasets.use_statistics_of_efficientnet_lite(config)
    schedules.train_on_bccd(config, steps=400)
    # Anchors of 24, 48, 96 and 192 pixels. Platelets have about 30 pixels, red cells 100, white cells 190; none is narrow.
    config.model.update(backbone=dict(finest=8, coarsest=64), scale=3.0, ratios=(1.5, 1.0, 1 / 1.5))
    config.task.update(anchors=128, proposal_candidates=(500, 300), proposals=(300, 200), regions=128)
    small = dict(backbone=dict(bottom_up=dict(width=0.25, depth=0.1), width=8), fc=16)
    return variants.vary(config, variant, model=small)
