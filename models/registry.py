"""The models and backbones by name. A name maps to `module:Class`, which is imported only when it is built."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Protocol

import jax
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
    """Base class of the models.

    `produces` names the outputs; a task that needs other outputs refuses the model. `training_only` names submodules that
    exist only for training, such as a GAN's discriminator; `__call__` does not use them.
    """

    produces: str
    training_only: tuple[str, ...] = ()
    published: str = ""  # the submodule that published weights exist for
    # Keys that identify torchvision's file of the whole network, in its newest names.
    torchvision: frozenset[str] = frozenset()

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair our variables with the arrays of the weights file that has these `keys`.

        See `models.weights`. Raises UserError for unknown names, and for a model without published weights.
        """
        if not self.published:
            raise UserError("config.pretrained: no weights are published for this model; leave the field empty")
        return getattr(self, self.published).pretrained(keys).below(self.published)

    def caution(self, keys: Iterable[str]) -> str:
        """Return a warning about what a weights file with these `keys` does not contain, or ""."""
        return ""


def build(name: str, *, rngs: nnx.Rngs, num_classes: int, **own) -> Model:
    """Build the model `name` with the fields of its config, and all its parameters in float32.

    Raises UserError for an unknown name, for unknown or missing fields, and for values against their rules.
    """
    fields.check("config.model", {"name": name, **own}, MODEL)
    return NAMED_MODEL.load(name)(**own, rngs=rngs, num_classes=num_classes)


class Backbone(Protocol):
    """A network from images to features by stride."""

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the features by stride."""
        ...

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> dict[int, jax.Array]:
        """Return the features `{stride: [B,h,w,channels[stride]]}` of images [B,H,W,3]."""
        ...

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair our variables with the arrays of a weights file.

        See Model.pretrained.
        """
        ...


def build_backbone(backbone: Mapping, *, dtype: str, rngs: nnx.Rngs, **decided) -> Backbone:
    """Build the backbone `backbone["name"]` with the other fields of config.model.backbone.

    `decided` are fields that the model sets and the config does not have. Raises UserError as `build`.
    """
    fields.check("config.model.backbone", backbone, BACKBONE)
    own = dict(backbone)
    return NAMED_BACKBONE.load(own.pop("name"))(**own, dtype=dtype, rngs=rngs, **decided)
