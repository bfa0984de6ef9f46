"""OpenMAE: masked-autoencoder pretraining of vision transformers, exact to the paper, on your own
images.

>>> import openmae
>>> run = openmae.pretrain(data="photos/", out="runs/photos")          # doctest: +SKIP
>>> model = openmae.load("runs/photos")                                # doctest: +SKIP

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from openmae.methods.mae import MAE
    from openmae.models.encoder import list_models
    from openmae.report.show import show
    from openmae.weights import load

_NAMES = {
    "MAE": "openmae.methods.mae",
    "load": "openmae.weights",
    "show": "openmae.report.show",
    "list_models": "openmae.models.encoder",  # the command `models`; openmae.models is a package
}
_COMMANDS = (
    "quickstart",
    "pretrain",
    "tokenize",
    "knn",
    "probe",
    "finetune",
    "evaluate",
    "predict",
    "detect",
    "detect_evaluate",
    "detect_predict",
    "segment",
    "segment_evaluate",
    "segment_predict",
    "embed",
    "reconstruct",
    "attention",
    "demo",
    "data_check",
    "inspect",
    "convert",
    "export",
    "pack",
    "ablate",
    "compare",
    "benchmark",
    "doctor",
    "slurm",
    "watch",
)
_RENAMED = {"write_report": "report"}  # openmae.report is a package

__all__ = ["MAE", "__version__", "list_models", "load", "show", *_COMMANDS, *_RENAMED]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _COMMANDS:
        return importlib.import_module("openmae.cli").python_call(name.replace("_", " "))
    if name in _RENAMED:
        return importlib.import_module("openmae.cli").python_call(_RENAMED[name])
    raise AttributeError(f"module 'openmae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
