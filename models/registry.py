"""The models by name. A name maps to "module:Class", imported only when that model is built."""

import difflib
import importlib
import inspect

from flax import nnx

MODELS = {
    "unet_mobilenetv2": "models.segmentation.unet_mobilenetv2:UNetMobileNetV2",
}
DTYPES = ("float32", "bfloat16", "float16")


class ModelError(ValueError):
    """A model that cannot be built as asked, in one line for the user."""


def build(name: str, *, rngs: nnx.Rngs, num_classes: int, **fields) -> nnx.Module:
    """Builds the model `name` with the fields of its config; every parameter is made here, in float32.

    Raises ModelError for an unknown name, and for fields that the model does not take or that are missing.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(f"model.name: unknown model {name!r}; {hint}known models: {', '.join(sorted(MODELS))}")
    module, _, attribute = MODELS[name].partition(":")
    model = getattr(importlib.import_module(module), attribute)
    _check_fields(name, model, fields)
    return model(rngs=rngs, num_classes=num_classes, **fields)


def _check_fields(name: str, model: type, fields: dict) -> None:
    parameters = inspect.signature(model.__init__).parameters
    takes = sorted(set(parameters) - {"self", "rngs", "num_classes"})
    for field in fields:
        if field not in takes:
            near = difflib.get_close_matches(field, takes, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ModelError(f"model.{field}: {name} takes no such field; {hint}its fields: {', '.join(takes)}")
    missing = [field for field in takes if field not in fields]
    if missing:
        raise ModelError(f"model.{missing[0]}: {name} needs this field; missing in all: {', '.join(missing)}")
    if "dtype" in fields and fields["dtype"] not in DTYPES:
        raise ModelError(f"model.dtype: {fields['dtype']!r} is no dtype of computation; take {', '.join(DTYPES)}")
