"""The command line: what the flags say, and their mistakes, each in one line. Imports no jax."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterable

from absl import flags
from ml_collections import ConfigDict, config_flags

from errors import UserError
from experiments.run.config_file import read_config
from experiments.run.open_fields import settle
from experiments.run.places import locate

FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)  # of a config file too
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@dataclasses.dataclass(frozen=True)
class Command:
    """What the flags say: the one argument of every mode's function. A mode asks for what it needs."""

    # of --config=FILE, else of the run in --workdir if it holds one; the fields given on the command line are set
    config: ConfigDict | None
    is_experiment: bool  # the config is that of a --config=FILE
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
        """Returns the config of --config=FILE. Raises UserError where none was given."""
        if not self.is_experiment:
            raise UserError("--config is missing; give an experiment, such as --config=configs/unet_shapes.py")
        return self._settle(self.config)

    def run_config(self) -> ConfigDict:
        """Returns the config of --config=FILE, or else the run's own. Raises UserError if there is none, or of several runs."""
        config = read_config(self.directory()) if self.config is None else self._settle(self.config)
        if config.members > 1:
            raise UserError(
                f"config.members={config.members}: this mode takes one run; name a member's own directory, such as "
                f"--workdir={self.directory()}/seed={config.seed.init}"
            )
        return config

    def _settle(self, config: ConfigDict) -> ConfigDict:
        run = self.workdir and (self.directory() / "config.json").exists()
        return settle(config, self.data_dir, read_config(self.directory()) if run else None)

    def directory(self) -> pathlib.Path:
        """Returns --workdir as an absolute path. Raises UserError where it was not given, or no run can lie there."""
        return locate(self.workdir or "")


def read_command() -> Command:
    """Returns what the parsed flags say."""
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
    others = {name: values[name].value for name in names}
    return Command(values.config, values["config"].present > 0, data_dir=values.tfds_data_dir, **others)


def read_experiment(experiment: str, fields: Iterable[str]) -> ConfigDict:
    """Returns the config of `--config=experiment` with `fields`, each as `--config.NAME=VALUE`.

    Raises UserError for a file, a variant, a field or a value that main.py would not take.
    """
    _check_experiment(experiment)
    arguments = ["main.py", f"--config={experiment}", *fields]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
        values.config.to_dict()  # a config file that fails to load says so when it is first looked at
        return values.config
    except FLAG_ERRORS as error:
        raise UserError(_line(error)) from None


def parse(argv: list[str]) -> list[str]:
    """Parses flags and the config's fields. A misspelt one ends the process with one line on stderr, not a traceback."""
    experiment = _last_value(argv, "config")
    try:
        if experiment:
            _check_experiment(experiment)
    except UserError as error:
        sys.exit(f"error: {error}")
    workdir = _last_value(argv, "workdir")
    try:
        if experiment is None and workdir and (locate(workdir) / "config.json").exists():
            # Fields are set over the run's own config.
            delattr(flags.FLAGS, "config")
            config_flags.DEFINE_config_dict("config", read_config(locate(workdir)), "The config of the run.")
        rest = flags.FLAGS(argv)
        flags.FLAGS.config  # noqa: B018 - a config file that fails to load says so when it is first looked at
        return rest
    except flags.UnrecognizedFlagError as error:
        hint = ""
        if error.flagname.startswith("config.") and experiment is None:
            hint = "; fields can be set where --config=FILE names the experiment, or --workdir a run"
            hint += f": {workdir} holds none" if workdir and not (locate(workdir) / "config.json").exists() else ""
        sys.exit(f"error: {_line(error)}{hint}")
    except FLAG_ERRORS as error:
        sys.exit(f"error: {_line(error)}")


def _check_experiment(value: str) -> None:
    path = pathlib.Path(value.split(":")[0])
    if not path.is_file():
        known = sorted(path.name for path in CONFIGS.glob("*.py") if "def get_config(variant" in path.read_text())
        raise UserError(f"--config={value}: there is no file {path}; the experiments here: {', '.join(known)}")


def _last_value(argv: list[str], name: str) -> str | None:
    """Returns the value of `--name=VALUE` or `--name VALUE`, before the flags are parsed. None where there is none."""
    found = None
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if re.fullmatch(f"--?{name}", argument):
            found = following
        elif re.match(f"--?{name}=", argument):
            found = argument.split("=", 1)[1]
    return found


def _line(error: Exception) -> str:
    """Returns what an error says, without the quotes of a KeyError and the traceback that absl writes into some messages."""
    text = re.split(r"\n(?:\w+\.)*\w*(?:Error|Exception): ", str(error))[-1]
    if isinstance(error, KeyError | AttributeError):
        text = "the config has no such field: " + text.replace("\\n", ". ").translate(str.maketrans("", "", "\"'\\"))
    return " ".join(text.split())
