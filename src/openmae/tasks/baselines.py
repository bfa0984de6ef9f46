"""What `--baseline` of fine-tuning, segmentation and detection adds: the same recipe again from
random weights, or with a frozen encoder, in folders inside the run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openmae.config.base import Options
from openmae.engine.log import say
from openmae.engine.runfolder import Results, RunFolder
from openmae.tasks.fromencoder import FromEncoder
from openmae.tasks.training import train_run


@dataclass(frozen=True)
class Twin:
    """A baseline: the setting that makes a run one, all that changes, and it in words."""

    name: str
    changes: dict[str, Any]
    words: str


RANDOM_WEIGHTS = Twin(
    "random_weights", {"random_weights": True, "layer_decay": 1.0}, "from random weights"
)
"""Without layer decay, as Table 11: it would only slow what is not pretrained."""

FROZEN = Twin("frozen", {"frozen": True}, "with a frozen encoder")


def train_with_baselines(
    kind: type[FromEncoder],
    config: Any,
    options: Options,
    twins: Sequence[Twin],
    measures: Sequence[str],
) -> Results:
    """Train, or continue a run; with `baseline`, then its twins. Their `measures` join the results
    of the run, with the name of the twin before them.
    """
    results = train_run(kind(), config, options)
    folder = results.folder
    if results.exit_code or folder is None or options.dry_run:
        return results
    saved = RunFolder(folder).read_config()
    resolved = saved.pop("resolved")
    saved.pop("task", None)
    if not (config.baseline or saved["baseline"]):
        return results
    both = Results(dict(results), folder)
    for twin in twins:
        if saved.get(twin.name):
            continue  # the run itself is this one
        where = folder / twin.name.replace("_", "-")
        say("")
        say("Baseline", f"the same recipe {twin.words}, in {where}")
        again = saved | twin.changes | {"baseline": False, "out": str(where)}
        settings = type(config).model_validate(again)
        found = train_run(kind(), settings, Options(recipe=resolved["recipe"]))
        if found.exit_code:
            return found
        both |= {f"{twin.name}_{key}": found[key] for key in measures if key in found}
        RunFolder(folder).write_json("results.json", both)
    return both
