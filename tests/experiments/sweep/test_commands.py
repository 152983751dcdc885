"""The printed commands for other schedulers."""

import pathlib
import subprocess

import pytest

from experiments.sweep import commands
from experiments.sweep.launch import Launch
from experiments.sweep.plan import make_plan
from tests.experiments.sweep import driver
from tests.experiments.sweep.test_local import ROOT, Sweep

STAGES = '[{"name": "b", "init_from": sweeps.run("a")}, {"name": "a", "seed.init": 1}, {"name": "c", "seed.init": 2}]'


@pytest.fixture
def printed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = Sweep(tmp_path, STAGES)

    def lines() -> list[str]:
        jobs = make_plan(str(sweep.file), {}, sweep.workdir, resolve=driver.resolve)
        assert commands.launch(Launch(jobs, sweep.workdir, None, driver.FAKE)) == 0
        return capsys.readouterr().out.splitlines()

    return sweep, lines


def carry_out(line: str, *, code: int) -> None:
    # The fake runs write no config.json, which has the number of steps.
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr


def test_each_unfinished_run_is_a_command(printed):
    sweep, lines = printed
    first, remark, second, third = lines()
    assert " && " in second and remark.startswith("# the next run starts from a-") and " && " not in first + third
    carry_out(second, code=75)
    assert not sweep.places(), "it has not started without the other run"
    carry_out(remark, code=0)
    carry_out(first, code=0)
    (place,) = sweep.places().values()
    (place / "config.json").write_text('{"train": {"steps": 12, "best": "val/mIoU"}}')
    carry_out(second, code=0)
    (place / "config.json").unlink()
    carry_out(third, code=0)
    again = lines()
    assert [line[:8] for line in again] == ["# done: "] * 3
    assert pathlib.Path(again[0][8:]).name == place.name
