"""Counts what reads a value from the device: there a GPU's queue runs empty."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CALLS = (
    "item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__",
    "__contains__", "is_nonzero", "equal", "allclose", "nonzero", "argwhere", "unique",
    "masked_select", "bincount",
)  # fmt: skip
"""From Python. Some of these reach no operation that torch could be asked to report."""

OPERATIONS = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select")
"""Inside of others, in C++."""


class Reads(TorchFunctionMode):
    """While it is on, `found` counts reads by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.within = 0
        self._inside = _Inside(self)

    def __enter__(self) -> Any:
        self._inside.__enter__()
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self._inside.__exit__(*args)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        read = name in CALLS or (name == "to" and "cpu" in [a for a in args if isinstance(a, str)])
        if read and not self.within:
            self.found[name] += 1
        self.within += read  # what it does inside is the same read
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.within -= read

    @property
    def total(self) -> int:
        """All reads."""
        return sum(self.found.values())


class _Inside(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if not self.reads.within:
            if name in OPERATIONS:
                self.reads.found[name] += 1
            elif name in ("index", "index_put", "index_put_"):
                masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype == torch.bool]
                self.reads.found[f"{name} by a mask"] += bool(masks)
        return func(*args, **(kwargs or {}))
