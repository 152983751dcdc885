"""SSD300 (Liu et al. 2016) on PASCAL VOC's 20 classes, VGG-16.

    python main.py --config=configs/ssd300_voc.py --workdir=runs/ssd300_voc --tfds_data_dir=DIR \\
        --config.pretrained=VGG16.safetensors

VGG16.safetensors has ImageNet's weights by torchvision's names, fc6 and fc7 among them; they are thinned here.
The recipe wants a GPU and has not been run. Published, not reproduced here, are mAP (11 points, on VOC 2007 test) of 77.2
with the zoom-out of section 3.6 and 74.3 without it (table 1). A light one for two CPU cores is configs/ssd_bccd.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_voc_boxes(config, (300, 300))
    config.model.update(
        name="ssd",
        backbone=dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9),
        fc=1024,
        extras=((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1)),
        sizes=(0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),  # of the released network: 30, 60, 111 ... 315 pixels
        ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
        l2_norm=20.0,
        norm="none",
        momentum=0.9,
    )
    task = config.task
    task.name = "ssd"
    task.score, task.nms_iou, task.candidates, task.detections = 0.01, 0.45, 400, 200
    config.eval.merge_iou, config.eval.max_detections = 0.45, 200
    config.data.mean = (123.675, 116.28, 103.53)  # of the weights that torchvision's names come with
    config.data.std = (58.395, 57.12, 57.375)
    augment = config.data.augment
    augment.zoom_out = (0.5, 4.0)
    augment.iou_crop = True
    augment.brightness, augment.contrast, augment.saturation, augment.hue = 0.125, 0.5, 0.5, 0.05
    config.train.update(batch_size=32, steps=120000, log_every=100, eval_every=5000, checkpoint_every=2500)
    config.eval.batch_size = 32
    config.optim.update(
        name="sgd",
        lr=1e-3,
        schedule="step",
        boundaries=(80 / 120, 100 / 120),
        momentum=0.9,
        weight_decay=5e-4,
        rates=((".*/bias", 2.0),),
    )
    small = dict(backbone=dict(layers=11, width=0.07), fc=16, extras=((8, 16, 2),))
    boxes = dict(sizes=(0.2, 0.4, 0.6, 0.8), ratios=((2.0,), (2.0,), (2.0,)))
    return common.vary(config, variant, model=small | boxes)
