"""The models and backbones by name. A name maps to "module:Class", imported only when that one is built."""

import difflib
import importlib
import inspect
from collections.abc import Mapping

from flax import nnx

from errors import UserError

MODELS = {
    "deeplabv3plus": "models.segmentation.deeplabv3plus:DeepLabV3Plus",
    "fcn": "models.segmentation.fcn:FCN",
    "pix2pix": "models.segmentation.pix2pix:Pix2Pix",
    "ssd": "models.detection.ssd:SSD",
    "unet": "models.segmentation.unet:UNet",
    "unet_backbone": "models.segmentation.unet_backbone:UNetBackbone",
    "unet_mobilenetv2": "models.segmentation.unet_mobilenetv2:UNetMobileNetV2",
    "yolov1": "models.detection.yolov1:YOLOv1",
}
BACKBONES = {
    "mobilenet_v2": "models.backbones.mobilenet_v2:MobileNetV2",
    "resnet": "models.backbones.resnet:ResNet",
    "vgg": "models.backbones.vgg:VGG",
}
DTYPES = ("float32", "bfloat16", "float16")


class Model(nnx.Module):
    """What `build` returns. `produces` says what its outputs are: a task that reads something else is refused.

    `training_only` names submodules that exist only to train (a GAN's discriminator): `__call__` does without them.
    """

    produces: str
    training_only: tuple[str, ...] = ()


def build(name: str, *, rngs: nnx.Rngs, num_classes: int, **fields) -> nnx.Module:
    """Builds the model `name` with the fields of its config; every parameter is made here, in float32.

    Raises UserError for an unknown name, and for fields that the model does not take or that are missing.
    """
    return _make(MODELS, "model", name, fields, rngs=rngs, num_classes=num_classes)


def build_backbone(backbone: Mapping, *, dtype: str, rngs: nnx.Rngs, **decided) -> nnx.Module:
    """Builds the backbone `backbone["name"]` with the other fields of config.model.backbone; errors as in `build`.

    A backbone maps images to {stride: features} and tells the `channels` of each stride. `decided` are fields that the
    model sets and the config does not have.
    """
    fields = {name: value for name, value in backbone.items() if name != "name"}
    return _make(BACKBONES, "model.backbone", backbone.get("name", ""), fields, dtype=dtype, rngs=rngs, **decided)


def find_model(name: str) -> type[Model]:
    """The class of the model `name`, unbuilt."""
    return _load(MODELS[name])


def _load(place: str) -> type:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _make(known: Mapping[str, str], where: str, name: str, fields: dict, **given) -> nnx.Module:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"{where}.name: unknown {where.split('.')[-1]} {name!r}; {hint}known: {', '.join(sorted(known))}"
        )
    model = _load(known[name])
    _check_fields(where, name, model, fields, given)
    return model(**fields, **given)


def _check_fields(where: str, name: str, model: type, fields: dict, given: dict) -> None:
    parameters = inspect.signature(model.__init__).parameters
    takes = sorted(set(parameters) - {"self", *given})
    for field in fields:
        if field not in takes:
            near = difflib.get_close_matches(field, takes, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"{where}.{field}: {name} takes no such field; {hint}its fields: {', '.join(takes)}")
    # What has a default is for a model that holds a backbone to decide, not for a config.
    missing = [field for field in takes if field not in fields and parameters[field].default is inspect.Parameter.empty]
    if missing:
        raise UserError(f"{where}.{missing[0]}: {name} needs this field; missing in all: {', '.join(missing)}")
    if "dtype" in fields and fields["dtype"] not in DTYPES:
        raise UserError(f"model.dtype: {fields['dtype']!r} is no dtype of computation; take {', '.join(DTYPES)}")
