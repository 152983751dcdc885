"""Slices and the roofline equal hand-computed figures. Programs compile for slices if libtpu is installed."""

import importlib.util

import jax
import pytest

from benchmarks.preflight import list_cases
from errors import UserError
from experiments.command_line import read_experiment
from experiments.preflight.chips import CHIPS, HOP, Slice, open_slice
from experiments.preflight.hlo import Collective
from experiments.preflight.remedies import try_remedies
from experiments.preflight.roofline import estimate
from experiments.preflight.steps import MEGA, compile_steps
from experiments.tasks.registry import make_task

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is missing; run pip install -r requirements-tpu.txt")


def sliced(chip: str, *shape: int) -> Slice:
    return Slice("", (), shape, CHIPS[chip], CHIPS[chip].memory)


@pytest.mark.parametrize(
    ("where", "sent", "hops"),
    [
        (sliced("v5e", 1, 1), 0, 0),
        (sliced("v5e", 2, 2), 100e9, 2),
        (sliced("v5e", 4, 8), 100e9, 3 + 7),
        (sliced("v5e", 8, 16), 150e9, 7 + 8),
        # Google states 51.2 TB/s for a whole pod of 256 chips.
        (sliced("v5e", 16, 16), 51.2e12 / 256, 16),
        (sliced("v6e", 16, 16), 102.4e12 / 256, 16),
        (sliced("v5p", 4, 4, 8), 600e9, 2 + 2 + 4),
        (sliced("v5p", 2, 2, 1), 200e9, 2),
    ],
)
def test_a_slice_has_link_speed_and_hops(where, sent, hops):
    assert where.sent == pytest.approx(sent) and where.hops == hops


def test_the_roofline_has_the_times_of_all_parts():
    where = sliced("v5e", 2, 2)
    reduced = [Collective("all-reduce", 10**9, 4, 2), Collective("all-gather", 4, 4, 3)]
    found = estimate(197e12 * 0.010, 819e9 * 0.020, reduced, where, images=64)
    links = (2 * 2 * 1e9 + 4 * 3) * 0.75 / 100e9
    waits = 5 * 2 * HOP
    assert found["compute_s"] == pytest.approx(0.010) and found["memory_s"] == pytest.approx(0.020)
    assert found["links_s"] == pytest.approx(links) and found["latency_s"] == pytest.approx(waits)
    assert found["step_s"] == pytest.approx(0.020 + links + waits) and found["bound"] == "links"
    assert found["images_per_second"] == pytest.approx(64 / (0.020 + links + waits))
    assert found["efficiency"] == pytest.approx(0.020 / (0.020 + links + waits))
    assert found["efficiency_at_best"] == pytest.approx(0.020 / (links + waits)) and links > 0.020


def test_one_chip_has_full_efficiency():
    found = estimate(1e12, 1e9, [], sliced("v5e", 1, 1), images=1)
    assert found["efficiency"] == found["efficiency_at_best"] == 1


@pytest.mark.parametrize("topology", ["v5e", "v4:2x2x1", "v5e:2y2", "16x16", "pods"])
def test_unknown_topology_raises_a_one_line_error(topology):
    with pytest.raises(UserError, match=f"--topology='{topology}' is unknown; choose a slice such as v5e:16x16"):
        open_slice(topology)


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_the_error_without_libtpu_names_what_to_install():
    with pytest.raises(
        UserError, match="needs libtpu, which is not installed; run pip install -r requirements-tpu.txt"
    ):
        open_slice("v5e:2x2")


def test_the_local_devices_are_a_slice():
    found = open_slice("local")
    assert found.devices == tuple(jax.devices()) and found.chip is None and found.memory is None


@needs_libtpu
@pytest.mark.parametrize(("topology", "chips"), [("v5e:2x2", 4), ("v5e:16x16", 256), ("v5p:4x4x4", 64), ("v6e:2x4", 8)])
def test_a_slice_has_its_chips(topology, chips):
    found = open_slice(topology)
    assert len(found.devices) == chips and found.devices[0].device_kind == found.chip.device_kind


@needs_libtpu
def test_slice_that_does_not_exist_raises_a_one_line_error():
    with pytest.raises(UserError, match="--topology=v5e:1x1 cannot be described .* the smallest slice is 2x2"):
        open_slice("v5e:1x1")


def compile_for(topology: str, experiment: str, *fields: str, classes: int = 5):
    config = read_experiment(experiment, fields)
    task = make_task(config, tuple(map(str, range(classes))))
    return compile_steps(config, task, classes, open_slice(topology))


@needs_libtpu
@pytest.mark.slow
def test_all_reduced_bytes_do_not_grow_with_the_slice():
    """The gradients are all-reduced once, for any number of chips."""
    reduced = {}
    for topology, chips in (("v5e:2x2", 4), ("v5e:4x4", 16)):
        sizes = (f"--config.{part}.batch_size={chips}" for part in ("train", "eval"))
        steps = compile_for(topology, "configs/fcn8s_camvid.py:debug", *sizes)
        assert steps.fits(steps.training) and steps.estimate()["efficiency"] < 1
        reduced[chips] = steps.training.collected()["all-reduce"]["megabytes"]
        assert reduced[chips] >= steps.parameters
    assert reduced[16] == pytest.approx(reduced[4], rel=0.05)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("case", list_cases(debug=True), ids=lambda case: case["config"].removeprefix("configs/"))
def test_every_debug_config_compiles_for_a_tpu(case):
    fields = [flag for flag in case["flags"] if flag.startswith("--config.")]
    steps = compile_for(case["topology"], case["config"], *fields)
    assert all(step.memory and steps.fits(step) for step in steps.all)


@needs_libtpu
@pytest.mark.slow
def test_a_run_that_does_not_fit_a_chip_gets_remedies():
    """A batch that is far too large does not compile, but smaller parts of it fit."""
    fields = ("--config.train.batch_size=65536", "--config.eval.batch_size=4")

    def compile_with(config):
        return compile_steps(config, task, 3, where, lambda _: None)

    config = read_experiment("configs/unet_masks.py:debug", fields)
    config.model = dict(
        name="unet", depth=1, width=8, padding="same", norm="none", momentum=0.9, dropout=0.0, dtype="float32"
    )
    task, where = make_task(config, ("a", "b", "c")), open_slice("v5e:2x2")
    steps = compile_with(config)
    assert not steps.fits(steps.training) and (steps.training.wanted or 0) * MEGA > where.memory
    tried = try_remedies(steps, compile_with, lambda _: None)
    assert {"remat", "parts", "batch"} <= {one["kind"] for one in tried}
    assert {one["kind"] for one in tried if one["fits"]} >= {"parts", "batch"}
