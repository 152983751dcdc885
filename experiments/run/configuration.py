"""One check of a whole config before anything is made, and the completion of an older one."""

from ml_collections import ConfigDict

import fields
from configs.common import Common, Optim
from errors import UserError
from experiments.tasks.registry import TASK
from models.registry import MODEL

NAMED = {"model": MODEL, "task": TASK}  # the sections whose fields depend on a name


def check(config: ConfigDict) -> None:
    """Raises UserError, in one line that names the field, unless each field of the config follows its rule."""
    values = config.to_dict()
    sections = {name: values.pop(name, {}) for name in NAMED}
    fields.check("config", values, Common)
    for name, rule in NAMED.items():
        fields.check(f"config.{name}", sections[name], rule)
    rules = fields.fields_of(Optim)
    for pattern, changed in values["optim"]["partition"]:
        for field, value in changed:
            if field in rules:
                fields.check(f"config.optim.partition: of {pattern!r} {field}", value, rules[field][0])


def complete(stored: ConfigDict) -> ConfigDict:
    """Returns a stored config with the defaults of the fields that it lacks: what today's code does if they are not set.

    Raises UserError for fields that today's code does not know.
    """
    values = stored.to_dict()
    sections = {name: values.pop(name, {}) for name in NAMED}
    unknown = fields.find_unknown(values, Common)
    for name, rule in NAMED.items():
        unknown += fields.find_unknown(sections[name], rule, f"{name}.")
    if unknown:
        others = f" and {len(unknown) - 5} more" if unknown[5:] else ""
        raise UserError(
            f"config.json is of an older version of this code, whose fields {', '.join(unknown[:5])}{others} are not known "
            "now; go on with that version (the commit is in evidence.json), or start a new run with config.init_from"
        )
    named = {name: fields.fill(sections[name], rule) for name, rule in NAMED.items()}
    return ConfigDict(fields.fill(values, Common) | named)
