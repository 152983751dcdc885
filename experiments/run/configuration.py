"""The check of a whole config before anything is built, and the completion of an older config."""

import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

import fields
from configs.common import Common, Optim
from errors import UserError
from experiments.tasks.registry import TASK, check_pair
from models.registry import MODEL

WHOLE = ("partition", "lr_multipliers", "freeze", "ema", "accumulate")  # fields of config.optim that parts do not have
NAMED = {"model": MODEL, "task": TASK}  # the sections whose fields depend on a name


def check(config: ConfigDict) -> None:
    """Raise UserError if a field of the config breaks its rule. The error is one line that names the field."""
    values = config.to_dict()
    sections = {name: values.pop(name, {}) for name in NAMED}
    fields.check("config", values, Common)
    task, model = (own.get("name") if isinstance(own := sections[name], Mapping) else "" for name in ("task", "model"))
    if task and model and isinstance(task, str) and isinstance(model, str):
        check_pair(task, model)  # before their fields: with the wrong name all fields are unknown
    for name, rule in NAMED.items():
        fields.check(f"config.{name}", sections[name], rule)
    rules = {field: rule for field, (rule, _) in fields.fields_of(Optim).items() if field not in WHOLE}
    for pattern, changed in values["optim"]["partition"]:
        for field, value in changed:
            where = f"config.optim.partition, {pattern!r}: {field}"
            if field not in rules:
                raise UserError(
                    f"{where} is not a field of a part; {fields.hint_at(field, rules)}choose one of {', '.join(rules)}"
                )
            fields.check(where, value, rules[field])


def complete(stored: Mapping, path: pathlib.Path) -> ConfigDict:
    """Return the config stored at `path`, with defaults for the fields that it lacks.

    A default reproduces what the code did before the field existed. Raises UserError if `stored` is not a config or has
    fields that the code does not know.
    """
    if not isinstance(stored, Mapping) or not all(isinstance(stored.get(name), Mapping) for name in NAMED):
        raise UserError(
            f"{path} does not contain the config of a run; restore it from a backup, or choose another --workdir"
        )
    values = dict(stored)
    sections = {name: values.pop(name, {}) for name in NAMED}
    unknown = fields.find_unknown(values, Common)
    for name, rule in NAMED.items():
        unknown += fields.find_unknown(sections[name], rule, f"{name}.")
    if unknown:
        others = f" and {len(unknown) - 5} more" if unknown[5:] else ""
        raise UserError(
            f"{path} comes from another version of this code: it has the unknown fields {', '.join(unknown[:5])}{others}; use "
            "that version (evidence.json names its commit), or start a new run with config.init_from"
        )
    named = {name: fields.fill(sections[name], rule) for name, rule in NAMED.items()}
    try:
        return ConfigDict(fields.fill(values, Common) | named)
    except ValueError as error:  # a name contains a dot
        raise UserError(f"{path} does not contain the config of a run ({error}); restore it from a backup") from None
