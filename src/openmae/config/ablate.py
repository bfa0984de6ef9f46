"""Settings of `openmae ablate`, and what it shares with `openmae compare`: a grid of runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from openmae.config.base import setting
from openmae.config.pretrain import PretrainConfig
from openmae.config.training import seconds
from openmae.errors import did_you_mean

STUDY, SCORES = "Run", "Evaluation"
SCORE_KINDS = ("probe", "knn", "finetune")
SLURM = (
    "time", "partition", "account", "qos", "constraint", "gres", "mem", "exclude", "nodelist",
    "cpus_per_task", "gpus_per_node",
)  # fmt: skip
"""Of one job, as sbatch names them."""

BUDGETS = ("steps", "images", "minutes")
PRESETS = (
    "table1a", "table1b", "table1c", "table1d", "table1e", "table1f", "table2", "fig5", "fig7",
    "fig9", "patch_size", "scale", "transfer", "stability",
)  # fmt: skip
PresetName = Literal[
    "table1a", "table1b", "table1c", "table1d", "table1e", "table1f", "table2", "fig5", "fig7",
    "fig9", "patch_size", "scale", "transfer", "stability",
]  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What a cell may spend on pretraining: steps, images or minutes."""

    unit: str
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:,g} {self.unit}"


@dataclass(frozen=True)
class Varied:
    """A setting and its values, as typed."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """A way to score a run, and the labelled images where they are not the grid's own."""

    kind: str
    data: str | None


class GridOptions(PretrainConfig):
    """A grid: runs of several settings and seeds, each pretrained and scored."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("epochs", "steps", "budget"),)

    seeds: int = setting(3, "runs of each setting, from seed on", STUDY, "free", ge=1, le=99)
    budget: str | None = setting(
        None, "of each run: steps=4000, images=100000 or minutes=5", STUDY, "free"
    )
    score: tuple[str, ...] = setting(
        ("probe",), "probe, knn or finetune; on other images probe:LABELLED", SCORES, "free"
    )
    score_args: tuple[str, ...] = setting(
        (), "settings of scores: finetune.epochs=20 probe.pool=cls", SCORES, "free"
    )
    jobs: int | None = setting(
        None, "runs at a time; by default one, or one a GPU", STUDY, "free", ge=1, le=64
    )
    slurm: tuple[str, ...] = setting(
        (), "runs are jobs of a SLURM cluster: time=2h partition=gpu account=lab", STUDY, "free"
    )
    keep_checkpoints: bool = setting(
        False, "of finished runs, whose encoders are kept anyway", STUDY, "free"
    )

    @field_validator("budget")
    @classmethod
    def _budget(cls, text: str | None) -> str | None:
        if text is not None:
            parse_budget(text)
        return text

    @field_validator("score")
    @classmethod
    def _scores(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            parse_score(word)
        if not words:
            raise ValueError("should be probe, knn or finetune")
        return words

    @field_validator("score_args")
    @classmethod
    def _score_args(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            parse_score_arg(word)
        return words

    @field_validator("slurm")
    @classmethod
    def _slurm(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        parse_slurm(words)
        return words

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.gpus or 1) > 1:
            yield "gpus", ": each run of a grid has one process. Use jobs"
        if len(set(self.score)) < len(self.score):
            yield "score", ": the same one twice"
        for word in self.score_args:
            kind = word.partition(".")[0]
            if kind not in {parse_score(s).kind for s in self.score}:
                yield "score_args", f": {word} is of a score that is not asked for. Add it to score"
        yield from super().problems()

    def pretraining(self) -> dict[str, Any]:
        """What was given of the settings of `pretrain`, without what a grid decides itself."""
        own = set(GridOptions.model_fields) - set(PretrainConfig.model_fields)
        names = self.model_fields_set & set(PretrainConfig.model_fields) - own
        return {n: getattr(self, n) for n in names if n not in ("data", "out", "seed", "gpus")}


class AblateConfig(GridOptions):
    """Pretrain and score every combination of settings, with several seeds: a table that says
    which differences are more than chance. All settings of pretrain are those of every run.
    """

    preset: PresetName | None = setting(
        None, "an ablation of the paper at CPU size: table1a ... table1f, fig5", STUDY, "free"
    )
    paper: bool = setting(False, "the preset's setting in the paper, for clusters", STUDY, "free")
    vary: tuple[str, ...] = setting(
        (), "NAME=A,B,C of a setting; of several all combinations", STUDY, "free"
    )

    @field_validator("vary")
    @classmethod
    def _vary(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            parse_vary(word)
        return words

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.vary and self.preset is None:
            yield "vary", ": nothing to vary. Give --vary mask_ratio=0.5,0.75,0.9, or --preset fig5"
        if self.paper and self.preset is None:
            yield "paper", " is about a preset. Add --preset, or drop it"
        names = [parse_vary(word).name for word in self.vary]
        if len(set(names)) < len(names):
            yield "vary", ": the same setting twice"
        yield from super().problems()


def parse_budget(text: str) -> Budget:
    """ "steps=4000", "images=1e5" or "minutes=1.5"; "4000 steps" too.

    Raises:
        ValueError: no such budget.
    """
    found = re.fullmatch(r"(steps|images|minutes)[=: ](\d[\d_.e+]*)", text.strip())
    other = re.fullmatch(r"(\d[\d_.e+]*) ?(steps|images|minutes)", text.strip())
    unit, number = found.groups() if found else other.groups()[::-1] if other else ("", "")
    try:
        amount = float(number)
    except ValueError:
        amount = 0.0
    if not 0 < amount < 1e15 or (unit != "minutes" and amount % 1):
        raise ValueError("should be steps=4000, images=100000 or minutes=5")
    return Budget(unit, amount)


def parse_vary(text: str) -> Varied:
    """ "mask_ratio=0.5,0.75" -> the setting and its values.

    Raises:
        ValueError: not of that form, or a value twice.
    """
    name, mark, rest = text.partition("=")
    values = tuple(v.strip() for v in rest.split(","))
    name = name.strip().lstrip("-").replace("-", "_")
    if not mark or not name or not all(values):
        raise ValueError("should be NAME=A,B,C, such as mask_ratio=0.5,0.75,0.9")
    if len(set(values)) < len(values):
        raise ValueError("has the same value twice")
    return Varied(name, values)


def parse_score(text: str) -> Score:
    """ "probe" or "probe:labelled/".

    Raises:
        ValueError: no such score.
    """
    kind, mark, data = text.partition(":")
    if kind not in SCORE_KINDS or (mark and not data):
        raise ValueError("should be probe, knn or finetune, or with images: probe:LABELLED")
    return Score(kind, data or None)


def parse_score_arg(text: str) -> tuple[str, str, str]:
    """ "finetune.epochs=20" -> (kind, setting, value).

    Raises:
        ValueError: not of that form.
    """
    found = re.fullmatch(r"(probe|knn|finetune)\.([a-z_0-9-]+)=(.+)", text)
    if not found:
        raise ValueError("should be SCORE.NAME=VALUE, such as finetune.epochs=20")
    return found[1], found[2].replace("-", "_"), found[3]


def parse_slurm(words: Iterable[str]) -> dict[str, str]:
    """ "time=2h" and others -> name: value.

    Raises:
        ValueError: not of that form, or an unknown name.
    """
    found: dict[str, str] = {}
    for word in words:
        name, mark, value = word.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not mark or not value or name in found:
            raise ValueError("should be NAME=VALUE, each once, such as time=2h partition=gpu")
        if name not in SLURM:
            near = did_you_mean(name, SLURM)
            hint = f"did you mean {near[0]}" if near else f"known: {', '.join(SLURM)}"
            raise ValueError(f"{name} is no option of a job here; {hint}")
        if name == "time":
            seconds(value)
        if name in ("cpus_per_task", "gpus_per_node") and not value.isdigit():
            raise ValueError(f"{name} should be a count")
        found[name] = value
    return found
