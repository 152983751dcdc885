"""A light RetinaNet on an EfficientNet-Lite0 with ImageNet weights, for BCCD's blood cells of three classes, on a CPU.

    python main.py --config=configs/retinanet_bccd.py --workdir=runs/retinanet_bccd \\
        --config.data.folder.root=BCCD_Dataset/BCCD --config.pretrained=EFFICIENTNET_LITE0.safetensors

docs/models.md says where the weights are.
Expected on two CPU cores: AP50 0.903, AP 0.603 on val after 25 minutes next to other work. From scratch, without
--config.pretrained, the same 400 steps give AP50 0.868, AP 0.514 (RESULTS.md).
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_retinanet(config)
    detectors.use_efficientnet_lite(config)
    datasets.use_bccd_enlarged(config)
    datasets.use_statistics_of_efficientnet_lite(config)
    schedules.train_on_bccd(config, steps=400)
    # Cells are round, so no anchor is narrow. An image has many cells, so there are many candidates.
    config.model.ratios = (1.5, 1.0, 1 / 1.5)
    config.task.update(box_loss="giou", box_weight=2.0, nms_candidates=1000)
    small = dict(backbone=dict(bottom_up=dict(width=0.25, depth=0.1), width=8), tower=1)
    return variants.vary(config, variant, model=small)
