"""A light FCOS on an EfficientNet-Lite0 with ImageNet weights, for BCCD's blood cells of three classes, on a CPU.

    python main.py --config=configs/fcos_bccd.py --workdir=runs/fcos_bccd --config.data.folder.root=BCCD_Dataset/BCCD \\
        --config.pretrained=EFFICIENTNET_LITE0.safetensors

docs/models.md says where the weights are.
Expected on two CPU cores: AP50 0.873, AP 0.559 on val after 63 minutes next to other work (RESULTS.md). Not run from scratch.
configs/retinanet_bccd.py is better in a third of the time.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_fcos(config)
    detectors.use_efficientnet_lite(config)
    datasets.use_bccd(config)
    datasets.use_statistics_of_efficientnet_lite(config)
    schedules.train_on_bccd(config)
    # An image has up to 30 cells, and several locations detect each.
    config.task.update(nms_candidates=1000, max_detections=200)
    config.eval.max_detections = 200
    config.optim.update(lr=1e-3, lr_multipliers=(("backbone/bottom_up/", 0.3),))
    small = dict(backbone=dict(bottom_up=dict(width=0.25, depth=0.1), width=8), tower=1)
    return variants.vary(config, variant, model=small)
