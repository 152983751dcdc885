"""The command that trains, evaluates and applies segmentation models and detectors.

    .venv/bin/python main.py --config=configs/unet_shapes.py --workdir=runs/shapes --mode=train

`--config=FILE:debug` is the same experiment in seconds; `--config.optim.lr=3e-4` sets a field. Start the same command
again to resume: the exit code is 0 (finished), 75 (stopped, start it again) or 1 (failed). evaluate and predict take the
config of the run in --workdir if none is given.
"""

import os
import signal

if __name__ == "__main__":  # first of all: a stop during the imports has its exit code, too
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: os.write(2, b"stopped: start the same command again\n") and os._exit(75))

import sys

from experiments.run import preemption, processes
from limits import CLASSES

if __name__ == "__main__":
    preemption.exit_at_once()  # even where Python runs no handler
    if processes.are_several(sys.argv, os.environ) and processes.GUARDED not in os.environ:
        sys.exit(processes.guard(sys.argv))

from absl import app, flags, logging

from errors import UserError
from experiments.command_line import import_mode, parse, read_command

MODES = {  # each is a function of a Command
    "train": "experiments.train:train",
    "evaluate": "experiments.evaluate:evaluate",
    "predict": "experiments.predict:predict",
    "datacheck": "experiments.datacheck:datacheck",
    "show": "experiments.show:show",
    "propose": "experiments.propose:propose",
    "export": "experiments.export:export",
    "summary": "experiments.summary:summary",
    "preflight": "experiments.preflight.mode:preflight",
}

MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
flags.DEFINE_string("workdir", None, "The run's directory: config, metrics, checkpoints, predictions.")
flags.DEFINE_string("tfds_data_dir", None, "The folder of prepared datasets; $TFDS_DATA_DIR if not given.")
flags.DEFINE_bool("profile", False, "train: write a profile of three steps to WORKDIR/profile.")
flags.DEFINE_bool("accept_lost_rows", False, "train: continue although rows of metrics.jsonl are missing or changed.")
flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "evaluate, predict, propose, export: the checkpoint to use.")
flags.DEFINE_enum("weights", "auto", ["auto", "ema", "raw"], "Its weights; auto: ema if there is one.")
flags.DEFINE_string("inputs", None, "predict: an image, a folder with sub-folders of images, or a glob.")
flags.DEFINE_string("output", None, "predict, propose, export, datacheck, show: a folder; one in WORKDIR if not given.")
flags.DEFINE_integer("step", 1, "show: the step whose batch is drawn, from 1.")
flags.DEFINE_string("licence", None, "export: the licence of the data and the weights, for the model card.")
flags.DEFINE_string("topology", "local", "preflight: a slice such as v5e:16x16, or local, or pod.")
flags.DEFINE_integer(
    "classes", None, "preflight: their number, if the data is not here.", lower_bound=1, upper_bound=CLASSES
)
flags.DEFINE_string("coordinator", None, "With several processes: HOST:PORT of the first one, the same for all.")
flags.DEFINE_integer("processes", None, "The number of processes; 1: this one alone, in any environment.")
flags.DEFINE_integer("process", None, "With several processes: the number of this one, from 0.")


def main(argv: list[str]) -> int:
    """Run the mode. Returns the exit code, 0 if it has finished and preemption.UNFINISHED if it was stopped."""
    logging.set_verbosity(logging.FATAL)  # orbax logs every file it renames, and errors that we report better
    try:
        if argv[1:]:
            raise UserError(f"{argv[1]!r} is not a flag; flags are written --name=value")
        processes.join(*(flags.FLAGS[name].value for name in processes.PLACE), roll_call=MODE.value == "preflight")
        # Imported here: a mistake in the flags is reported before jax has loaded.
        run, command = import_mode(MODES[MODE.value]), read_command()
        if command.config is not None:
            from experiments.run.configuration import check

            check(command.config)
        code = run(command) or 0
    except (UserError, OSError) as error:
        processes.leave(error)
    except Exception:
        processes.wait_for_the_others()
        raise
    preemption.exit_at_once(code)
    return code


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
