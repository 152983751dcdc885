"""The fields that every experiment has: a section is a class, and a line is a field with its rule, default and meaning.

Sizes are (height, width) in pixels, rates are per optimiser step, and `every` fields count optimiser steps. The fields of
the model and of the task are in the signatures of their classes; a function of segmenters.py or detectors.py sets both.
"""

from typing import Annotated, Literal

from ml_collections import ConfigDict

from fields import Count, Natural, NotNegative, Positive, Range, Share, Size, defaults

Seed32 = Annotated[int, Range(0, 2**32 - 1)]  # more bits would be dropped
Axis = Literal[-1] | Count
Rows = Annotated[int, Range(1, 100_000)]  # of an image in a batch
Cells = Annotated[int, Range(1, 2048)]
BelowOne = Annotated[float, Range(0, 1, open="high")]
Factor = Annotated[float, Range(1)]
RGB = tuple[float, float, float]
Setting = float | str | tuple[float, ...]


class Seed:
    init: Seed32 = 0  # parameters, dropout and sampling
    data: Seed32 = 0  # order and augmentation


class Folder:  # of image_mask, voc_segmentation, coco_folder, voc_folder, yolo_folder
    root: str = ""  # layouts: docs/data.md, and the files of input_pipeline/datasets/layouts
    # voc_folder: 1 if pixels count from 1 and the last pixel belongs to the box, as in VOC's files
    first_pixel: Literal[0, 1] = 0
    classes: str = "classes.txt"  # one name per line, or `name red green blue` for colour masks
    ignore_value: Annotated[int, Range(0, 255)] = 255  # grey or palette index in the mask that means no class
    threshold: Annotated[int, Range(0, 65535)] = (
        0  # grey masks of two classes: values from it on are the second; 0: values
    )
    resize_masks: bool = (
        False  # masks of another size with their image's proportions take its size, by the nearest pixel
    )
    instances: Literal["", "folder", "components"] = ""  # SPLIT/instances has ids (0: none), or regions of class > 0
    drop_unreadable: bool = False  # True: leave files that cannot be decoded out of the index, and count them


class Augment:  # training only
    flip: Share = 0.5  # probability of a mirror image, left for right
    vertical_flip: Share = 0.0  # the same, top for bottom: for cells, or views from above
    scale: tuple[Positive, Positive] = (1.0, 1.0)  # zoom, log-uniform
    aspect: Factor = 1.0  # stretch of height against width, log-uniform in [1/aspect, aspect]
    translate: BelowOne = 0.0  # share of each side, uniform in [-t, t], in addition to what the crop moves
    rotation: Annotated[float, Range(0, 180)] = 0.0  # degrees, uniform in [-rotation, rotation]
    crop: bool = True  # a random position where the zoomed image and the output differ in size; else where `fit` has it
    elastic: tuple[NotNegative, Positive] = (0.0, 8.0)  # displacement's standard deviation and smoothing, output pixels
    zoom_out: tuple[Share, Factor] = (0.0, 4.0)  # boxes: probability, and the largest side of the blank canvas around
    iou_crop: bool = False  # boxes: SSD's crops, each with a least overlap with an object
    min_visible: Share = 0.1  # boxes: an object with less of its area left in the picture is dropped
    mosaic: Share = 0.0  # boxes: probability of four examples in one picture
    mixup: Share = 0.0  # boxes: probability of two pictures blended, with the objects of both
    copy_paste: Share = 0.0  # boxes, of a dataset with masks: probability of another picture's objects pasted in
    brightness: Share = 0.0  # factor in [1 - b, 1 + b]
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Range(0, 0.5)] = 0.0  # shift in [-h, h] turns of the colour wheel


class Proposals:  # of tasks that need them; of selective search they are found once and kept beside the dataset
    method: Literal["selective_search", "folder"] = "selective_search"
    folder: str = ""  # method=folder: what --mode=propose has written; the fields below are of selective search alone
    mode: Literal["fast", "quality"] = "fast"  # quality: more segmentations, in several times the time
    longest: Count = 500  # pixels of the longer side of an image as it is searched, at most
    min_side: Count = 8  # pixels of the searched image: boxes with a shorter side are dropped; R-CNN's code has 20
    count: Count = 2000  # of an image that are kept, in the method's order


class Data:
    name: str = "shapes"  # a dataset that input_pipeline knows; folder: the format that folder.root has
    max_boxes: Rows = 100  # objects that a row of a batch has room for; what is beyond is counted
    max_proposals: Rows = 2000  # that a row of a batch has room for, the best of each image
    # Of an object's mask in a batch, for tasks that need masks: cells over its box
    mask_size: tuple[Cells, Cells] = (56, 56)
    train_split: str = "train"  # train[:100] is a part; a+b both; voc/2012:train another dataset's
    eval_split: str = "validation"
    holdout: BelowOne = 0.0  # of data with one split: the share that is held out as val, the others are train; 0: none
    holdout_seed: Seed32 = 0  # another one holds out other examples
    # Of a training example; (0, 0): the median of the training images, as far as `longest` lets it
    image_size: tuple[Natural, Natural] = (128, 128)
    longest: Count = 512  # pixels of the longer side, where image_size is left to the data
    canvases: tuple[Size, ...] = ()  # of evaluation: each image takes the one nearest to its shape; (): (image_size,)
    # To its size; crop: at its own scale, cut or padded; shortest: at the top left, scaled by its shorter side
    fit: Literal["stretch", "letterbox", "crop", "shortest"] = "stretch"
    shortest: Size = (800, 1333)  # fit=shortest: pixels of the shorter side, and of the longer side at most
    antialias: bool = True  # a side that shrinks to less than half is averaged first; False: pixels are skipped
    margin: Natural = 0  # pixels at each side that are context only: (572 - 388) / 2 for an unpadded U-Net
    border: Literal["mean", "mirror"] = "mean"  # what lies beyond the image
    weight_map: tuple[NotNegative, Positive] = (0.0, 5.0)  # w0, sigma of U-Net's weights between instances; w0=0: none
    mean: RGB = (127.5, 127.5, 127.5)  # subtracted from RGB 0..255, then divided by std, on the device
    std: tuple[Positive, Positive, Positive] = (127.5, 127.5, 127.5)
    # Of images of 9 to 16 bits: the value that becomes 255; 0: the least of 255, 1023, 4095, 16383 and 65535 that covers the
    # training split, which the run then keeps
    white_level: Annotated[int, Range(0, 65535)] = 0
    max_pixels: Count = 178_956_970  # of an image; a larger file is refused, for it fills the memory
    num_threads: Count = 2  # that read, decode and augment
    prefetch: Count = 8  # training batches made ahead
    folder: Folder
    proposals: Proposals
    augment: Augment


class Train:
    batch_size: Count = 16  # examples of one optimiser step, over all devices
    steps: Natural = 1000  # 0: what the run starts with is scored and saved, and nothing is trained
    log_every: Count = 20
    eval_every: Count = 100
    checkpoint_every: Count = 100
    # Since the process began: a run saves and stops in time by itself, to be started again; 0: no limit
    max_minutes: NotNegative = 0.0
    remat: bool = False  # True: less memory, more time: the backward pass computes most activations again
    keep: Count = 2  # newest checkpoints kept, in addition to the best one
    best: str = "val/mIoU"  # the score that names the best checkpoint; the smallest of an error and of val/loss


class Eval:
    batch_size: Count = 16
    # And partition; boxes: coco, voc07, voc12, confusion; masks those of boxes, coco_masks and coco_boundaries
    metrics: tuple[str, ...] = ("confusion", "boundary")
    pictures: Natural = 8  # predictions drawn next to the ground truth
    method: Literal["whole", "window", "canvas"] = "whole"  # scored at the image's own size; canvas: resized first
    overlap: BelowOne = 0.5  # window: the share of a canvas that the next one sees again
    flip: bool = False  # test-time augmentation: the mean of an image and its mirror image
    scales: tuple[Positive, ...] = (1.0,)  # test-time augmentation: the mean over these zooms
    merge_iou: Share = 0.45  # boxes of several views: of two of one class with more overlap the weaker one is dropped
    max_detections: Count = 200  # boxes of several views: that an image keeps; of one view config.task says how many
    scored_detections: Count = 100  # coco: that count, the best of a class in an image; raise it for more objects
    picture_score: Share = 0.25  # boxes: detections below it are not drawn


class Optim:
    name: Literal["adamw", "sgd"] = "adamw"
    lr: NotNegative = 1e-3
    schedule: Literal["constant", "cosine", "poly", "step"] = "cosine"
    warmup_steps: Natural = 0  # linear
    warmup_from: Share = 0.0  # the fraction of lr that it begins with
    final_lr_fraction: Share = 0.0  # cosine and poly end at this fraction of lr
    power: Positive = 0.9  # poly
    boundaries: tuple[Share, ...] = (0.6, 0.8)  # step: fractions of the run
    decay: Positive = 0.1  # step: the factor at each boundary
    momentum: BelowOne = 0.9  # sgd
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)  # adamw
    weight_decay: NotNegative = 0.0  # of kernels; biases and normalisation are left alone
    clip: NotNegative = 0.0  # global norm; 0: none
    accumulate: Count = 1  # micro-batches that make one step's batch
    ema: BelowOne = 0.0  # decay of the parameters' moving average; 0: none
    lr_multipliers: tuple[tuple[str, NotNegative], ...] = ()  # (regular expression of a path, factor): the first match
    partition: tuple[tuple[str, tuple[tuple[str, Setting], ...]], ...] = ()  # (regular expression, own (field, value))
    freeze: tuple[str, ...] = ()  # regular expressions of parameter paths kept as they are, batch statistics included


class Wandb:
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online with an account, else offline
    project: str = "dense-prediction"
    entity: str = ""
    name: str = ""  # "": that of the workdir
    group: str = ""
    tags: tuple[str, ...] = ()
    job_type: str = "train"


class Common:
    seed: Seed
    mesh: tuple[Axis, Axis, Axis] = (1, -1, 1)  # devices along ('member', 'data', 'fsdp'); -1 takes all that are left
    members: Count = 1  # runs trained together over the same data, from seed.init on; each has its own directory
    vmap: bool = False  # members that share a device: their steps as one, equal to runs alone but for rounding
    pretrained: str = ""  # a local .safetensors file with weights of the backbone, or of the whole model
    init_from: str = ""  # the workdir of another run whose parameters this one starts from
    data: Data
    train: Train
    eval: Eval
    optim: Optim
    wandb: Wandb


def get_config() -> ConfigDict:
    """Returns a complete config but for `model` and `task`, which a function of the experiment's family sets whole."""
    return ConfigDict(defaults(Common) | {"model": {}, "task": {}})
