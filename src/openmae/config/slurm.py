"""Settings of `openmae slurm`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from pydantic import field_validator, model_validator

from openmae.config.base import Settings, setting

JOB, RUN = "Run", "Run"
_PLAIN = re.compile(r"[\w.,@:+/%=-]+")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_LEAST = 30


class SlurmConfig(Settings):
    """Write the script of a SLURM job that trains on one or many nodes, saves before its time is
    up and queues itself again until the run is done. The command comes last, behind --
    """

    command: tuple[str, ...] = setting(
        ..., "behind --: pretrain DATA --out runs/x ..., as it would be typed", JOB, "free",
        positional=True,
    )  # fmt: skip
    out: str = setting("job.sh", "script to write", RUN, "free", short="-o")
    nodes: int = setting(1, "machines", JOB, "free", ge=1, le=10_000)
    gpus_per_node: int = setting(
        1, "ranks of a node, a GPU each; 0: one rank on the CPU", JOB, "free", ge=0, le=64
    )
    time: str = setting("24:00:00", "limit of one job, as SLURM writes it", JOB, "free")
    grace: int = setting(
        120, "seconds before that limit at which the run saves and stops", JOB, "free", ge=_LEAST
    )
    cpus_per_gpu: int | None = setting(
        None, "cores of each rank; the cluster's own number by default", JOB, "free", ge=1, le=1024
    )
    partition: str | None = setting(None, "of the cluster", JOB, "free")
    account: str | None = setting(None, "that pays", JOB, "free")
    job_name: str | None = setting(None, "the run folder's by default", JOB, "free")
    array: str | None = setting(
        None, "one job for each number, such as 0-4; %a in the command is the number", JOB, "free"
    )
    conda: str | None = setting(None, "environment to activate: name or folder", JOB, "free")
    venv: str | None = setting(None, "folder of an environment to activate, instead", JOB, "free")
    requeue: bool = setting(True, "queue again until the run is done", JOB, "free")
    max_restarts: int = setting(
        3, "times that torchrun starts all ranks again inside a job", JOB, "free", ge=0, le=1000
    )
    sbatch: tuple[str, ...] = setting(
        (), "further options of sbatch: qos=high constraint=a100 mem=0", JOB, "free"
    )

    one_of = (("conda", "venv"),)

    @model_validator(mode="before")
    @classmethod
    def _one_text(cls, values: Any) -> Any:
        """The command as one quoted text is split as a shell would."""
        command = values.get("command")
        words = [command] if isinstance(command, str) else list(command or ())
        if len(words) == 1 and isinstance(words[0], str) and " " in words[0]:
            try:
                return {**values, "command": shlex.split(words[0])}
            except ValueError as error:
                raise ValueError(f"the command cannot be split: {error}") from None
        return values

    @field_validator("command")
    @classmethod
    def _not_empty(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        words = words[1:] if words[:1] == ("openmae",) else words
        if not words:
            raise ValueError("is missing: openmae slurm -o job.sh -- pretrain DATA --out runs/x")
        if any("\n" in w or "\0" in w for w in words):
            raise ValueError("must be on one line")
        return words

    @field_validator("time")
    @classmethod
    def _limit(cls, text: str) -> str:
        time_limit(text)
        return text

    @field_validator("partition", "account", "job_name", "array")
    @classmethod
    def _word(cls, text: str | None) -> str | None:
        if text is not None and not _PLAIN.fullmatch(text):
            raise ValueError("should be one word of letters, digits and .,@:+/%=-")
        return text

    @field_validator("sbatch")
    @classmethod
    def _options(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(word.removeprefix("--") for word in words)
        for word in found:
            if not re.fullmatch(r"[a-z][a-z-]*(=[\w.,@:+/%=*&|\[\]-]+)?", word):
                raise ValueError(f"{word[:60]!r} should be NAME=VALUE, such as qos=high")
        return found

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.array is not None and not re.fullmatch(
            r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?", self.array
        ):
            yield "array", ": should be numbers such as 0-4, 1,3,5 or 0-99%8"
        if time_limit(self.time) < 2 * self.grace:
            yield "time", f" is too short to stop {self.grace} s before it. A longer time"
        for name in ("conda", "venv", "out"):
            if "\n" in (getattr(self, name) or "") or getattr(self, name) == "":
                yield name, ": should be a name or a path"

    @property
    def ranks_per_node(self) -> int:
        """Processes of a node."""
        return max(1, self.gpus_per_node)

    @property
    def first_of_array(self) -> str:
        """The first number of the array, which stands for the others where words are checked."""
        found = re.match(r"\d+", self.array or "0")
        return found[0] if found else "0"


def time_limit(text: str) -> int:
    """Seconds of a SLURM time: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: it is none.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError("should be a time of SLURM: 24:00:00, 90 (minutes) or 2-12:00:00")
    days, *rest = (int(part) if part else None for part in found.groups())
    parts = [part for part in rest if part is not None]
    if days is not None or len(parts) == 3:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = 0, parts[0], (parts[1] if len(parts) == 2 else 0)
    return (days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds
