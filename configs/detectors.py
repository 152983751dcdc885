"""Detectors with their task, one function per family, which sets `config.model` and `config.task` whole.

A variant changes the fields of another function."""

from ml_collections import ConfigDict


def use_ssd300(config: ConfigDict) -> None:
    """Set SSD300 on VGG-16 (Liu et al. 2016)."""
    config.model = dict(
        name="ssd",
        backbone=dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9),
        fc=1024,
        extras=((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1)),
        sizes=(0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),  # as in the released network: 30, 60, 111 ... 315 pixels
        ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
        l2_norm=20.0,
        norm="none",
        momentum=0.9,
        dtype="float32",
    )
    matching = dict(match_iou=0.5, negatives_per_positive=3.0, localisation_weight=1.0)
    suppression = dict(score_threshold=0.01, nms_iou=0.45, nms_candidates=400, max_detections=200)
    config.task = dict(name="ssd", use_difficult=True, **matching, **suppression)


def use_torchvision_ssd300(config: ConfigDict) -> None:
    """Set SSD300 with the default boxes of torchvision's ssd300_vgg16."""
    use_ssd300(config)
    config.model.update(sizes=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), within=True)
    config.model.steps = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)


def use_light_ssd(config: ConfigDict) -> None:
    """Set an SSD of three maps on a narrow, normalised VGG-11, with boxes of a quarter to two thirds of an image's sides."""
    use_ssd300(config)
    config.model.update(
        backbone=dict(layers=11, width=0.25, norm="batch"),
        fc=128,
        extras=((64, 128, 2),),
        sizes=(0.25, 0.45, 0.6, 0.7),
        ratios=((2.0,), (2.0,), (2.0,)),
        l2_norm=0.0,
        norm="batch",
    )


def use_light_resnet_ssd(config: ConfigDict) -> None:
    """Set the light SSD on the strides 8, 16 and 32 of the narrow ResNet-10."""
    use_light_ssd(config)
    config.model.update(backbone=_light_resnet(output_stride=32), fc=0, extras=())


def use_yolov1(config: ConfigDict) -> None:
    """Set YOLO of 24 convolutions on images of 448x448 (Redmon et al. 2016)."""
    config.model = dict(
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
        dtype="float32",
    )
    # Threshold and IoU of the authors' evaluation; the paper gives none.
    suppression = dict(score_threshold=0.001, nms_iou=0.5, nms_candidates=400, max_detections=200)
    config.task = dict(name="yolov1", use_difficult=True, lambda_coord=5.0, lambda_noobj=0.5, **suppression)
    config.eval.merge_iou = 0.5


def use_light_yolov1(config: ConfigDict) -> None:
    """Set a narrow, normalised Fast YOLO of seven convolutions at stride 16, with a convolutional head."""
    use_yolov1(config)
    config.model.update(layers=9, width=0.5, depth=0.34, stride=16, grid=0, head="convolution", connected=256)
    config.model.update(dropout=0.0, norm="batch")
    config.task.update(score_threshold=0.01, nms_iou=0.45)
    config.eval.merge_iou = 0.45


def use_retinanet(config: ConfigDict) -> None:
    """Set RetinaNet on ResNet-50 and an FPN, with torchvision's anchors and matching (Lin et al. 2017, Focal Loss)."""
    config.model = dict(
        name="retinanet",
        backbone=_resnet50_fpn(),
        tower=4,
        norm="none",
        momentum=0.9,
        scale=4.0,
        octaves=3,
        ratios=(2.0, 1.0, 0.5),  # in the order of torchvision's weights
        placement="corners",
        dtype="float32",
    )
    matching = dict(positive_iou=0.5, negative_iou=0.4, low_quality=True)
    losses = dict(alpha=0.25, gamma=2.0, box_loss="smooth_l1", beta=0.0, box_weight=1.0)
    suppression = dict(score_threshold=0.05, nms_iou=0.5, nms_candidates=1000, max_detections=300)
    config.task = dict(name="retinanet", use_difficult=True, **matching, **losses, **suppression)
    config.eval.update(merge_iou=0.5, max_detections=300)


def use_light_retinanet(config: ConfigDict) -> None:
    """Set a RetinaNet with strides 8 to 64 on a narrow ResNet-10, and normalised towers of two convolutions."""
    use_retinanet(config)
    config.model.update(_light_pyramid(), placement="centres")
    config.task.update(score_threshold=0.01, nms_candidates=200, max_detections=200)
    config.eval.max_detections = 200


def use_fcos(config: ConfigDict) -> None:
    """Set FCOS on ResNet-50 and an FPN, with torchvision's locations (Tian et al. 2019, with the authors' improvements)."""
    head = dict(tower=4, norm="group", momentum=0.9, placement="corners")
    config.model = dict(name="fcos", backbone=_resnet50_fpn(), **head, dtype="float32")
    locations = dict(radius=1.5, reach=8.0)
    losses = dict(alpha=0.25, gamma=2.0, box_weights="centerness")
    suppression = dict(score_threshold=0.2, nms_iou=0.6, nms_candidates=1000, max_detections=100)
    config.task = dict(name="fcos", use_difficult=True, **locations, **losses, **suppression)
    config.eval.update(merge_iou=0.6, max_detections=100)


def use_light_fcos(config: ConfigDict) -> None:
    """Set an FCOS with strides 8 to 64 on a narrow ResNet-10, and towers of two convolutions."""
    use_fcos(config)
    config.model.update(_light_pyramid(), placement="centres")
    config.task.update(score_threshold=0.01, nms_candidates=200)


def use_faster_rcnn(config: ConfigDict) -> None:
    """Set Faster R-CNN on ResNet-50 and an FPN, as in torchvision (Lin et al. 2017, Feature Pyramid Networks)."""
    backbone = _resnet50_fpn()
    backbone.update(finest=4, coarsest=64, coarser="pool")
    anchors = dict(scale=8.0, octaves=1, span=1.0, ratios=(2.0, 1.0, 0.5), placement="corners")
    head = dict(pooling="align", fc=1024, dropout=0.0)
    config.model = dict(name="faster_rcnn", backbone=backbone, strides=(), **anchors, **head, dtype="float32")
    first = dict(positive_iou=0.7, negative_iou=0.3, border_anchors=True, anchors=256, anchor_share=0.5)
    between = dict(proposal_candidates=(2000, 1000), proposals=(2000, 1000), proposal_iou=0.7)
    second = dict(
        region_iou=0.5, background_iou=0.0, regions=512, region_share=0.25, beta=(1 / 9, 1 / 9), box_weight=1.0
    )
    suppression = dict(score_threshold=0.05, nms_iou=0.5, nms_candidates=1000, max_detections=100)
    config.task = dict(name="faster_rcnn", use_difficult=True, **first, **between, **second, **suppression)
    config.eval.update(merge_iou=0.5, max_detections=100)


def use_vgg_faster_rcnn(config: ConfigDict) -> None:
    """Set Faster R-CNN on VGG-16's conv5_3 with RoI max pooling, as published (Ren et al. 2015)."""
    use_faster_rcnn(config)
    backbone = dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9)
    anchors = dict(scale=8.0, octaves=3, span=3.0, ratios=(0.5, 1.0, 2.0), placement="centres")  # 128, 256, 512 pixels
    head = dict(pooling="max", fc=4096, dropout=0.5)
    config.model = dict(name="faster_rcnn", backbone=backbone, strides=(16,), **anchors, **head, dtype="float32")
    config.task.update(border_anchors=False, proposal_candidates=(12000, 6000), proposals=(2000, 300))
    # The head has Fast R-CNN's values. From the authors' code: no difficult objects, and a score threshold of 0.05.
    config.task.update(background_iou=0.1, regions=128, beta=(1 / 9, 1.0), use_difficult=False)
    config.task.update(nms_iou=0.3, nms_candidates=300)
    config.eval.merge_iou = 0.3


def use_light_faster_rcnn(config: ConfigDict) -> None:
    """Set a Faster R-CNN with strides 4 to 32 on a narrow ResNet-10, and a head of 256 channels."""
    use_faster_rcnn(config)
    bottom_up = dict(layers=10, width=0.5, norm="batch")
    config.model.update(backbone=dict(bottom_up=bottom_up, width=64, coarsest=32, norm="batch"), placement="centres")
    config.model.update(scale=4.0, fc=256)
    config.task.update(anchors=64, proposal_candidates=(200, 200), proposals=(100, 100), regions=64)
    config.task.update(score_threshold=0.01, max_detections=200)
    config.eval.max_detections = 200


def use_fast_rcnn(config: ConfigDict) -> None:
    """Set Fast R-CNN on VGG-16's conv5_3 with RoI max pooling, as published (Girshick 2015).

    A step has 2 images of 64 regions."""
    backbone = dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9)
    head = dict(fc=4096, dropout=0.5, head="softmax", dtype="float32")
    config.model = dict(name="fast_rcnn", backbone=backbone, strides=(16,), pooling="max", **head)
    sampling = dict(region_iou=0.5, background_iou=0.1, regions=64, region_share=0.25, beta=1.0, box_weight=1.0)
    suppression = dict(score_threshold=0.05, nms_iou=0.3, nms_candidates=300, max_detections=100)
    config.task = dict(name="fast_rcnn", use_difficult=False, **sampling, **suppression)
    config.eval.update(merge_iou=0.3, max_detections=100)


def use_sppnet(config: ConfigDict) -> None:
    """Set SPP-net on VGG-16's conv5_3 with Fast R-CNN's head and loss (He et al. 2014)."""
    use_fast_rcnn(config)
    model = config.model.to_dict()
    shared = {name: model[name] for name in ("backbone", "fc", "dropout", "head", "dtype")}
    config.model = dict(name="sppnet", stride=16, **shared)


def use_rcnn(config: ConfigDict) -> None:
    """Set R-CNN on the whole VGG-16 with a softmax (Girshick et al. 2014).

    A step has 128 regions of 224 pixels."""
    use_sppnet(config)
    warped = dict(stride=32, size=224, context=16, chunk=16)
    config.model.update(name="rcnn", **warped)
    config.task.update(background_iou=0.0, use_difficult=True)  # as in the authors' code


def use_fine_tuning(config: ConfigDict) -> None:
    """Train only the classes of the R-CNN or SPP-net in `config`, as in their first stage, and keep boxes as proposed."""
    config.task.box_weight = 0.0


def use_svms(config: ConfigDict) -> None:
    """Replace the softmax in `config` by one linear SVM per class (Girshick et al. 2014, section 2.3).

    All values except `negative_iou` are those of the authors' code.
    """
    _use_stage(config)
    examples = dict(negative_iou=0.3, hard_negatives=2000, passes=1)
    loss = dict(cost=1e-3, positive_weight=2.0, bias_scale=10.0, feature_norm=20.0)
    config.task = dict(name="svm", **config.task.to_dict(), **examples, **loss)


def use_box_regression(config: ConfigDict) -> None:
    """Add one linear regression of boxes per class to the SVMs (Girshick et al. 2014, appendix C).

    In the authors' code the ground-truth boxes are examples too, and `feature_norm` is the mean over all regions.
    """
    _use_stage(config)
    config.task = dict(
        name="box_regression", **config.task.to_dict(), regression_iou=0.6, ridge=1000.0, feature_norm=20.0
    )


def _use_stage(config: ConfigDict) -> None:
    """Set what both stages share, the head and the earlier suppression, and draw detections that an SVM accepts."""
    config.model.head = "svm"
    kept = ("use_difficult", "score_threshold", "nms_iou", "nms_candidates", "max_detections")
    config.task = {field: config.task[field] for field in kept}
    config.eval.picture_score = 0.5


def use_light_trunk(config: ConfigDict) -> None:
    """Put the narrow ResNet-10 of stride 8 below the region head in `config`, and narrow that head."""
    config.model.update(fc=256, dropout=0.0)
    config.model.backbone = _light_resnet(output_stride=8)
    config.model.update({"strides": (8,)} if "strides" in config.model else {"stride": 8})
    config.task.update(regions=32, score_threshold=0.01, nms_iou=0.45, max_detections=200)
    config.eval.update(merge_iou=0.45, max_detections=200)


def use_mask_rcnn(config: ConfigDict) -> None:
    """Set Mask R-CNN on ResNet-50 and an FPN, as in torchvision (He et al. 2017, Mask R-CNN)."""
    use_faster_rcnn(config)
    config.model.update(name="mask_rcnn", mask_depth=4, mask_width=256)
    config.task.name = "mask_rcnn"


def use_light_mask_rcnn(config: ConfigDict) -> None:
    """Set the light Faster R-CNN with a mask head of two convolutions."""
    use_light_faster_rcnn(config)
    config.model.update(name="mask_rcnn", mask_depth=2, mask_width=64)
    config.task.name = "mask_rcnn"


def use_efficientnet_lite(config: ConfigDict) -> None:
    """Put an EfficientNet-Lite0 below the pyramid of the detector in `config`."""
    shape = dict(variant=0, width=1.0, depth=1.0)
    config.model.backbone.bottom_up = dict(name="efficientnet_lite", **shape, norm="batch", momentum=0.9)


def _resnet50_fpn() -> dict:
    """Return the backbone of torchvision's RetinaNet and FCOS."""
    bottom_up = dict(name="resnet", layers=50, width=1.0, norm="frozen", momentum=0.9, output_stride=32)
    levels = dict(finest=8, coarsest=128, coarser="p5")
    return dict(name="fpn", bottom_up=bottom_up, width=256, **levels, norm="none", momentum=0.9)


def _light_resnet(*, output_stride: int) -> dict:
    """Return the trunk of the light detectors without a pyramid."""
    return dict(name="resnet", layers=10, width=0.5, norm="group", momentum=0.9, output_stride=output_stride)


def _light_pyramid() -> dict:
    """Return model fields that make pyramid and towers small enough for two CPU cores."""
    bottom_up = dict(layers=10, width=0.5, norm="batch")
    return dict(backbone=dict(bottom_up=bottom_up, width=64, coarsest=64, norm="batch"), tower=2, norm="group")
