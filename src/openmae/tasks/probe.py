"""`openmae probe`: a linear layer on frozen features."""

from __future__ import annotations

from openmae.config.base import Options
from openmae.config.evaluate import ProbeConfig
from openmae.engine.features import Features
from openmae.engine.runfolder import Results
from openmae.tasks.reading import score
from openmae.tasks.scoring import linear_probe


def run(config: ProbeConfig, options: Options) -> Results:
    """Linear-probe accuracy, with its interval and baselines."""

    def evaluate(train: Features, test: Features) -> float:
        return linear_probe(train, test, config.l2).accuracy

    tried = (
        "given" if config.l2 and len(config.l2) == 1 else "chosen on a tenth of the training images"
    )
    saying = f"BatchNorm without affine + linear layer, L2 {tried}"
    return score(config, "probe", evaluate, saying, options.dry_run)
