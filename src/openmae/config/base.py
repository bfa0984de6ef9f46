"""Settings, recipes and arguments meet here: validated once, every message worded in one place.

Precedence: defaults < recipe < what was typed or passed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openmae.errors import UsageError, did_you_mean

Change = Literal["free", "allow", "fixed"]
"""What a continued run may do with a setting: change it, change it with --allow-change, or never.
"""

MOST_SEED = 2**63 - 1
"""What torch takes as a seed."""

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Options:
    """What belongs to the command and not to the run: never saved in config.yaml."""

    recipe: str | None = None
    dry_run: bool = False
    allow_change: tuple[str, ...] = ()
    ask: bool = False  # somebody may be there to answer
    spell: Callable[[str], str] = str
    typed: frozenset[str] = frozenset()
    """The settings that were given by themselves, and not by the recipe."""
    check: Callable[[list[str]], tuple[str, Settings]] | None = None
    """Of the words of another command: its task and settings, or the UsageError it would end in."""


def setting(
    default: Any,
    help: str,
    panel: str,
    change: Change,
    *,
    positional: bool = False,
    short: str = "",
    **more: Any,
) -> Any:
    """A field of a settings model: its default, one line of help, its panel there, and its class on
    resume.
    """
    extra: Any = {"panel": panel, "change": change, "positional": positional, "short": short}
    return Field(default, description=help, json_schema_extra=extra, **more)


class Settings(BaseModel):
    """Base of every task's settings: unknown keys are errors, nothing can be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of settings that replace each other, such as epochs and steps."""

    parts_of: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Settings of a recipe that mean nothing once this one is given another value."""

    @model_validator(mode="before")
    @classmethod
    def _words_to_values(cls, values: Any) -> Any:
        """Unwrap single words, read "none", and refuse true/false where a number is meant."""
        return {k: _plain_value(cls, k, v) for k, v in values.items()}

    @classmethod
    def reworded(
        cls, values: Mapping[str, Any], spell: Callable[[str], str], typed: bool
    ) -> dict[str, Any]:
        """What was typed, or stands in a recipe, where a word of one setting means another."""
        return dict(values)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Settings that do not fit together: (name, what is wrong and the fix)."""
        return iter(())

    def over(self: S, base: Mapping[str, Any], spell: Callable[[str], str] = str) -> S:
        """These settings on top of `base`: what was given here stays, the rest is from `base`."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return resolve(type(self), given, base, spell)


def _plain_value(model: type[Settings], name: str, value: Any) -> Any:
    field = model.model_fields.get(name)
    if field is None:
        return value
    annotation = str(field.annotation)
    many = "..." in annotation
    if isinstance(value, list) and len(value) == 1 and (not many or value[0] == "none"):
        value = value[0]
    if isinstance(value, (str, int, float)) and many and value != "none":
        value = [value]
    if isinstance(value, str) and value.lower() == "none" and "None" in annotation:
        return None
    if isinstance(value, bool) and "bool" not in annotation:
        raise ValueError(f"{name}: true/false is not a value here")
    return value


def resolve(
    model: type[S],
    given: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    spell: Callable[[str], str] = str,
    source: str = "",
) -> S:
    """Validate `given` on top of `base` (a recipe's keys). `spell` writes a name as the user would.

    Raises:
        UsageError: at most three lines, each naming a setting, its value and what it should be.
    """
    given = model.reworded(given, spell, typed=True)
    base = model.reworded(base or {}, spell, typed=False)
    replaced = {name for group in model.one_of if given.keys() & set(group) for name in group}
    for name, parts in model.parts_of.items():
        usual = model.model_fields[name].default
        if base and name in given and str(given[name]) != str(base.get(name, usual)):
            replaced |= set(parts)
    merged = {k: v for k, v in base.items() if k not in replaced} | given
    _known(model, merged, given, source)
    for group in model.one_of:
        both = [n for n in group if given.get(n) is not None and given[n] != "none"]
        if len(both) > 1:
            raise UsageError(f"{spell(both[0])} and {spell(both[1])} replace each other: give one")
    try:
        config = model.model_validate(merged)
    except ValidationError as error:
        raise UsageError(
            "\n".join(_plain(e, spell) for e in _distinct(error.errors())[:3])
        ) from None
    for name, problem in config.problems():
        raise UsageError(f"{spell(name)} {shown(getattr(config, name))}{problem}")
    return config


def _known(
    model: type[Settings], merged: Mapping[str, Any], given: Mapping[str, Any], source: str
) -> None:
    for name in merged:
        if name not in model.model_fields:
            where = "" if name in given or not source else f"{source}: "
            near = did_you_mean(name, model.model_fields)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"{where}{name} is not a setting of {task_name(model)}.{hint}")


def _distinct(errors: Iterable[Any]) -> list[Any]:
    """One error a setting: a union reports one for each of its members."""
    by_name: dict[Any, Any] = {}
    for error in errors:
        name = error["loc"][0] if error["loc"] else ""
        by_name.setdefault(name, error)
    return list(by_name.values())


def _plain(error: Any, spell: Callable[[str], str]) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{spell(name)} is missing"
    message = message.removeprefix("Input ")
    if error["type"] == "literal_error":
        near = did_you_mean(
            str(error["input"]), [w.strip("'") for w in error["ctx"]["expected"].split(" ")]
        )
        message += f". Did you mean {near[0].rstrip(',').strip(chr(39))}?" if near else ""
    return f"{spell(name)} {shown(error['input'])}: {message}".rstrip(".") + (
        "" if message.endswith("?") else "."
    )


def shown(value: Any) -> str:
    """A value as a user writes it."""
    if isinstance(value, (list, tuple)):
        return " ".join(shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def task_name(model: type[Settings]) -> str:
    """PretrainConfig -> pretrain, SegmentEvaluateConfig -> segment evaluate."""
    words = re.findall("[A-Z][a-z]*", model.__name__.removesuffix("Config"))
    return " ".join(words).lower()


def extra_of(model: type[Settings], name: str) -> dict[str, Any]:
    """What `setting` was told of a field: panel, change, positional, short."""
    extra = model.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra
