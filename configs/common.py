"""The fields every experiment has, with their defaults. A config file changes what is its own; code never supplies a default.

Sizes are (height, width) in pixels, rates are per optimiser step, and `every` fields count optimiser steps.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A complete config without a model: the experiment's file adds `model.name` and the fields of that model."""
    config = ConfigDict()
    config.seed = 0
    config.mesh = (1, -1, 1)  # devices along ('member', 'data', 'fsdp'); -1 takes all that are left

    config.model = ConfigDict(dict(name="", dtype="float32"))  # dtype of the computation; parameters are always float32
    config.pretrained = ""  # a local .safetensors file with weights of the backbone
    config.init_from = ""  # the workdir of another run whose parameters this one starts from

    config.task = task = ConfigDict()
    task.name = "segmentation"  # segmentation, adversarial_segmentation, yolov1 or ssd
    task.losses = (("cross_entropy", 1.0),)  # (name, factor) of cross_entropy, dice, focal, lovasz_softmax, ohem
    task.class_weights = ()  # of a pixel by its true class; () is 1 for all; `--mode=datacheck` counts median frequency's
    task.label_smoothing = 0.0  # cross_entropy
    task.focal_gamma = 2.0
    task.ohem = (0.7, 0.25)  # pixels whose true class has less than this probability, at least this share of an image
    task.adversarial = 0.01  # adversarial_segmentation: the discriminator's part of the generator's loss
    task.use_difficult = True  # objects marked as difficult are learned; they are scored as config.eval.metrics has it
    task.match_iou = 0.5  # ssd: a default box with this overlap or more is an object's
    task.negatives = 3.0  # ssd: hardest boxes without an object that count, for each with one
    task.localisation = 1.0  # ssd: the factor (alpha) on the boxes' part of the loss
    task.coordinates = 5.0  # yolov1: lambda_coord
    task.no_object = 0.5  # yolov1: lambda_noobj
    task.score = 0.01  # detections below it are dropped
    task.nms_iou = 0.45  # of two detections of one class with more overlap the weaker one is dropped
    task.candidates = 400  # best detections of each class that suppression looks at
    task.detections = 200  # that an image keeps

    config.data = ConfigDict()
    config.data.name = "shapes"  # a name of input_pipeline/datasets/registry.py
    config.data.max_boxes = 100  # objects that a row of a batch has room for; what is beyond is counted
    config.data.train_split = "train"  # train[:100] is a part; a+b both; voc/2012:train another dataset's
    config.data.eval_split = "validation"
    config.data.image_size = (128, 128)  # of a training example
    config.data.canvases = ()  # of evaluation: each image takes the one nearest to its shape; () is image_size alone
    config.data.fit = (
        "stretch"  # stretch, letterbox or crop (its own scale, cut or padded): how an image comes to its size
    )
    config.data.margin = 0  # pixels at each side that are context only: (572 - 388) / 2 for an unpadded U-Net
    config.data.border = "mean"  # mean or mirror: what lies beyond the image
    config.data.weight_map = (0.0, 5.0)  # w0 and sigma of U-Net's weights between touching instances; w0=0: none
    config.data.mean = (127.5, 127.5, 127.5)  # subtracted from RGB 0..255, then divided by std, on the device
    config.data.std = (127.5, 127.5, 127.5)
    config.data.num_threads = 2  # that read, decode and augment
    config.data.prefetch = 8  # training batches made ahead
    config.data.folder = folder = ConfigDict()  # image_mask, voc_segmentation, coco_folder, voc_folder, yolo_folder
    folder.root = ""  # what it holds, each file of input_pipeline/datasets says
    folder.first_pixel = (
        0  # voc_folder: 1 where pixels count from 1 and the last one is the box's, as in VOC's own files
    )
    folder.classes = "classes.txt"  # a name a line, or `name red green blue` for colour masks
    folder.ignore_value = 255  # grey or palette index in the mask that is no class
    folder.instances = (
        ""  # "folder": SPLIT/instances has each object's own id (0: none); "components": regions of class > 0
    )
    folder.drop_unreadable = False  # True: leave files that cannot be decoded out of the index, and count them
    config.data.augment = augment = ConfigDict()  # training only
    augment.flip = 0.5  # probability of a mirror image, left for right
    augment.scale = (1.0, 1.0)  # zoom, log-uniform
    augment.aspect = 1.0  # stretch of height against width, log-uniform in [1/aspect, aspect]
    augment.translate = 0.0  # share of each side, uniform in [-t, t], beside what the crop moves
    augment.rotation = 0.0  # degrees, uniform in [-rotation, rotation]
    augment.crop = True  # a random position when the zoomed image and the output differ in size; else the centre
    augment.elastic = (0.0, 8.0)  # displacement's standard deviation and its smoothing, pixels of the output
    augment.zoom_out = (0.0, 4.0)  # boxes: probability, and the largest side of the blank canvas an image is put on
    augment.iou_crop = False  # boxes: SSD's crops, each with a least overlap with an object
    augment.min_visible = 0.1  # boxes: an object with less of its area left in the picture is dropped
    augment.mosaic = 0.0  # boxes: probability of four examples in one picture
    augment.mixup = 0.0  # boxes: probability of two pictures blended, with the objects of both
    augment.copy_paste = 0.0  # boxes, of a dataset with masks: probability of another picture's objects pasted in
    augment.brightness = 0.0  # factor in [1 - b, 1 + b]
    augment.contrast = 0.0
    augment.saturation = 0.0
    augment.hue = 0.0  # shift in [-h, h] turns of the colour wheel

    config.train = ConfigDict()
    config.train.batch_size = 16  # examples of one optimiser step, over all devices
    config.train.steps = 1000
    config.train.log_every = 20
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    config.train.keep = 2  # newest checkpoints kept, the best one beside them
    config.train.best = "val/mIoU"  # names the best checkpoint: a score, of an error the smallest, or val/loss

    config.eval = ConfigDict()
    config.eval.batch_size = 16
    config.eval.metrics = (
        "confusion",
        "boundary",
    )  # confusion, boundary, partition; boxes: coco, voc07, voc12, confusion
    config.eval.pictures = 8  # predictions drawn beside the ground truth
    config.eval.picture_score = 0.25  # boxes: detections below it are not drawn, by evaluate and by predict
    config.eval.method = (
        "whole"  # whole or window, scored at the image's own size; canvas: image and mask resized first
    )
    config.eval.overlap = 0.5  # window: the share of a canvas that the next one sees again
    config.eval.flip = False  # test-time augmentation: the mean of an image and its mirror image
    config.eval.scales = (1.0,)  # test-time augmentation: the mean over these zooms
    config.eval.merge_iou = (
        0.45  # boxes of several views: of two of one class with more overlap the weaker one is dropped
    )
    config.eval.max_detections = 200  # boxes: that an image keeps, of all its views

    config.optim = optim = ConfigDict()
    optim.name = "adamw"  # adamw or sgd
    optim.lr = 1e-3
    optim.schedule = "cosine"  # constant, cosine, poly or step
    optim.warmup_steps = 0  # linear
    optim.warmup_from = 0.0  # the fraction of lr that it begins with
    optim.final = 0.0  # cosine and poly end at this fraction of lr
    optim.power = 0.9  # poly
    optim.boundaries = (0.6, 0.8)  # step: fractions of the run
    optim.decay = 0.1  # step: the factor at each boundary
    optim.momentum = 0.9  # sgd
    optim.betas = (0.9, 0.999)  # adamw
    optim.weight_decay = 0.0  # of kernels; biases and normalisation are left alone
    optim.clip = 0.0  # global norm; 0: none
    optim.accumulate = 1  # micro-batches that make one step's batch
    optim.ema = 0.0  # decay of the parameters' moving average; 0: none
    optim.rates = ()  # ((regular expression of a parameter path, factor on lr), ...): the first match counts
    optim.partition = ()  # ((regular expression, (("lr", 2e-4), ...)), ...): paths with an optimiser of their own fields
    optim.freeze = ()  # regular expressions of parameter paths kept as they are, batch statistics included

    config.wandb = ConfigDict()
    config.wandb.mode = "auto"  # auto (online with an account, else offline), online, offline or disabled
    config.wandb.project = "dense-prediction"
    config.wandb.entity = ""
    config.wandb.name = ""
    config.wandb.group = ""
    config.wandb.tags = ()
    return config


def use_camvid(config: ConfigDict) -> None:
    """CamVid's 11 classes: `data.folder.root` holds train, val and classes.txt; crops of the 360x480 images at their scale."""
    config.data.name = "image_mask"
    config.data.eval_split = "val"
    config.data.folder.ignore_value = 11
    config.data.fit = "crop"
    config.data.image_size = (360, 480)
    config.data.canvases = ((360, 480),)
    augment = config.data.augment
    augment.scale = (0.6, 1.6)
    augment.aspect = 1.1
    augment.rotation = 5.0
    augment.brightness, augment.contrast, augment.saturation, augment.hue = 0.3, 0.3, 0.3, 0.02
    config.eval.batch_size = 4
    # The square root of median frequency (Eigen and Fergus 2015) over the train split, as `--mode=datacheck` counts it.
    frequency = (0.2794, 0.2018, 4.789, 0.1491, 1.0, 0.4235, 3.846, 1.98, 0.789, 6.385, 8.819)
    config.task.class_weights = tuple(round(weight**0.5, 3) for weight in frequency)
    config.task.losses = (("cross_entropy", 1.0), ("dice", 0.5))
    config.train.update(batch_size=8, steps=20000, log_every=20, eval_every=1000, checkpoint_every=500)
    config.optim.update(name="adamw", lr=1e-3, warmup_steps=500, weight_decay=0.05, ema=0.999)


def lighten_camvid(config: ConfigDict) -> None:
    """`use_camvid` for a CPU: whole images at 192x256, ten to twenty minutes; scores are at 360x480 all the same."""
    config.data.fit = "stretch"
    config.data.image_size = (192, 256)
    config.data.canvases = ((192, 256),)
    config.data.augment.scale = (0.8, 1.6)
    config.train.update(batch_size=8, steps=450, log_every=20, eval_every=300, checkpoint_every=100)
    config.optim.update(lr=2e-3, warmup_steps=100, ema=0.99)


def use_fcn_voc(config: ConfigDict, stride: int) -> None:
    """FCN on VOC's 20 classes and background as published (Shelhamer et al. 2017): 500x500 at the images' own scale.

    `data.folder.root` is a VOCdevkit. One image a step with a high momentum.
    """
    config.model.update(
        name="fcn",
        backbone=dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9),
        stride=stride,
        fc=4096,
        dropout=0.5,
        padding="paper",
        upsampling="paper",
        skip_scales=(1.0, 1.0),
    )
    config.data.name = "voc_segmentation"
    config.data.eval_split = "val"
    config.data.fit = "crop"
    config.data.image_size = (500, 500)
    config.data.canvases = ((500, 500),)
    config.data.mean = (123.675, 116.28, 103.53)  # of the weights that torchvision's names come with
    config.data.std = (58.395, 57.12, 57.375)
    config.train.update(batch_size=1, log_every=100, eval_every=4000, checkpoint_every=2000)
    config.eval.batch_size = 4
    config.optim.update(name="sgd", schedule="constant", momentum=0.99, weight_decay=5e-4, rates=((".*/bias", 2.0),))


def use_boxes(config: ConfigDict, size: tuple[int, int]) -> None:
    """What detectors share that train from scratch on a CPU: boxes, images of `size` whole, and COCO's scores."""
    config.eval.metrics = ("coco", "confusion")
    config.data.image_size = size
    config.data.canvases = (size,)
    config.train.update(batch_size=16, log_every=20, best="val/AP50")
    config.eval.batch_size = 16
    config.optim.update(name="adamw", lr=2e-3, warmup_steps=50, weight_decay=0.05, clip=10.0, ema=0.98)


def use_voc_boxes(config: ConfigDict, size: tuple[int, int]) -> None:
    """VOC 2007 and 2012, train and validation, scored on VOC 2007 test as of that year; images stretched to `size`."""
    config.eval.metrics = ("voc07", "confusion")
    config.data.name = "voc/2007"
    config.data.max_boxes = 60
    years, parts = ("voc/2007", "voc/2012"), ("train", "validation")
    config.data.train_split = "+".join(f"{year}:{part}" for year in years for part in parts)
    config.data.eval_split = "test"
    config.data.image_size = size
    config.data.canvases = (size,)
    config.train.best = "val/mAP_voc07"


def use_bccd(config: ConfigDict) -> None:
    """BCCD's red and white blood cells and platelets: `data.folder.root` is its VOC folder, images of 480x640."""
    use_boxes(config, (256, 320))
    config.data.name = "voc_folder"
    config.data.eval_split = "val"
    config.data.max_boxes = 40
    augment = config.data.augment
    augment.scale = (0.75, 1.5)
    augment.aspect = 1.2
    augment.brightness, augment.contrast, augment.saturation, augment.hue = 0.2, 0.2, 0.2, 0.02
    config.train.update(batch_size=8, steps=2000, log_every=20, eval_every=200, checkpoint_every=200)
    config.optim.update(ema=0.99, warmup_steps=100)


def use_coco8(config: ConfigDict) -> None:
    """Eight images of COCO 2017 to be learned by heart: what a detector that works does, and a broken one does not."""
    use_boxes(config, (192, 192))
    config.data.name = "coco/2017"
    config.data.train_split = config.data.eval_split = "train[8:16]"
    config.data.augment.flip = 0.0
    config.train.update(batch_size=8, steps=300, log_every=20, eval_every=100, checkpoint_every=100)
    config.optim.update(weight_decay=0.0)


def use_light_yolov1(config: ConfigDict) -> None:
    """Fast YOLO of seven convolutions, narrow and normalised, at stride 16 and with a convolution for a head."""
    config.task.name = "yolov1"
    config.model.update(
        name="yolov1",
        layers=9,
        width=0.5,
        depth=0.34,
        stride=16,
        grid=0,
        boxes=2,
        head="convolution",
        connected=256,
        dropout=0.0,
        norm="batch",
        momentum=0.9,
    )


def use_light_ssd(config: ConfigDict) -> None:
    """Default boxes on three maps of a narrow, normalised VGG-11; of a quarter to two thirds of an image's sides."""
    config.task.name = "ssd"
    config.model.update(
        name="ssd",
        backbone=dict(name="vgg", layers=11, width=0.25, norm="batch", momentum=0.9),
        fc=128,
        extras=((64, 128, 2),),
        sizes=(0.25, 0.45, 0.6, 0.7),
        ratios=((2.0,), (2.0,), (2.0,)),
        l2_norm=0.0,
        norm="batch",
        momentum=0.9,
    )


def vary(config: ConfigDict, variant: str, model: dict, others: tuple[str, ...] = ()) -> ConfigDict:
    """The experiment itself, or its `debug` variant: made data, small images, few steps, no W&B, `model`'s fields shrunk.

    `others` are variants that the experiment's file has made already. Raises ValueError for any other name behind the
    colon.
    """
    if variant not in ("", "debug", *others):
        known = " or ".join(f"FILE.py:{name}" for name in ("debug", *others))
        raise ValueError(f"--config: there is no variant {variant!r}; write FILE.py or {known}")
    if variant == "debug":
        config.model.update(model)
        config.task.class_weights = ()
        of_labels = config.task.name in ("segmentation", "adversarial_segmentation")
        config.eval.metrics = ("confusion", "boundary") if of_labels else ("coco", "confusion")
        config.data.name = "shapes"
        config.data.train_split, config.data.eval_split = "train", "validation"
        config.data.weight_map = (0.0, 5.0)
        config.data.fit = "stretch"
        margin = config.data.margin
        config.data.image_size = (64 + 2 * margin, 64 + 2 * margin)
        config.data.canvases = (config.data.image_size,)
        config.train.update(batch_size=4, steps=6, log_every=1, eval_every=3, checkpoint_every=3)
        config.train.best = "val/mIoU" if of_labels else "val/AP50"
        config.eval.update(batch_size=8, pictures=2)
        config.optim.warmup_steps = min(config.optim.warmup_steps, 2)
        config.wandb.mode = "disabled"
    return config
