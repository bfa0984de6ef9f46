"""`openmae knn`: frozen features scored by k nearest neighbours."""

from __future__ import annotations

from openmae.config.base import Options
from openmae.config.evaluate import KnnConfig
from openmae.engine.features import Features
from openmae.engine.runfolder import Results
from openmae.tasks.reading import score
from openmae.tasks.scoring import knn_accuracy


def run(config: KnnConfig, options: Options) -> Results:
    """k-NN accuracy, with its interval and baselines; of several k the first is the result."""

    def evaluate(train: Features, test: Features) -> dict[str, float]:
        found = {k: knn_accuracy(train, test, k, config.temperature) for k in config.k}
        others = {f"accuracy_k{k}": found[k] for k in config.k[1:]}
        return {"accuracy": found[config.k[0]], **others}

    ks = " and ".join(map(str, config.k))
    about = {"k": config.k[0], "temperature": config.temperature, "metric": "cosine"}
    saying = f"{ks}-NN by cosine, votes exp(similarity / {config.temperature:g})"
    return score(config, "knn", evaluate, saying, options.dry_run, about=about)
