import importlib
import subprocess
import sys

import pytest
from flax import nnx

from errors import UserError
from models import registry

FIELDS = dict(width=0.1, depth=0.1, variant="keras", norm="batch", momentum=0.9, decoder=(8, 8, 8, 8), dtype="float32")


def build(name="unet_mobilenetv2", **fields):
    return nnx.eval_shape(lambda: registry.build(name, rngs=nnx.Rngs(0), num_classes=3, **fields))


@pytest.mark.parametrize("place", registry.MODELS.values())
def test_every_name_resolves_to_a_module(place):
    module, _, attribute = place.partition(":")
    assert issubclass(getattr(importlib.import_module(module), attribute), nnx.Module)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(name="unet_mobilenet2"),
            r"^config\.model\.name: unknown model 'unet_mobilenet2'; did you mean 'unet_mobilenetv2'",
        ),
        (dict(FIELDS, wdth=1.0), r"^config\.model\.wdth is not a field of unet_mobilenetv2; did you mean 'width'"),
        ({k: v for k, v in FIELDS.items() if k != "norm"}, r"^config\.model\.norm: unet_mobilenetv2 needs this field"),
        (dict(FIELDS, dtype="float23"), r"^config\.model\.dtype='float23' .*'float32' or 'bfloat16' or 'float16'"),
        (dict(FIELDS, variant="caffe"), r"^config\.model\.variant='caffe'.*'keras' or 'torchvision'"),
        (dict(FIELDS, norm="layer"), r"^config\.model\.norm='layer'.*'batch' or 'group'"),
        (dict(FIELDS, depth=0.0), r"^config\.model\.depth=0\.0 .* above 0"),
        (dict(FIELDS, width=0.0), r"^config\.model\.width=0\.0 .* above 0"),
        (dict(FIELDS, decoder=(8, 8)), r"^model\.decoder: needs 4 channel counts"),
    ],
)
def test_invalid_fields_raise_a_one_line_error(fields, message):
    with pytest.raises(UserError, match=message) as error:
        build(**fields)
    assert "\n" not in str(error.value)


def test_models_are_imported_only_when_built():
    code = "import sys, models.registry; assert 'models.segmentation' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
