"""A RetinaNet on an EfficientNet-Lite0, for your own images with boxes in COCO's, VOC's or YOLO's format.

    python main.py --mode=datacheck --config=configs/boxes.py --config.data.folder.root=DIR
    python main.py --config=configs/boxes.py --workdir=runs/mine --config.data.folder.root=DIR \\
        --config.pretrained=EFFICIENTNET_LITE0.safetensors

docs/data.md lists the layouts, docs/models.md says where the weights are. Format and image size are read from the data and
stored in the run. If there is only one split, --config.data.holdout=0.2 holds out a fifth of it.
`boxes.py:light` trains a narrow ResNet-10 from scratch on a CPU: 400 steps of 4 images at 256 pixels.
"""

from ml_collections import ConfigDict

from configs import common, datasets, detectors, schedules, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    detectors.use_light_retinanet(config)
    datasets.use_own_boxes(config)
    schedules.train_on_own(config, steps=4000)
    config.task.update(box_loss="giou", box_weight=2.0, nms_candidates=1000)
    if variant == "light":
        variants.lighten_own(config)
    else:
        detectors.use_efficientnet_lite(config)
        datasets.use_statistics_of_efficientnet_lite(config)
    small = dict(backbone=dict(bottom_up=dict(width=0.25, depth=0.1), width=8), tower=1)
    return variants.vary(config, variant, model=small, others=("light",))
