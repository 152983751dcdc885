"""One check of a whole config before anything is made, and the completion of an older one."""

import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

import fields
from configs.common import Common, Optim
from errors import UserError
from experiments.tasks.registry import TASK, check_pair
from models.registry import MODEL

WHOLE = ("partition", "lr_multipliers", "freeze", "ema", "accumulate")  # fields of config.optim that no part has
NAMED = {"model": MODEL, "task": TASK}  # the sections whose fields depend on a name


def check(config: ConfigDict) -> None:
    """Raises UserError, in one line that names the field, unless each field of the config follows its rule."""
    values = config.to_dict()
    sections = {name: values.pop(name, {}) for name in NAMED}
    fields.check("config", values, Common)
    names = [own.get("name") for own in (sections["task"], sections["model"]) if isinstance(own, Mapping)]
    if len(names) == len(NAMED) and all(name and isinstance(name, str) for name in names):
        check_pair(*names)  # before their fields: with the wrong name all of them are unknown
    for name, rule in NAMED.items():
        fields.check(f"config.{name}", sections[name], rule)
    rules = {field: rule for field, (rule, _) in fields.fields_of(Optim).items() if field not in WHOLE}
    for pattern, changed in values["optim"]["partition"]:
        for field, value in changed:
            where = f"config.optim.partition: of {pattern!r} {field}"
            if field not in rules:
                raise UserError(
                    f"{where}: a part takes no such field; {fields.hint_at(field, rules)}its fields: {', '.join(rules)}"
                )
            fields.check(where, value, rules[field])


def complete(stored: Mapping, path: pathlib.Path) -> ConfigDict:
    """Returns the config stored at `path` with the defaults of the fields that it lacks: what the code does without them.

    Raises UserError for what is not a config, and for fields that the code does not know.
    """
    if not isinstance(stored, Mapping) or not all(isinstance(stored.get(name), Mapping) for name in NAMED):
        raise UserError(
            f"{path} does not hold the config of a run; restore it from a backup or choose another --workdir"
        )
    values = dict(stored)
    sections = {name: values.pop(name, {}) for name in NAMED}
    unknown = fields.find_unknown(values, Common)
    for name, rule in NAMED.items():
        unknown += fields.find_unknown(sections[name], rule, f"{name}.")
    if unknown:
        others = f" and {len(unknown) - 5} more" if unknown[5:] else ""
        raise UserError(
            f"{path} is of another version of this code, whose fields {', '.join(unknown[:5])}{others} this one does not "
            "know; go on with that version (evidence.json has its commit), or start a new run with config.init_from"
        )
    named = {name: fields.fill(sections[name], rule) for name, rule in NAMED.items()}
    try:
        return ConfigDict(fields.fill(values, Common) | named)
    except ValueError as error:  # a name with a dot, where a field should have a value
        raise UserError(f"{path} does not hold the config of a run ({error}); restore it from a backup") from None
