"""Datasets, one function each, which set the source of examples, image size, augmentation and scores.

Some also set fields of `config.task`, such as class weights: call the function of the model first.
"""

from ml_collections import ConfigDict


def use_camvid(config: ConfigDict) -> None:
    """Use CamVid's 11 classes in crops of 360x480. `data.folder.root` holds train, val and classes.txt."""
    config.data.update(name="image_mask", eval_split="val", fit="crop", image_size=(360, 480))
    config.data.folder.ignore_value = 11
    config.data.augment.update(scale=(0.6, 1.6), aspect=1.1, rotation=5.0)
    config.data.augment.update(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02)
    config.eval.batch_size = 4
    # The square root of median frequency (Eigen and Fergus 2015) over the train split, from `--mode=datacheck`.
    frequency = (0.2794, 0.2018, 4.789, 0.1491, 1.0, 0.4235, 3.846, 1.98, 0.789, 6.385, 8.819)
    config.task.class_weights = tuple(round(weight**0.5, 3) for weight in frequency)
    config.task.losses.dice.factor = 0.5


def use_isbi(config: ConfigDict) -> None:
    """Use ISBI 2012's membranes and cells for an unpadded U-Net, with border weights, elastic deformations and overlap-tile."""
    config.data.update(name="image_mask", eval_split="val", fit="crop", border="mirror", image_size=(572, 572))
    config.data.update(margin=92, weight_map=(10.0, 5.0))
    config.data.folder.instances = "components"
    config.data.augment.update(scale=(0.8, 1.3), rotation=180.0, elastic=(10.0, 25.0), brightness=0.3, contrast=0.4)
    config.eval.update(metrics=("confusion", "partition"), batch_size=1, method="window", overlap=0.0, flip=True)
    config.train.best = "val/Rand_max"  # the challenge ranks by the best threshold
    config.task.class_weights = (2.184, 0.6484)  # median frequency, by `--mode=datacheck`


def use_voc_segmentation(config: ConfigDict) -> None:
    """Use VOC's 20 classes and background at 500x500 and the images' own scale. `data.folder.root` is a VOCdevkit."""
    config.data.update(name="voc_segmentation", eval_split="val", fit="crop", image_size=(500, 500))
    config.eval.batch_size = 4


def use_image_masks(config: ConfigDict) -> None:
    """Use your own images with a PNG mask each, in `data.folder.root`."""
    config.data.update(name="image_mask", eval_split="val", image_size=(256, 256))
    config.data.augment.update(scale=(0.8, 1.6), rotation=10.0)
    config.data.augment.update(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02)


def use_own(config: ConfigDict) -> None:
    """Use your own folder, `data.folder.root`, and find its format and image size."""
    config.data.update(name="folder", eval_split="val", image_size=(0, 0), fit="letterbox")
    config.data.augment.update(scale=(0.75, 1.5), aspect=1.2)
    config.data.augment.update(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02)


def use_own_boxes(config: ConfigDict) -> None:
    """Use your own images with boxes."""
    use_own(config)
    use_boxes(config, (0, 0))


def use_pets(config: ConfigDict) -> None:
    """Use Oxford-IIIT Pet's three classes at 128x128, scored at that size as TensorFlow's tutorial does."""
    config.data.update(name="oxford_iiit_pet", eval_split="test")
    config.eval.method = "canvas"
    config.data.augment.update(scale=(0.8, 1.6), aspect=1.2, rotation=20.0)
    config.data.augment.update(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02)


def use_shapes(config: ConfigDict) -> None:
    """Use the synthetic dataset of geometric figures at 64x64, with a class for each pixel."""
    config.data.update(name="shapes", image_size=(64, 64))


def use_boxes(config: ConfigDict, size: tuple[int, int]) -> None:
    """Use whole images, fitted to `size`, and COCO's scores, as all datasets of boxes do."""
    config.eval.metrics = ("coco", "confusion")
    config.data.image_size = size
    config.train.best = "val/AP50"


def score_masks(config: ConfigDict) -> None:
    """Score the masks of objects too, and choose the best checkpoint by their COCO score."""
    config.eval.metrics = ("coco", "coco_masks", "confusion")
    config.train.best = config.train.best.replace("val/", "val/mask_")


def use_shapes_boxes(config: ConfigDict, size: tuple[int, int]) -> None:
    """Use the synthetic dataset of geometric figures with boxes."""
    use_boxes(config, size)
    config.data.max_boxes = 8
    config.data.augment.scale = (0.8, 1.25)


def use_shapes_proposals(config: ConfigDict) -> None:
    """Use the synthetic dataset of geometric figures with boxes and the best 200 proposals per image."""
    use_shapes_boxes(config, (96, 96))
    config.data.max_proposals = 200
    config.data.proposals.min_side = 6


def enlarge_shapes(config: ConfigDict) -> None:
    """Enlarge the shapes by a third, as SPP-net's and Fast R-CNN's papers enlarge VOC from 375 pixels to 600."""
    config.data.image_size = (128, 128)


def use_voc_boxes(config: ConfigDict, size: tuple[int, int]) -> None:
    """Use VOC 2007 and 2012 train and validation, stretched to `size`, and score VOC 2007 test by that year's metric."""
    use_boxes(config, size)
    config.eval.metrics = ("voc07", "confusion")
    years, parts = ("voc/2007", "voc/2012"), ("train", "validation")
    train_split = "+".join(f"{year}:{part}" for year in years for part in parts)
    config.data.update(name="voc/2007", max_boxes=60, train_split=train_split, eval_split="test")
    config.train.best = "val/mAP_voc07"


def use_voc_boxes_at_600(config: ConfigDict) -> None:
    """Use the data of `use_voc_boxes` with 600 pixels at the shorter side and at most 1000 at the longer one."""
    use_voc_boxes(config, (1000, 1000))
    wide = ((600, 600), (600, 800), (600, 1000))
    canvases = (*wide, *((width, height) for height, width in wide[1:]))
    config.data.update(fit="shortest", shortest=(600, 1000), canvases=canvases)


def use_voc_proposals_at_600(config: ConfigDict) -> None:
    """Use the data of `use_voc_boxes_at_600` with the proposals of R-CNN's code and ImageNet's statistics."""
    use_voc_boxes_at_600(config)
    use_statistics_of_imagenet(config)
    config.data.augment.crop = False
    config.data.proposals.min_side = 20


def use_voc_proposals(config: ConfigDict) -> None:
    """Use VOC 2007 alone at its own scale, up to 500 pixels, with the proposals of R-CNN's code."""
    use_voc_proposals_at_600(config)
    config.data.update(image_size=(500, 500), fit="crop", canvases=(), train_split="train+validation")


def use_bccd(config: ConfigDict) -> None:
    """Use BCCD's red and white blood cells and platelets. `data.folder.root` is its VOC folder with images of 480x640."""
    use_boxes(config, (256, 320))
    config.data.update(name="voc_folder", eval_split="val", max_boxes=40)
    config.data.augment.update(scale=(0.75, 1.5), aspect=1.2)
    config.data.augment.update(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)


def use_bccd_enlarged(config: ConfigDict) -> None:
    """Use BCCD at nearly its own size, as platelets are small, with vertical flips."""
    use_bccd(config)
    config.data.image_size = (448, 576)
    config.data.augment.update(scale=(0.8, 1.25), vertical_flip=0.5)


def use_nuclei(config: ConfigDict) -> None:
    """Use the nuclei of the Data Science Bowl 2018. `data.folder.root` has SPLIT/images, and ids in SPLIT/instances.

    Most nuclei are 10 to 25 pixels wide, so images are enlarged about twice. An image has up to 375 nuclei, so a detector needs
    more detections than usual.
    """
    use_boxes(config, (384, 384))
    canvases = ((256, 256), (256, 320), (384, 384), (384, 512), (512, 512), (544, 704))
    config.data.update(name="image_mask", eval_split="val", fit="crop", canvases=canvases, max_boxes=400)
    config.data.folder.instances = "folder"
    config.data.augment.update(scale=(1.5, 2.7), aspect=1.2, vertical_flip=0.5)
    config.data.augment.update(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    config.eval.update(scales=(2.0,), overlap=0.25, batch_size=4, max_detections=400, scored_detections=400)
    config.task.max_detections = 400
    config.train.best = "val/AP"


def use_coco(config: ConfigDict) -> None:
    """Use COCO 2017's 80 classes, evaluated at 800 pixels at the shorter side like torchvision's detectors.

    The canvases are the padded sizes of COCO's usual shapes in torchvision, as its anchors depend on them.
    """
    use_boxes(config, (1024, 1024))
    wide = ((800, 800), (800, 1088), (800, 1216), (800, 1344))
    canvases = (*wide, *((width, height) for height, width in wide[1:]))
    config.data.update(name="coco/2017", fit="shortest", canvases=canvases, antialias=False)
    config.train.best = "val/AP"


def use_coco_masks(config: ConfigDict) -> None:
    """Use the data of `use_coco` with masks, from COCO's own files in `data.folder.root`."""
    use_coco(config)
    config.data.update(name="coco_folder", train_split="train2017", eval_split="val2017")
    score_masks(config)


def use_coco_stretched(config: ConfigDict, size: tuple[int, int]) -> None:
    """Use COCO 2017's 80 classes, stretched to `size`, and sampled in evaluation like torchvision's SSD."""
    use_boxes(config, size)
    config.data.update(name="coco/2017", antialias=False)
    config.train.best = "val/AP"


def use_coco8(config: ConfigDict) -> None:
    """Use eight images of COCO 2017, which a correct detector overfits and a broken one does not."""
    use_boxes(config, (192, 192))
    config.data.update(name="coco/2017", train_split="train[8:16]", eval_split="train[8:16]")
    config.data.augment.flip = 0.0


def use_statistics_of_imagenet(config: ConfigDict) -> None:
    """Normalise images as in the training of torchvision's ImageNet weights."""
    config.data.update(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def use_statistics_of_efficientnet_lite(config: ConfigDict) -> None:
    """Normalise images as in the training of EfficientNet-Lite's weights."""
    config.data.update(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


def use_statistics_of_vgg_ssd(config: ConfigDict) -> None:
    """Normalise images as in the training of torchvision's SSD300, with ImageNet's mean and values up to 255."""
    mean = tuple(255 * share for share in (0.48235, 0.45882, 0.40784))
    config.data.update(mean=mean, std=(1.0, 1.0, 1.0))
