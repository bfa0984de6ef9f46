"""What one training step costs, without a clock: operations, arithmetic, bytes of new memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "openmae::linear"),
    "fused attention": ("_scaled_dot_product_flash_attention_for_cpu",),
    "softmax": ("_softmax", "_safe_softmax"),
    "LayerNorm": ("native_layer_norm",),
    "GELU": ("gelu",),
    "row lookups": ("embedding", "index_select", "gather", "index"),
    "sorts": ("sort", "argsort"),
    "put together": ("cat", "stack"),
    "copies": ("copy_", "clone", "_to_copy", "contiguous"),
    "optimiser": ("_fused_adamw_",),
}
"""Operations that are counted, by what they are for; how torch calls them may change."""


class Costs(TorchDispatchMode):
    """While it is on: `count` of operations by group, `bytes` of tensors that operations made, and
    `moved`, the bytes of what is put together or copied."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.bytes = self.moved = 0
        self._group = {name: group for group, names in GROUPS.items() for name in names}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        out = func(*args, **(kwargs or {}))
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = {_storage(t): t for t in tree_leaves(out) if isinstance(t, Tensor)}
        new = sum(t.untyped_storage().nbytes() for s, t in made.items() if s not in given)
        self.bytes += new
        if (group := self._group.get(name)) is not None:
            self.count[group] += 1
        if group == "put together":
            self.moved += new
        elif group == "copies":
            first = next(t for t in tree_leaves(out) if isinstance(t, Tensor))
            self.moved += first.numel() * first.element_size()
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def of_step(step: Callable[[], None]) -> dict[str, int]:
    """Costs of one call: operations by group, "FLOPs" of matrix products and convolutions, "bytes"
    and "moved bytes".
    """
    with Costs() as costs:
        step()
    with FlopCounterMode(display=False) as flops:
        step()
    total = flops.get_total_flops()
    counts = {group: costs.count[group] for group in GROUPS}
    return counts | {"FLOPs": total, "bytes": costs.bytes, "moved bytes": costs.moved}
