"""How attention is computed: torch's fused kernels by name, or plain matrix products.

Every backend is the same function, softmax(q k^T / sqrt(d)) v, summed in another order. Which one
is fastest depends on length, head dim and hardware, so a run chooses (`openmae.tasks.attention`)
and keeps its choice; a model that nobody told otherwise uses torch's own.

B batch, H heads, M queries, N keys, d head dim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
BACKENDS = ("sdpa", "eager", *KERNELS)
"""sdpa: what torch picks; eager: matrix products and a softmax; the rest: that kernel."""


class Place(NamedTuple):
    """What one attention computes: B for each image of the batch, H, M, N, d."""

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int


def kernel(backend: str, strict: bool = False) -> AbstractContextManager[Any]:
    """The context in which torch's attention is that kernel; nothing for "sdpa" and "eager".

    What the kernel cannot do, such as single precision on a GPU when pictures are made, another one
    does, unless `strict`. A compiled block keeps the kernel that it was traced under and has no
    guard on it, so a model has one choice from its first step on.
    """
    if backend not in KERNELS:
        return nullcontext()
    if strict or backend == "math":
        return sdpa_kernel(KERNELS[backend])
    others = [KERNELS[name] for name in ("flash", "efficient", "math") if name != backend]
    return sdpa_kernel([KERNELS[backend], *others], set_priority=True)


def attend(q: Tensor, k: Tensor, v: Tensor, backend: str = "sdpa", strict: bool = False) -> Tensor:
    """q (B, H, M, d), k and v (B, H, N, d) -> (B, H, M, d); no mask, no dropout.

    Raises:
        RuntimeError: with `strict`, torch does not have this kernel for such tensors.
    """
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v)
    if backend == "eager":  # as timm's: the scale goes to q, the smallest of what it could go to
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    with kernel(backend, strict):
        return F.scaled_dot_product_attention(q, k, v)


def use(method: nn.Module, choices: Mapping[str, str]) -> None:
    """Tell every attention of a model its backend: that of the longest name in `choices` which its
    own name begins with, such as "decoder.blocks" or "decoder.blocks.7". Others keep theirs.
    """
    for name, module in _attentions(method).items():
        known = [part for part in choices if f"{name}.".startswith(f"{part}.")]
        if known:
            backend = choices[max(known, key=len)]
            if hasattr(module, "fused_attn"):
                module.fused_attn = backend != "eager"  # type: ignore[assignment]
            else:
                module.backend = backend  # type: ignore[assignment]
    encoder = getattr(method, "encoder", None)
    if encoder is not None and "encoder" in choices:
        encoder.attention = choices["encoder"]  # timm's attention has no place for a kernel


def places(method: nn.Module, images: int, forward: Callable[[], Any]) -> dict[str, Place]:
    """Where a model attends when `forward` runs it on so many images, by the name that `use` knows:
    one for the encoder, one for the decoder's blocks, one more for each of them that differs.

    It is meant for the meta device, where a forward computes nothing.
    """
    found: dict[str, Place] = {}
    now: list[str] = []
    modules = _attentions(method)
    hooks = [
        module.register_forward_pre_hook(partial(_note, now, name))
        for name, module in modules.items()
    ]
    try:
        with _Watch(images, now, found):
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    grouped: dict[str, Place] = {}
    for part in dict.fromkeys(_group(name) for name in found):
        own = {name: place for name, place in found.items() if _group(name) == part}
        usual = Counter(own.values()).most_common(1)[0][0]
        grouped[part] = usual
        more = {n.removesuffix(".attn"): p for n, p in own.items() if p != usual}
        grouped |= {} if part == "encoder" else more
    return grouped


def _group(name: str) -> str:
    return "encoder" if name.startswith("encoder.") else name.rsplit(".", 2)[0]


def _attentions(method: nn.Module) -> dict[str, nn.Module]:
    """timm's attention modules and ours, by name."""
    return {
        name: module
        for name, module in method.named_modules()
        if hasattr(module, "fused_attn") or isinstance(getattr(module, "backend", None), str)
    }


def _note(now: list[str], name: str, *_: object) -> None:
    now[:] = [name]


class _Watch(TorchFunctionMode):
    """Writes down the shapes of the last attention of each module."""

    def __init__(self, images: int, now: list[str], found: dict[str, Place]) -> None:
        super().__init__()
        self.images, self.now, self.found = images, now, found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and self.now:
            (batch, heads, queries, dim), keys = args[0].shape, args[1].shape[2]
            self.found[self.now[0]] = Place(batch // self.images, heads, queries, keys, dim)
        return func(*args, **(kwargs or {}))
