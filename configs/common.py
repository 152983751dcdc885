"""The fields that every experiment has.

Each class is a section; each line is a field with its rule, default and meaning. Sizes are (height, width) in pixels. Rates are
per optimiser step, and `every` fields count optimiser steps. The fields of the model and of the task are in the signatures of
their classes; a function of segmenters.py or detectors.py sets both.
"""

from typing import Annotated, Literal

from ml_collections import ConfigDict

from fields import Count, Natural, NotNegative, Positive, Range, Share, Size, defaults

Seed32 = Annotated[int, Range(0, 2**32 - 1)]  # generators take 32 bits
Axis = Literal[-1] | Count
Rows = Annotated[int, Range(1, 100_000)]  # per image in a batch
Cells = Annotated[int, Range(1, 2048)]
BelowOne = Annotated[float, Range(0, 1, open="high")]
Factor = Annotated[float, Range(1)]
RGB = tuple[float, float, float]
Setting = float | str | tuple[float, ...]


class Seed:
    init: Seed32 = 0  # parameters, dropout and sampling
    data: Seed32 = 0  # order and augmentation


class Folder:  # for image_mask, voc_segmentation, coco_folder, voc_folder, yolo_folder
    root: str = ""  # path of the dataset; layouts: docs/data.md
    # voc_folder: 1 if pixels count from 1 and the last pixel belongs to the box, as in VOC's files
    first_pixel: Literal[0, 1] = 0
    classes: str = "classes.txt"  # one name per line, or `name red green blue` for colour masks
    ignore_value: Annotated[int, Range(0, 255)] = 255  # grey value or palette index in masks that means no class
    # Masks of two classes: grey values from here on are the second class; 0: values are classes
    threshold: Annotated[int, Range(0, 65535)] = 0
    # True: resize masks of another size but the same aspect ratio to their image, with nearest neighbours
    resize_masks: bool = False
    # folder: ids in SPLIT/instances, 0 for none; components: connected regions of classes above 0; "": no instances
    instances: Literal["", "folder", "components"] = ""
    drop_unreadable: bool = False  # True: skip and count files that cannot be decoded; False: they are an error


class Augment:  # training only
    flip: Share = 0.5  # probability of a left-right mirror image
    vertical_flip: Share = 0.0  # probability of a top-bottom mirror image, for cells or views from above
    scale: tuple[Positive, Positive] = (1.0, 1.0)  # range of the zoom factor, log-uniform
    aspect: Factor = 1.0  # stretch of height against width, log-uniform in [1/aspect, aspect]
    translate: BelowOne = 0.0  # shift as a share of each side, uniform in [-t, t], added to the shift of the crop
    rotation: Annotated[float, Range(0, 180)] = 0.0  # degrees, uniform in [-rotation, rotation]
    crop: bool = True  # random position of the zoomed image in the output; False: the position of data.fit
    elastic: tuple[NotNegative, Positive] = (0.0, 8.0)  # deviation and smoothing of the displacement, output pixels
    zoom_out: tuple[Share, Factor] = (0.0, 4.0)  # boxes: probability, and the largest canvas, in image sides
    iou_crop: bool = False  # boxes: SSD's crops, each with a minimum IoU with an object
    min_visible: Share = 0.1  # boxes: objects with less of their area left in the picture are dropped
    mosaic: Share = 0.0  # boxes: probability of four examples in one picture
    mixup: Share = 0.0  # boxes: probability of two blended pictures, with the objects of both
    copy_paste: Share = 0.0  # boxes with masks: probability of pasting another picture's objects
    brightness: Share = 0.0  # factor in [1 - b, 1 + b]
    contrast: Share = 0.0  # factor in [1 - c, 1 + c]
    saturation: Share = 0.0  # factor in [1 - s, 1 + s]
    hue: Annotated[float, Range(0, 0.5)] = 0.0  # shift in [-h, h] turns of the colour wheel


class Proposals:  # for R-CNN, SPP-net and Fast R-CNN; selective search stores them once, next to the prepared datasets
    method: Literal["selective_search", "folder"] = "selective_search"
    folder: str = ""  # method=folder: the output of --mode=propose; the fields below are for selective search
    mode: Literal["fast", "quality"] = "fast"  # quality: more segmentations, in several times the time
    longest: Count = 500  # pixels; images with a longer side are shrunk for the search
    min_side: Count = 8  # pixels of the searched image; boxes with a shorter side are dropped (R-CNN's code: 20)
    count: Count = 2000  # proposals stored per image, in the method's order


class Data:
    name: str = "shapes"  # a dataset of docs/data.md; folder: find the format of folder.root
    max_boxes: Rows = 100  # objects per image in a batch; further ones are dropped and counted
    max_proposals: Rows = 2000  # proposals per image in a batch, the best ones
    mask_size: tuple[Cells, Cells] = (56, 56)  # cells over an object's box that hold its mask in a batch
    train_split: str = "train"  # train[:100] is a part, a+b both, voc/2012:train a split of another dataset
    eval_split: str = "validation"
    holdout: BelowOne = 0.0  # share of a dataset's only split that becomes val; the rest is train; 0: none
    holdout_seed: Seed32 = 0  # another seed holds out other examples
    # Of training examples; (0, 0): the median of the training images, limited by `longest`
    image_size: tuple[Natural, Natural] = (128, 128)
    longest: Count = 512  # image_size=(0, 0): pixels of the longer side, at most
    canvases: tuple[Size, ...] = ()  # of evaluation: each image takes the one nearest to its shape; (): (image_size,)
    # crop: at its own scale, cropped or padded; shortest: scaled by its shorter side, at the top left
    fit: Literal["stretch", "letterbox", "crop", "shortest"] = "stretch"
    shortest: Size = (800, 1333)  # fit=shortest: pixels of the shorter side, and at most of the longer side
    antialias: bool = True  # average pixels if a side shrinks to less than half; False: skip pixels
    margin: Natural = 0  # pixels of context only, per side: (572 - 388) / 2 for an unpadded U-Net
    border: Literal["mean", "mirror"] = "mean"  # pixels beyond the image
    weight_map: tuple[NotNegative, Positive] = (0.0, 5.0)  # U-Net's weights between instances: w0, sigma; w0=0: none
    mean: RGB = (127.5, 127.5, 127.5)  # subtracted from RGB 0..255 on the device, before the division by std
    std: tuple[Positive, Positive, Positive] = (127.5, 127.5, 127.5)
    # Images of 9 to 16 bits: the value that becomes 255; 0: the smallest of 255, 1023, 4095, 16383 and 65535 that covers
    # the training split, which the run then stores
    white_level: Annotated[int, Range(0, 65535)] = 0
    max_pixels: Count = 178_956_970  # images and masks with more are refused: they would fill the memory
    num_threads: Count = 2  # threads that read, decode and augment
    prefetch: Count = 8  # training batches prepared in advance
    folder: Folder
    proposals: Proposals
    augment: Augment


class Train:
    batch_size: Count = 16  # examples per optimiser step, over all devices
    steps: Natural = 1000  # 0: score and save the starting weights without training
    log_every: Count = 20
    eval_every: Count = 100
    checkpoint_every: Count = 100
    max_minutes: NotNegative = 0.0  # since the start of the process; then the run saves and exits with 75; 0: no limit
    remat: bool = False  # True: less memory, more time; the backward pass computes most activations again
    keep: Count = 2  # newest checkpoints kept, in addition to the best one
    best: str = "val/mIoU"  # score that chooses the best checkpoint; the smallest for errors and val/loss


class Eval:
    batch_size: Count = 16  # views per evaluation step, over all devices
    # Labels: confusion, boundary, partition; boxes: coco, voc07, voc12, confusion; masks: also coco_masks, coco_boundaries
    metrics: tuple[str, ...] = ("confusion", "boundary")
    pictures: Natural = 8  # predictions drawn next to the ground truth
    method: Literal["whole", "window", "canvas"] = "whole"  # scored at the image's own size; canvas: resized first
    overlap: BelowOne = 0.5  # method=window: share of a window that the next one sees again
    flip: bool = False  # test-time augmentation: also predict the mirror image, and merge
    scales: tuple[Positive, ...] = (1.0,)  # test-time augmentation: predict at these zooms, and merge
    merge_iou: Share = 0.45  # boxes of several views: of two of one class with a higher IoU, the weaker one is dropped
    max_detections: Count = 200  # boxes: detections kept per image; config.task limits each view
    scored_detections: Count = 100  # coco: best detections of a class in an image that count; raise it for more objects
    picture_score: Share = 0.25  # boxes: detections below it are not drawn


class Optim:
    name: Literal["adamw", "sgd"] = "adamw"
    lr: NotNegative = 1e-3  # after warm-up
    schedule: Literal["constant", "cosine", "poly", "step"] = "cosine"
    warmup_steps: Natural = 0  # linear
    warmup_from: Share = 0.0  # warm-up starts at this fraction of lr
    final_lr_fraction: Share = 0.0  # cosine and poly end at this fraction of lr
    power: Positive = 0.9  # poly: exponent
    boundaries: tuple[Share, ...] = (0.6, 0.8)  # step: fractions of the run
    decay: Positive = 0.1  # step: factor at each boundary
    momentum: BelowOne = 0.9  # sgd
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)  # adamw
    weight_decay: NotNegative = 0.0  # for kernels; not for biases and normalisation
    clip: NotNegative = 0.0  # largest global norm of the gradient; 0: no clipping
    accumulate: Count = 1  # micro-batches per step; must divide the batch size
    ema: BelowOne = 0.0  # decay of the parameters' moving average; 0: none
    lr_multipliers: tuple[tuple[str, NotNegative], ...] = ()  # (regular expression of a path, factor): first match
    # Own optimisers for parts of the model: (regular expression of a path, ((field of optim, value), ...))
    partition: tuple[tuple[str, tuple[tuple[str, Setting], ...]], ...] = ()
    freeze: tuple[str, ...] = ()  # regular expressions of parameter paths kept unchanged, with batch statistics


class Wandb:
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online with an account, else offline
    project: str = "dense-prediction"
    entity: str = ""
    name: str = ""  # "": name of the workdir
    group: str = ""
    tags: tuple[str, ...] = ()
    job_type: str = "train"


class Common:
    seed: Seed
    mesh: tuple[Axis, Axis, Axis] = (1, -1, 1)  # devices along ('member', 'data', 'fsdp'); -1: all remaining devices
    members: Count = 1  # runs trained together on the same batches, with seed.init counted up; each has its directory
    vmap: bool = False  # True: one vmapped step for members on one device; equal to separate runs except for rounding
    pretrained: str = ""  # local .safetensors file with weights of the backbone, or of the whole model
    init_from: str = ""  # workdir of another run whose parameters this run starts from
    data: Data
    train: Train
    eval: Eval
    optim: Optim
    wandb: Wandb


def get_config() -> ConfigDict:
    """Return a config without `model` and `task`, which a function of segmenters.py or detectors.py sets whole."""
    return ConfigDict(defaults(Common) | {"model": {}, "task": {}})
