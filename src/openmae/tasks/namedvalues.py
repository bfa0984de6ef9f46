"""NAME=VALUE words of a command line -> keyword arguments, by the type of their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openmae.errors import UsageError, no_argument

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def named_values(
    words: Sequence[str], own: Mapping[str, Any], option: str, what: str
) -> dict[str, Any]:
    """The values of words such as components=96; `own` are the names with their defaults.

    Raises:
        UsageError: a name that `what` does not have, or a value of the wrong kind.
    """
    return dict(_read(word, own, option, what) for word in words)


def _read(word: str, own: Mapping[str, Any], option: str, what: str) -> tuple[str, Any]:
    name, _, text = word.partition("=")
    if name not in own:
        raise UsageError(f"{option} {word}: {no_argument(what, name, own)}")
    kind = type(own[name])
    try:
        if kind is bool:
            return name, {"true": True, "false": False}[text.lower()]
        return name, kind(text)
    except (ValueError, KeyError):
        raise UsageError(f"{option} {word}: should be {_KINDS.get(kind, kind.__name__)}") from None
