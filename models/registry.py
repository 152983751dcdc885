"""The models and backbones by name. A name maps to "module:Class", imported only when that one is built."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from flax import nnx

import fields
from errors import UserError
from fields import Named
from models.weights import Weights

MODELS = {
    "deeplabv3plus": "models.segmentation.deeplabv3plus:DeepLabV3Plus",
    "fast_rcnn": "models.detection.fast_rcnn:FastRCNN",
    "faster_rcnn": "models.detection.faster_rcnn:FasterRCNN",
    "fcn": "models.segmentation.fcn:FCN",
    "fcos": "models.detection.fcos:FCOS",
    "mask_rcnn": "models.detection.mask_rcnn:MaskRCNN",
    "pix2pix": "models.segmentation.pix2pix:Pix2Pix",
    "rcnn": "models.detection.rcnn:RCNN",
    "retinanet": "models.detection.retinanet:RetinaNet",
    "sppnet": "models.detection.sppnet:SPPNet",
    "ssd": "models.detection.ssd:SSD",
    "unet": "models.segmentation.unet:UNet",
    "unet_backbone": "models.segmentation.unet_backbone:UNetBackbone",
    "unet_mobilenetv2": "models.segmentation.unet_mobilenetv2:UNetMobileNetV2",
    "yolov1": "models.detection.yolov1:YOLOv1",
}
BACKBONES = {
    "efficientnet_lite": "models.backbones.efficientnet_lite:EfficientNetLite",
    "fpn": "models.backbones.fpn:FPN",
    "mobilenet_v2": "models.backbones.mobilenet_v2:MobileNetV2",
    "resnet": "models.backbones.resnet:ResNet",
    "vgg": "models.backbones.vgg:VGG",
}

# The rules of config.model and of the backbone in it; code supplies the other parameters of the classes.
NAMED_MODEL = Named("model", MODELS, frozenset({"num_classes", "rngs"}))
NAMED_BACKBONE = Named("model.backbone", BACKBONES, frozenset({"dtype", "rngs", "padding", "classifier"}))
MODEL = Annotated[dict, NAMED_MODEL]
BACKBONE = Annotated[dict, NAMED_BACKBONE]
Dtype = Literal["float32", "bfloat16", "float16"]  # of the computation; parameters are always float32


class Model(nnx.Module):
    """What `build` returns. `produces` says what its outputs are: a task that reads something else is refused.

    `training_only` names submodules that exist only to train (a GAN's discriminator): `__call__` does without them.
    """

    produces: str
    training_only: tuple[str, ...] = ()
    published: str = ""  # the submodule that published weights are for
    torchvision: frozenset[str] = (
        frozenset()
    )  # keys that tell torchvision's file of the whole network, in its newest names

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pairs our variables with the arrays of a file of weights, told by its `keys`; see `models.weights`.

        Raises UserError for names that are not known, and for a model that no weights are published for.
        """
        if not self.published:
            raise UserError("config.pretrained: no weights are published for this model; leave the field empty")
        return getattr(self, self.published).pretrained(keys).below(self.published)

    def caution(self, keys: Iterable[str]) -> str:
        """Says what a file of weights with these `keys` cannot tell, for a warning; "" for nothing."""
        return ""


def build(name: str, *, rngs: nnx.Rngs, num_classes: int, **own) -> Model:
    """Builds the model `name` with the fields of its config; every parameter is made here, in float32.

    Raises UserError for an unknown name, for fields that the model does not take or that are missing, and for values that
    do not follow their rules.
    """
    fields.check("config.model", {"name": name, **own}, MODEL)
    return NAMED_MODEL.load(name)(**own, rngs=rngs, num_classes=num_classes)


def build_backbone(backbone: Mapping, *, dtype: str, rngs: nnx.Rngs, **decided) -> nnx.Module:
    """Builds the backbone `backbone["name"]` with the other fields of config.model.backbone; errors as in `build`.

    A backbone maps images to {stride: features} and says the `channels` of each stride. `decided` are fields that the
    model sets and the config does not have.
    """
    fields.check("config.model.backbone", backbone, BACKBONE)
    own = dict(backbone)
    return NAMED_BACKBONE.load(own.pop("name"))(**own, dtype=dtype, rngs=rngs, **decided)
