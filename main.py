"""Trains, evaluates and runs segmentation models and detectors.

    .venv/bin/python main.py --config=configs/unet_shapes.py --workdir=runs/shapes --mode=train

`--config=FILE:debug` is the same experiment in seconds; `--config.optim.lr=3e-4` sets a field. Start the same command
again to resume. evaluate and predict read the config from the workdir when none is given.
"""

import pathlib
import re
import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/, `:debug` for a tiny one.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory: config, metrics, checkpoints, predictions.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "predict", "datacheck"], "What to do.")
DATA_DIR = flags.DEFINE_string("tfds_data_dir", None, "Where prepared datasets are; $TFDS_DATA_DIR if not given.")
PROFILE = flags.DEFINE_bool("profile", False, "train: write a profile of three steps to WORKDIR/profile.")
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "evaluate, predict: which one.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "auto", ["auto", "ema", "raw"], "evaluate, predict: auto is ema where there is one."
)
INPUTS = flags.DEFINE_string("inputs", None, "predict: an image, a folder of images, or a glob.")
OUTPUT = flags.DEFINE_string("output", None, "predict: a folder; WORKDIR/predictions/NAME if not given.")


def main(argv: list[str]) -> int:
    if MODE.value == "train":
        from experiments.run.preemption import exit_at_once

        signal.signal(signal.SIGTERM, exit_at_once)
    # Imported here, so that a mistake in the flags is told before jax has loaded.
    from experiments.run import directory as run_directory

    logging.set_verbosity(logging.FATAL)  # orbax tells of every file it renames, and of errors that we tell better
    try:
        if argv[1:]:
            raise UserError(f"{argv[1]!r} is not a flag; flags are written --name=value")
        if CONFIG.value is None and MODE.value in ("train", "datacheck"):
            raise UserError("--config is missing; give an experiment, such as --config=configs/unet_shapes.py")
        if MODE.value == "datacheck":
            from experiments.datacheck import datacheck

            datacheck(CONFIG.value, DATA_DIR.value)
            return 0
        if not WORKDIR.value:
            raise UserError("--workdir is missing; give the run's directory, such as --workdir=runs/first")
        workdir = pathlib.Path(WORKDIR.value).expanduser().absolute()
        if MODE.value == "train":
            from experiments.train import train

            return train(CONFIG.value, workdir, DATA_DIR.value, PROFILE.value)
        config = CONFIG.value or run_directory.read_config(workdir)
        if MODE.value == "evaluate":
            from experiments.evaluate import evaluate

            evaluate(config, workdir, DATA_DIR.value, CHECKPOINT.value, WEIGHTS.value)
        else:
            from experiments.predict import predict

            predict(config, workdir, INPUTS.value, OUTPUT.value, CHECKPOINT.value, WEIGHTS.value)
    except UserError as error:
        sys.exit(f"error: {error}")
    except AttributeError as error:
        if CONFIG.value is not None or not isinstance(error.args[0], KeyError):  # no field that a ConfigDict lacks
            raise
        sys.exit(
            f"error: {workdir / 'config.json'} lacks the field {error.args[0].args[0]}; give the experiment as --config=FILE"
        )
    return 0


def parse(argv: list[str]) -> list[str]:
    """Flags and the config's fields. A misspelt one is a line, not a traceback."""
    for argument in argv:
        name, _, value = argument.partition("=")
        path = pathlib.Path(value.split(":")[0])
        if name.lstrip("-") == "config" and value and not path.is_file():
            known = ", ".join(
                sorted(
                    path.name
                    for path in (pathlib.Path(__file__).parent / "configs").glob("[!_]*.py")
                    if path.stem != "common"
                )
            )
            sys.exit(f"error: --config={value}: there is no file {path}; the experiments here: {known}")
    try:
        rest = flags.FLAGS(argv)
        CONFIG.value  # noqa: B018 - a config file that fails to load tells so when it is first looked at
        return rest
    except flags.UnrecognizedFlagError as error:
        needs_config = error.flagname.startswith("config.") and not any(flag.startswith("--config=") for flag in argv)
        hint = "; fields can be set where --config=FILE names the experiment" if needs_config else ""
        sys.exit(f"error: {_line(error)}{hint}")
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(f"error: {_line(error)}")


def _line(error: Exception) -> str:
    """What an error says, without the quotes of a KeyError and the traceback that absl writes into some messages."""
    text = re.split(r"\n(?:\w+\.)*\w*(?:Error|Exception): ", str(error))[-1]
    if isinstance(error, KeyError | AttributeError):
        text = "the config has no such field: " + text.replace("\\n", ". ").translate(str.maketrans("", "", "\"'\\"))
    return " ".join(text.split())


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
