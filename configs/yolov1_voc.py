"""YOLO, version 1 (Redmon et al. 2016), on PASCAL VOC's 20 classes.

    python main.py --config=configs/yolov1_voc.py --workdir=runs/yolov1_voc --tfds_data_dir=DIR

The recipe of section 2.2 wants a GPU and has not been run. The paper starts from 20 convolutions pretrained on ImageNet; this
file from scratch. Published, not reproduced here: mAP on VOC 2007 test of 63.4, and of 52.7 for Fast YOLO (table 1), which
is `yolov1_voc.py:fast`. A light one for two CPU cores is configs/yolov1_bccd.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_voc_boxes(config, (448, 448))
    config.model.update(
        name="yolov1",
        layers=24,
        width=1.0,
        depth=1.0,
        stride=64,
        grid=7,
        boxes=2,
        head="connected",
        connected=4096,
        dropout=0.5,
        norm="none",
        momentum=0.9,
    )
    task = config.task
    task.name = "yolov1"
    task.coordinates, task.no_object = 5.0, 0.5
    task.score, task.nms_iou = 0.001, 0.5  # of the authors' evaluation; the paper has no figures
    config.eval.merge_iou = 0.5
    augment = config.data.augment
    augment.scale, augment.translate = (0.8, 1.2), 0.2
    augment.brightness, augment.saturation = 0.5, 0.5  # in RGB; the paper's exposure and saturation are HSV's
    # 135 epochs of the paper's 16,551 images, after three in which the rate rises: of those it gives no number.
    config.train.update(batch_size=64, steps=35700, log_every=100, eval_every=2600, checkpoint_every=1300)
    config.eval.batch_size = 64
    config.optim.update(
        name="sgd",
        lr=1e-2,
        schedule="step",
        boundaries=(75 / 135, 105 / 135),
        warmup_steps=780,
        warmup_from=0.1,
        momentum=0.9,
        weight_decay=5e-4,
    )
    if variant == "fast":
        config.model.layers = 9
    small = dict(layers=9, width=0.06, depth=0.3, stride=16, grid=4, connected=16)
    return common.vary(config, variant, model=small, others=("fast",))
