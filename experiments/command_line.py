"""The command line of main.py, with its mistakes reported in one line each. Imports no jax."""

import dataclasses
import gc
import importlib
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from errors import UserError, explain_system, print_anything
from experiments.arguments import refuse_contradictions
from experiments.run.config_file import read_config
from experiments.run.open_fields import settle
from experiments.run.places import locate
from experiments.user_code import CONFIGS, explain, read_source

FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)  # also of a config file
HELP = "The experiment, a file of configs/; add `:debug` for a tiny variant."
CALL = "config_module.get_config("  # in the message of ml_collections if get_config cannot be called


@dataclasses.dataclass(frozen=True)
class Command:
    """The values of the flags. It is the only argument of a mode's function, which reads the values that it needs."""

    # Of --config=FILE, or else of the run in --workdir. Fields of the command line are set in it.
    config: ConfigDict | None
    is_experiment: bool  # the config comes from --config=FILE
    workdir: str | None
    data_dir: str | None
    checkpoint: str
    weights: str
    inputs: str | None
    output: str | None
    profile: bool
    accept_lost_rows: bool = False
    licence: str | None = None
    topology: str = "local"
    classes: int | None = None
    step: int = 1

    def experiment(self) -> ConfigDict:
        """Return the config of --config=FILE. Raise UserError if the flag is missing."""
        if not self.is_experiment or self.config is None:
            raise UserError("--config is missing; give an experiment, such as --config=configs/unet_shapes.py")
        return self._settle(self.config)

    def run_config(self) -> ConfigDict:
        """Return the config of --config=FILE, or else of the run. Raise UserError if there is none or it has members."""
        config = read_config(self.directory()) if self.config is None else self._settle(self.config)
        if config.members > 1:
            raise UserError(
                f"config.members={config.members}: this mode takes one run; name the directory of a member, such as "
                f"--workdir={self.directory()}/seed={config.seed.init}"
            )
        return config

    def _settle(self, config: ConfigDict) -> ConfigDict:
        run = self.workdir and (self.directory() / "config.json").exists()
        return settle(config, self.data_dir, read_config(self.directory()) if run else None)

    def directory(self) -> pathlib.Path:
        """Return --workdir as an absolute path. Raise UserError if it is missing or cannot be a run directory."""
        return locate(self.workdir or "")


def read_command() -> Command:
    """Return the parsed flags."""
    values = flags.FLAGS
    names = (
        "workdir",
        "checkpoint",
        "weights",
        "inputs",
        "output",
        "profile",
        "accept_lost_rows",
        "licence",
        "topology",
        "classes",
        "step",
    )
    others: dict[str, Any] = {name: values[name].value for name in names}
    return Command(values.config, values["config"].present > 0, data_dir=values.tfds_data_dir, **others)


def import_mode(place: str) -> Callable[[Command], int | None]:
    """Import the function `MODULE:FUNCTION` of a mode.

    The objects of modules stay, but Python would look for garbage among them again and again. That takes a tenth of the time
    of the imports and about a quarter of the time in which jax traces a step.
    """
    module, _, function = place.partition(":")
    gc.disable()
    try:
        return getattr(importlib.import_module(module), function)
    finally:
        gc.freeze()
        gc.enable()


def read_experiment(experiment: str, fields: Iterable[str]) -> ConfigDict:
    """Return the config of `--config=experiment` with `fields`, each as `--config.NAME=VALUE`.

    Raise UserError for a file, a variant, a field or a value that main.py would refuse.
    """
    _check_experiment(experiment)
    arguments = ["main.py", f"--config={experiment}", *fields]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    sys.modules.pop("config_config", None)  # else functions that a file lacks come from the last one
    try:
        with read_source():
            values(arguments)
        _check_loaded(values.config, experiment)
        return values.config
    except (Exception, SystemExit) as error:
        raise UserError(_explain(error, experiment)) from None


def parse(argv: list[str]) -> list[str]:
    """Define --config, and parse the flags and the config's fields. End the process with one line for a mistake."""
    print_anything()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # ml_collections warns where we report an error
    experiment = _last_value(argv, "config")
    try:
        refuse_contradictions(argv[1:])
        if experiment is not None:
            _check_experiment(experiment)
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {explain_system(error)}")
    workdir = _last_value(argv, "workdir")
    try:
        if experiment is None and workdir and (locate(workdir) / "config.json").exists():
            # Fields of the command line change the run's own config.
            config_flags.DEFINE_config_dict("config", read_config(locate(workdir)), "The config of the run.")
        else:
            config_flags.DEFINE_config_file("config", None, HELP)
        with read_source():
            rest = flags.FLAGS(argv)
        if experiment is not None:
            _check_loaded(flags.FLAGS.config, experiment)
        return rest
    except flags.UnrecognizedFlagError as error:
        hint = ""
        if error.flagname.startswith("config.") and experiment is None:
            hint = "; to set fields, name an experiment with --config=FILE, or a run with --workdir"
            hint += f": {workdir} has no run" if workdir and not (locate(workdir) / "config.json").exists() else ""
        sys.exit(f"error: {UserError(_line(error) + hint)}")
    except (Exception, SystemExit) as error:
        sys.exit(f"error: {UserError(_explain(error, experiment))}")


def _check_loaded(config: object, experiment: str) -> None:
    """Raise UserError unless the file has returned a config."""
    if not isinstance(config, ConfigDict):
        getattr(config, "to_dict", None)  # a config that has not loaded raises its error on any access
        kind = type(config).__name__
        raise UserError(f"{_file(experiment)}: get_config() returns a value of type {kind}; return a ConfigDict")


def _explain(error: BaseException, experiment: str | None) -> str:
    """Return one line about an error of the flags or of a config file. Raise any other error again."""
    if experiment and not isinstance(error, UserError):
        if found := explain(error, _file(experiment)):
            return found
        if getattr(error, "name", None) == "get_config" or CALL in str(error):
            return f"{_file(experiment)} has no function get_config(variant); configs/unet_shapes.py is an example"
    if isinstance(error, OSError) and error.errno is not None:
        return str(explain_system(error))
    if isinstance(error, FLAG_ERRORS):
        return _line(error)
    raise error


def _file(experiment: str) -> str:
    """Return the file of `FILE` or `FILE:VARIANT`."""
    return experiment.split(":")[0]


def _check_experiment(value: str) -> None:
    if not value:
        raise UserError("--config is empty; give an experiment, such as --config=configs/unet_shapes.py")
    path = pathlib.Path(_file(value))
    if not path.is_file():
        known = sorted(
            path.name for path in CONFIGS.glob("*.py") if "def get_config(variant" in path.read_text("utf-8")
        )
        raise UserError(f"--config={value}: the file {path} does not exist; the experiments are {', '.join(known)}")


def _last_value(argv: list[str], name: str) -> str | None:
    """Return the last value of `--name=VALUE` or `--name VALUE` before the flags are parsed, or None."""
    found = None
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if re.fullmatch(f"--?{name}", argument):
            found = following
        elif re.match(f"--?{name}=", argument):
            found = argument.split("=", 1)[1]
    return found


def _line(error: Exception) -> str:
    """Return the message of an error, without the quotes of a KeyError and without a traceback that absl adds."""
    text = re.split(r"\n(?:\w+\.)*\w*(?:Error|Exception): ", str(error))[-1]
    if isinstance(error, KeyError | AttributeError):
        text = "the config does not have this field: " + text.replace("\\n", ". ").translate(
            str.maketrans("", "", "\"'\\")
        )
    return " ".join(text.split())
