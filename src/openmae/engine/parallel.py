"""How a method is made to run on the hardware: compile each block, in place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def parallelize(method: nn.Module, compile_blocks: bool) -> nn.Module:
    """Compile the units that `method.blocks()` names, in place, so that names and hooks stay as
    they are.

    A graph is for one shape, and a break in it is an error. With torch's default a second batch
    size would make a graph for every size, which is slower, takes over the first size as well, and
    would let a run that goes on differ in bits from one that was never stopped.
    """
    if compile_blocks:
        blocks = method.blocks()  # type: ignore[operator]
        # Blocks share their code, and may differ in mode or drop path: each may need its own graph,
        # and one more for each further image size.
        limit, sizes = torch._dynamo.config.recompile_limit, 1 + len(getattr(method, "sizes", ()))
        torch._dynamo.config.recompile_limit = max(limit, 8 + 2 * len(blocks) * sizes)
        for block in blocks:
            block.compile(fullgraph=True, dynamic=False)
    return method


def uncompiled(method: nn.Module) -> AbstractContextManager[Any]:
    """Run compiled blocks as they are written: what is measured on the way has other shapes, and
    compiling each of them would take longer than it saves.
    """
    blocks: list[nn.Module] = getattr(method, "blocks", list)()
    compiled = any(block._compiled_call_impl is not None for block in blocks)
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
