"""Settings of `openmae compare`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import field_validator

from openmae.config.ablate import SCORES, STUDY, GridOptions
from openmae.config.base import setting
from openmae.config.training import DATA


class CompareConfig(GridOptions):
    """Compare methods on the same encoder, data, budget and scores, with several seeds; or runs
    that are there already. All settings of pretrain are those of every method.
    """

    data: str = setting(
        ..., "images for the methods; without methods the first run folder", DATA, "allow",
        positional=True,
    )  # fmt: skip
    runs: tuple[str, ...] = setting(
        (), "further run folders, to compare runs that are there", STUDY, "free", positional=True
    )
    methods: tuple[str, ...] = setting(
        (), "to pretrain: mae simclr, or each with its recipe: simclr=cifar10-simclr", SCORES,
        "free",
    )  # fmt: skip
    family: str | None = setting(
        None, "recipes NAME for mae and NAME-METHOD for others, such as cifar10", SCORES, "free"
    )

    @field_validator("methods")
    @classmethod
    def _methods(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            parse_method(word)
        if len({parse_method(word)[0] for word in words}) < len(words):
            raise ValueError("has the same method twice")
        return words

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.methods and self.runs:
            yield "methods", ": these are pretrained on one folder of images. Drop the others"
        if not self.methods and not self.runs:
            yield "methods", ": nothing to compare. Give --methods mae simclr, or several runs"
        if self.family and not self.methods:
            yield "family", " is about methods. Add --methods, or drop it"
        yield from super().problems()


def parse_method(text: str) -> tuple[str, str | None]:
    """ "simclr" or "simclr=RECIPE" -> (method, recipe).

    Raises:
        ValueError: neither.
    """
    name, mark, recipe = text.partition("=")
    if not name or (mark and not recipe):
        raise ValueError("should be METHOD or METHOD=RECIPE, such as simclr=cifar10-simclr")
    return name, recipe or None
