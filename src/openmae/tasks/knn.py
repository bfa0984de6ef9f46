"""`openmae knn`: frozen features scored by k nearest neighbours."""

from __future__ import annotations

from functools import partial

from openmae.config.base import Options
from openmae.config.evaluate import KnnConfig
from openmae.engine.runfolder import Results
from openmae.tasks.reading import score
from openmae.tasks.scoring import knn_accuracy


def run(config: KnnConfig, options: Options) -> Results:
    """k-NN accuracy, with its interval and baselines."""
    evaluate = partial(knn_accuracy, k=config.k, temperature=config.temperature)
    return score(
        config,
        "knn",
        evaluate,
        f"{config.k}-NN by cosine, votes exp(similarity / {config.temperature:g})",
        options.dry_run,
    )
