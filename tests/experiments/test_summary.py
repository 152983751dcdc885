"""The summary of a network equals counts by hand, and works for every family."""

import math

import pytest
from flax import nnx

from configs import common
from experiments.command_line import Command, read_experiment
from experiments.run import state as states
from experiments.run.costs import specify_batch
from experiments.run.modules import list_modules
from experiments.summary import describe_modules, describe_steps, summary
from experiments.tasks.registry import make_task
from models import registry
from models.layers import BatchNorm, Conv, ConvTranspose
from tests.experiments.test_export import FAMILIES

SIDE = 16
CLASSES = ("a", "b", "c")
SVM = "rcnn_shapes.py:svm"
QUICK = ("fcn8s_camvid", "unet_isbi", "pix2pix_camvid", "yolov1_shapes", "ssd_shapes", "fast_rcnn_shapes")


class Known(registry.Model):
    """One layer of each kind, on images of SIDE x SIDE."""

    produces = "pixel logits"

    def __init__(self, *, num_classes: int, dtype: str, rngs: nnx.Rngs):
        made = dict(dtype=dtype, rngs=rngs)
        self.up = ConvTranspose(4, num_classes, 2, stride=2, **made)
        self.ordinary = Conv(3, 8, 3, stride=2, **made)
        self.norm = BatchNorm(8, momentum=0.9, epsilon=1e-3, dtype=dtype)
        self.shared = nnx.List([Conv(8, 8, 1, bias=True, **made)])
        self.depthwise = Conv(8, 8, 3, groups=8, **made)
        self.thin = Conv(8, 4, 1, **made)

    def __call__(self, images, *, train, rngs=None):
        x = self.norm(self.ordinary(images), train=train)
        for _ in range(2):
            x = self.shared[0](x)
        return self.up(self.thin(self.depthwise(x)))


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "known", f"{__name__}:Known")
    config = common.get_config()
    config.model.update(name="known", dtype="float32")
    config.task = read_experiment("configs/unet_shapes.py:debug", []).task
    config.data.image_size = (SIDE, SIDE)
    config.train.batch_size = config.eval.batch_size = 4
    return config


PIXELS = (SIDE // 2) ** 2
COUNTED = {  # path: (parameters, calls, output, operations of one image)
    (): (216 + 32 + 72 + 72 + 32 + 48, 1, "[1, 16, 16, 3]", None),
    ("ordinary",): (3 * 3 * 3 * 8, 1, "[1, 8, 8, 8]", 2 * PIXELS * 3 * 3 * 3 * 8),
    ("norm",): (4 * 8, 1, "[1, 8, 8, 8]", 0),
    ("shared",): (8 * 8 + 8, 0, "", 2 * 2 * PIXELS * 8 * 8),
    ("shared", "0"): (8 * 8 + 8, 2, "[1, 8, 8, 8]", 2 * 2 * PIXELS * 8 * 8),
    ("depthwise",): (3 * 3 * 8, 1, "[1, 8, 8, 8]", 2 * PIXELS * 3 * 3 * 8),
    ("thin",): (8 * 4, 1, "[1, 8, 8, 4]", 2 * PIXELS * 8 * 4),
    ("up",): (2 * 2 * 4 * 3, 1, "[1, 16, 16, 3]", 2 * PIXELS * 2 * 2 * 4 * 3),
}


def test_parameters_and_operations_equal_hand_computed_counts(known):
    architecture, shapes, _ = states.describe(known, len(CLASSES))
    task = make_task(known, CLASSES)

    def run(model, batch):
        return task.apply(model, batch, train=False, rngs=None)

    rows = list_modules(architecture, shapes, specify_batch(known, task, (SIDE, SIDE), 1, train=False), run)
    whole = sum(flops for path, (*_, flops) in COUNTED.items() if len(path) == 1)
    found = {row.path: (row.parameters, row.calls, row.outputs, row.flops) for row in rows}
    assert found == COUNTED | {(): (*COUNTED[()][:3], whole)}
    assert list(found) == list(COUNTED)  # in the order of the calls
    model = states.blueprint(known, len(CLASSES))
    assert "wrapper" not in type(model).__call__.__name__ and model.training_only == ()


def test_memory_equals_the_sum_of_inputs_and_outputs(known):
    known.optim.name, known.optim.momentum = "sgd", 0.0
    lines = describe_steps(known, make_task(known, CLASSES), len(CLASSES))
    title, training, inference, words = (line.split("  ") for line in lines)
    assert [cell.strip() for cell in title if cell][2:] == ["arguments MB", "outputs MB", "temporaries MB", "code MB"]
    assert training[0] == "training, 4 of 16x16" and inference[0] == "inference, 4 of 16x16" and "compiled" in words[0]
    known.train.batch_size = known.eval.batch_size = 1000
    _, training, inference, _ = describe_steps(known, make_task(known, CLASSES), len(CLASSES))
    image, label, others = 3 * SIDE**2, SIDE**2, 1 + 4 + 8 + 24
    assert abs(float(training[24:].split()[1]) - 1e-3 * (image + label + others)) < 0.1
    assert abs(float(inference[24:].split()[2]) - 1e-3 * 4 * 3 * SIDE**2) < 0.1  # a probability of three classes
    gflop = [float(line[24:].split()[0]) for line in (training, inference)]
    assert 2 < gflop[0] / gflop[1] < 5


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*FAMILIES, SVM)]
)
def test_every_family_has_a_summary(name):
    """The modules have all parameters, and a module that is called once has as many operations as its parts."""
    config = read_experiment(f"configs/{name}" if ":" in name else f"configs/{name}.py:debug", [])
    title, whole, *rows = describe_modules(config, make_task(config, CLASSES), len(CLASSES))
    assert title.split()[0] == "module" and whole.startswith(config.model.name)
    _, shapes, _ = states.describe(config, len(CLASSES))
    total = sum(math.prod(one.shape) for one in shapes.values())
    assert f"\n{total:,} values" in "\n".join(rows)
    assert float(whole.split()[3].replace(",", "")) > 0


def test_the_command_prints_both_tables(known, data_dir, capsys):
    flags = dict(data_dir=data_dir, checkpoint="best", weights="auto", inputs=None, output=None, profile=False)
    summary(Command(known, True, None, **flags))
    printed = capsys.readouterr().out
    for words in ("ordinary", "values, ", "training, 4 of 16x16", "inference, 4 of 16x16", "compiled for 1 x"):
        assert words in printed


@pytest.mark.slow
def test_a_task_without_steps_has_no_training(capsys):
    config = read_experiment(f"configs/{SVM}", [])
    lines = describe_steps(config, make_task(config, CLASSES), len(CLASSES))
    assert len(lines) == 3 and lines[1].startswith("inference")
    assert "has no training steps" in capsys.readouterr().out
