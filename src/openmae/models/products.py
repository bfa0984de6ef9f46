"""How linear layers are multiplied on a CPU: as torch does, by MKL, or by oneDNN.

Both are the same function, x W^T + b, summed in another order. On AMD processors oneDNN is the
faster one in single precision, so a run chooses (`openmae.tasks.products`) and keeps its choice; a
model that nobody told otherwise uses torch's own.

M rows, D width of the input, O width of the output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRODUCTS = ("torch", "onednn")
LEAST = 50_000_000
"""Multiplications M * D * O below which a product is torch's: the way to oneDNN costs more there
than it saves.
"""


def exists() -> bool:
    """Whether this torch has oneDNN's linear layer for plain tensors on a CPU."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, products: str = "torch") -> Tensor:
    """x (..., D), weight (O, D), bias (O,) or None -> (..., O), with gradients.

    With "onednn", what is not a large product of plain single-precision tensors on a CPU is torch's
    all the same: other devices and types, autocast, shards that FSDP2 has not put together.
    """
    if products != "onednn" or not _fits(x, weight, bias):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor = torch.ops.openmae.linear(rows, weight, bias)
    return out.unflatten(0, x.shape[:-1])


def use(method: nn.Module, products: str) -> None:
    """Tell every linear layer of a model, timm's and ours, how it is multiplied. Modules, their
    names and their hooks stay as they are. Where there is no oneDNN, all is torch's.
    """
    products = products if exists() else "torch"
    for module in method.modules():
        if type(module) in (nn.Linear, OneDNNLinear):
            module.__class__ = OneDNNLinear if products == "onednn" else nn.Linear
        elif hasattr(module, "products"):  # multiplies by weights, or parts of them, itself
            module.products = products  # type: ignore[assignment]


class OneDNNLinear(nn.Linear):
    """What a linear layer becomes by `use`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., O)."""
        return multiply(x, self.weight, self.bias, "onednn")


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    return (
        x.dim() > 1
        and x.numel() * weight.shape[0] >= LEAST
        and all(_is_plain(tensor) for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
    )


# An operation of its own: torch has no gradient for oneDNN's, and a compiled block takes it as one.


@torch.library.custom_op(
    "openmae::linear",
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor? bias) -> Tensor",
)
def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows (M, D), weight (O, D) in any layout, bias (O,) -> (M, O)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return out


@_linear.register_fake
def _shape(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    rows, weight, _ = inputs
    of_rows, of_weight = ctx.needs_input_grad[:2]
    ctx.save_for_backward(rows if of_weight else None, weight if of_rows else None)


def _gradients(ctx: Any, out: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    rows, weight = ctx.saved_tensors
    of_rows = None if weight is None else _linear(out, weight.t(), None)
    of_weight = None if rows is None else _of_weight(out, rows)
    return of_rows, of_weight, out.sum(0) if ctx.needs_input_grad[2] else None


def _of_weight(out: Tensor, rows: Tensor) -> Tensor:
    """out (M, O), rows (M, D) -> (O, D). oneDNN needs a copy of `out` with M last, which pays only
    where that is the narrower of the two; else the product is torch's.
    """
    if out.shape[1] < rows.shape[1]:
        return _linear(out.t(), rows.t(), None)
    return out.t() @ rows


_linear.register_autograd(_gradients, setup_context=_keep)
