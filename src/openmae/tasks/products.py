"""How a run multiplies its linear layers: a rule and no measurement, so that the same command gives
the same bits. The choice is part of `resolved`, and a run that goes on keeps it to the letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from openmae.config.training import TrainingConfig
from openmae.engine.device import cpu_name
from openmae.errors import UsageError
from openmae.models.products import exists


def resolve_products(config: TrainingConfig, resolved: Mapping[str, Any]) -> str:
    """A name of `openmae.models.products.PRODUCTS`, for the device and precision of a run.

    Raises:
        UsageError: the one that was asked for cannot be used here.
    """
    kind, precision = torch.device(resolved["device"]).type, resolved["precision"]
    if config.products == "auto":
        return by_rule(kind, precision, cpu_name())
    if config.products == "onednn" and not _possible(kind, precision):
        if exists():
            where = f"is for single precision on a CPU, not {precision} on {resolved['device']}"
        else:
            where = f"torch {torch.__version__} was built without it"
        raise UsageError(f"--products onednn: {where}. Use auto or torch")
    return config.products


def by_rule(device_type: str, precision: str, processor: str) -> str:
    """oneDNN where it is the faster one: single precision on processors of AMD, for which MKL's
    kernels, which torch uses, are not made.
    """
    return "onednn" if "AMD" in processor and _possible(device_type, precision) else "torch"


def _possible(device_type: str, precision: str) -> bool:
    return device_type == "cpu" and precision == "fp32" and exists()
