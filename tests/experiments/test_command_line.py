"""Mistakes of the command line and of config files, reported in one line with their place."""

import gc
import os
import sys

import pytest
from ml_collections import ConfigDict

from errors import UserError
from experiments.arguments import Parser, refuse_contradictions
from experiments.command_line import import_mode, read_experiment
from experiments.sweep import definition


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("def get_config(variant=''):\n    return (\n", "x.py, line 2: SyntaxError: '(' was never closed"),
        (
            "\nimport nothing_of_that_name\n",
            "x.py, line 2: ModuleNotFoundError: No module named 'nothing_of_that_name'",
        ),
        ("x = 1 / 0\n", "x.py, line 1: ZeroDivisionError: division by zero"),
        ("def get_config(variant=''):\n    raise ValueError('two\\nlines')\n", "x.py, line 2: ValueError: two lines"),
        # With the argument, because Python 3.13.0 does not limit the recursion of calls that use a default.
        ("def get_config(variant=''):\n    return get_config(variant)\n", "x.py, line 2: RecursionError"),
        ("import sys\nsys.exit(3)\n", "x.py, line 2: SystemExit: 3"),
        (
            "from configs import common\n\ndef get_config(variant=''):\n    common.get_config().a.b = 1\n",
            "x.py, line 4",
        ),
        (
            "from configs import variants\n\ndef get_config(v=''):\n    variants.vary(None, 'no', {})\n",
            "there is no variant",
        ),
        ("", "x.py has no function get_config(variant)"),
        ("get_config = 3\n", "x.py has no function get_config(variant)"),
        (
            "def get_config():\n    return 3\n",
            "x.py: get_config() returns a value of type int; return a ConfigDict",
        ),
        ("def get_config():\n    pass\n", "x.py: get_config() returns a value of type NoneType"),
        ("def get_config():\n    return {'a': 1}\n", "x.py: get_config() returns a value of type dict"),
        (b"\xff\xfe\x00", "x.py: SyntaxError"),
    ],
)
def test_an_error_of_a_config_file_names_file_and_line(tmp_path, content, cause):
    path = tmp_path / "x.py"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_experiment(str(path), [])
    assert cause in str(caught.value) and "Traceback" not in str(caught.value)


def test_an_edit_within_a_second_that_keeps_the_size_counts(tmp_path, monkeypatch):
    """Python compares a source with its bytecode by the second and the size."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "edited.py"
    file = "from configs import common\n\ndef get_config():\n    c = common.get_config()\n"
    for steps in (3, 4):
        path.write_text(
            f"{file}    c.train.steps = {steps}\n    return c\n\ndef sweep():\n    return [{{'seed.init': {steps}}}]\n"
        )
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert read_experiment(str(path), []).train.steps == steps
        assert definition.load(str(path), {})[0].fields == {"seed.init": steps}


def test_wrong_fields_are_not_errors_of_the_file(tmp_path):
    assert isinstance(read_experiment("configs/unet_shapes.py:debug", ["--config.optim.lr=0.5"]), ConfigDict)
    with pytest.raises(UserError, match=r"^the config does not have this field: nothing$"):
        read_experiment("configs/unet_shapes.py:debug", ["--config.nothing=1"])
    with pytest.raises(UserError, match="^--config is empty; give an experiment"):
        read_experiment("", [])


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--workdir=a", "--workdir=b"], "--workdir is given twice, as 'a' and as 'b'; remove one"),
        (["--workdir", "a", "-workdir=b"], "--workdir is given twice, as 'a' and as 'b'"),
        (["--config.optim.lr=1", "--mode=train", "--config.optim.lr=2"], "--config.optim.lr is given twice"),
        (["--profile", "--noprofile"], "--noprofile and --profile contradict each other"),
    ],
)
def test_a_repeated_flag_with_another_value_is_refused(arguments, cause):
    with pytest.raises(UserError) as caught:
        refuse_contradictions(arguments)
    assert cause in str(caught.value)
    refuse_contradictions([arguments[0], arguments[0]])


def test_commands_refuse_repeated_flags_too(capsys):
    parser = Parser()
    parser.add_argument("--draws", type=int)
    with pytest.raises(SystemExit, match="^error: --draws is given twice, as '5' and as '6'; remove one$"):
        parser.parse_args(["--draws=5", "--draws=6"])
    assert parser.parse_args(["--draws=-5"]).draws == -5


@pytest.mark.parametrize("place", ["experiments.show:show", "experiments.nothing:nothing"])
def test_garbage_is_collected_after_the_import_of_a_mode_but_not_among_its_modules(place):
    gc.unfreeze()
    try:
        import_mode(place)
    except ModuleNotFoundError:
        assert "nothing" in place
    assert gc.isenabled() and gc.get_freeze_count() > 100_000
